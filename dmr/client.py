"""The frontends' side of the wire: leases and commands of the manager, requests to an engine."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from dmr.channels import Channel, Channels, Inbox
from dmr.errors import DmrError, EngineCrashed, InternalError, Unavailable
from dmr.spare_connections import SpareConnections
from dmr.types import (
    ConfigurationChange,
    ConfiguredModel,
    ManagerStatistics,
    Mode,
    ModelRecord,
    Removal,
    Repackaging,
    RunningModel,
    TransferProgress,
)
from dmr.wire import (
    AcquireLease,
    AdoptModel,
    ConfigurationReset,
    Configured,
    ConfigureModel,
    Connection,
    Counted,
    CreateModel,
    EngineMessage,
    EngineMove,
    EngineMoved,
    EngineQuery,
    EngineReply,
    EngineRequest,
    Imported,
    ImportModel,
    LeaseGranted,
    ListRunning,
    ListStatistics,
    ManagerCommand,
    ManagerReply,
    Ping,
    Pong,
    PullModel,
    PurgeModels,
    PushModel,
    Removed,
    RemoveModel,
    RepackageModel,
    ResetConfiguration,
    Running,
    Tagged,
    TagModel,
    TransferDone,
    TransferStep,
    Unloaded,
    UnloadModels,
    WireError,
    engine_message_decoder,
    engine_moving_decoder,
    engine_reply_decoder,
    manager_reply_decoder,
)

POST_MORTEM_TIMEOUT = 2.0  # seconds in which a manager tells why an engine is gone
PING_TIMEOUT = 5.0  # seconds after which a manager that does not answer counts as not there
TICK = 0.5  # seconds of silence after which a caller gets the chance to look for its own client

Reply = TypeVar("Reply", bound=ManagerReply)
EngineAnswer = TypeVar("EngineAnswer", bound=EngineReply)
Message = TypeVar("Message")


class Lease:
    """A loaded model that stays loaded until `close`."""

    def __init__(self, connection: Connection, granted: LeaseGranted, on_close: Callable[[], None]) -> None:
        self._connection = connection
        self._on_close = on_close
        self.model_id = granted.model_id
        self.socket = granted.socket
        self.info = granted.info

    def post_mortem(self) -> DmrError | None:
        """Why the engine is gone, as the manager tells soon after; None if it does not."""
        deadline = time.monotonic() + POST_MORTEM_TIMEOUT
        with contextlib.suppress(DmrError, OSError):
            for reply in self._connection.frames(manager_reply_decoder):
                if isinstance(reply, WireError):
                    return reply.to_error()
                if time.monotonic() >= deadline:
                    break
        return None

    def close(self) -> None:
        self._connection.close()
        self._on_close()


class ManagerClient:
    """One connection for each command; safe for any number of threads."""

    def __init__(self, socket_path: Path, spares: SpareConnections | None = None) -> None:
        """`spares`: leases are asked for on one of these, and it is opened anew when they are given back."""
        self._path = str(socket_path)
        self._spares = spares or SpareConnections(TICK, max_places=0)

    def acquire(
        self, reference: str, keep_alive: float | None, context_size: int | None = None, preload: bool = False
    ) -> Generator[Lease | None, None, None]:
        """Yields None when the wish is on its way and while the model loads, then the lease, once.

        Closing the iterator earlier gives it up.

        `context_size`: at least so many tokens, if the model can have them. `preload`: giving it up does not end the
        loading.

        Raises:
            ModelNotFound, ModelLoadFailed, Unavailable
            EngineCrashed: its engines have crashed, and it is too early for another one.
        """
        try:
            connection = self._spares.open(self._path)
        except OSError:
            raise _manager_gone() from None
        handed_over = False
        try:
            for reply in _replies(connection, AcquireLease(reference, keep_alive, context_size, preload)):
                if isinstance(reply, WireError):
                    raise reply.to_error()
                if isinstance(reply, LeaseGranted):
                    handed_over = True
                    yield Lease(connection, reply, lambda: self._spares.refill(self._path))
                    return
                yield None
        finally:
            if not handed_over:
                connection.close()

    def import_model(self, path: Path, reference: str) -> ModelRecord:
        return self._ask(ImportModel(str(path), reference), Imported).record

    def tag_model(self, source: str, target: str) -> ModelRecord:
        return self._ask(TagModel(source, target), Tagged).record

    def adopt_model(self, manifest: bytes, name: str, reference: str) -> ModelRecord:
        """A model of blobs that are uploads; `reference` goes before its own `name`."""
        return self._ask(AdoptModel(manifest, name, reference), Tagged).record

    def repackage_model(self, base: str, wish: Repackaging) -> ModelRecord:
        return self._ask(RepackageModel(base, wish), Tagged).record

    def purge_models(self, force: bool) -> Removal:
        return self._ask(PurgeModels(force), Removed).removal

    def transfer(self, command: PullModel | PushModel | CreateModel) -> Generator[TransferProgress | None, None, None]:
        """The steps of a pull, a push or the making of a model, None after each `TICK` of silence.

        Closing the iterator cancels.

        Raises: as `dmr.store.transfers` and `dmr.store.create`, and Unavailable
        """
        connection = self._connect()
        try:
            for reply in _replies(connection, command):
                if isinstance(reply, WireError):
                    raise reply.to_error()
                if isinstance(reply, TransferDone):
                    return
                yield reply.progress if isinstance(reply, TransferStep) else None
        finally:
            connection.close()

    def remove_model(self, reference: str, force: bool) -> Removal:
        return self._ask(RemoveModel(reference, force), Removed).removal

    def unload_models(self, references: tuple[str, ...] | None) -> int:
        return self._ask(UnloadModels(references), Unloaded).count

    def running_models(self) -> tuple[RunningModel, ...]:
        return self._ask(ListRunning(), Running).models

    def running_engines(self) -> tuple[tuple[RunningModel, str], ...]:
        """The loaded models, each with the socket of its engine."""
        running = self._ask(ListRunning(), Running)
        return tuple(zip(running.models, running.sockets, strict=True))

    def lifecycle(self) -> ManagerStatistics:
        """What the manager has counted of loads, evictions and crashes."""
        return self._ask(ListStatistics(), Counted).statistics

    def configure(self, reference: str, mode: Mode | None, change: ConfigurationChange) -> ConfiguredModel:
        return self._ask(ConfigureModel(reference, change, mode), Configured).configured

    def reset_configuration(self, reference: str | None, mode: Mode | None) -> int:
        return self._ask(ResetConfiguration(reference, mode), ConfigurationReset).count

    def ping(self) -> None:
        """Raises Unavailable when the manager does not answer within `PING_TIMEOUT`."""
        self._ask(Ping(), Pong, PING_TIMEOUT)

    def _ask(self, command: ManagerCommand, expected: type[Reply], timeout: float = math.inf) -> Reply:
        deadline = time.monotonic() + timeout
        connection = self._connect()
        try:
            for reply in _replies(connection, command):
                if isinstance(reply, WireError):
                    raise reply.to_error()
                if isinstance(reply, expected):
                    return reply
                if time.monotonic() >= deadline:
                    raise Unavailable("The model manager does not answer.")
        finally:
            connection.close()
        raise InternalError("The model manager gave no answer.")

    def _connect(self) -> Connection:
        try:
            return Connection(self._path, TICK)
        except OSError:
            raise _manager_gone() from None


def _replies(connection: Connection, command: ManagerCommand) -> Iterator[ManagerReply | None]:
    """None when it is sent, then what the manager answers. Raises Unavailable when it is gone."""
    try:
        connection.send(command)
        yield None
        yield from connection.frames(manager_reply_decoder)
    except (EngineCrashed, OSError):
        raise _manager_gone() from None


class Readiness:
    """Lets a loop that serves many requests take what has come of one, without waiting for more.

    Nothing of it may be asked before the request's first message has come.
    """

    def __init__(self) -> None:
        self._connection: Connection | None = None
        self._path = ""
        self._inbox: Inbox | None = None
        self.has_moved = False  # to a channel: all that is left comes there

    def follow(self, connection: Connection, path: str) -> None:
        """`path`: of the engine's socket."""
        self._connection = connection
        self._path = path

    def fileno(self) -> int:
        """Readable when there is more."""
        return self._followed.fileno()

    def dont_wait(self) -> None:
        """From now on messages are taken here; the iterator that they came from is only closed."""
        self._followed.dont_wait()

    def move(self, channels: Channels, owner: object) -> Channel | None:
        """Ask for the rest on a channel, once it is ready; `owner` is who has got something then. None: there is none.

        After `dont_wait` only. Messages may come here until `has_moved`.
        """
        channel = channels.to(self._path)
        if channel is not None and channel.is_ready and self._inbox is None:
            inbox = channel.enter(owner)
            try:
                self._followed.send(EngineMove(channel.name, inbox.number))
            except OSError:  # the engine is gone, as the next `take` tells
                channel.leave(owner)
            else:
                self._inbox = inbox
        return channel

    def take(self) -> list[EngineMessage]:
        """What has come by now.

        Raises:
            EngineCrashed: the engine is gone.
        """
        if self._inbox is None:
            return self._followed.take(engine_message_decoder)
        if self.has_moved:
            return self._inbox.take()
        taken: list[EngineMessage] = []
        for message in self._followed.take(engine_moving_decoder):
            if isinstance(message, EngineMoved):
                self.has_moved = True
                return taken + self._inbox.take()
            taken.append(message)
        return taken

    @property
    def _followed(self) -> Connection:
        assert self._connection is not None, "there is no connection yet"
        return self._connection


class EngineClient:
    """Requests to one engine, each on a connection of its own."""

    def __init__(self, socket_path: str, spares: SpareConnections | None = None) -> None:
        """`spares`: one of these is taken for a request, and opened anew behind it."""
        self._path = socket_path
        self._spares = spares or SpareConnections(TICK, max_places=0)

    def generate(
        self, request: EngineRequest, readiness: Readiness | None = None
    ) -> Generator[EngineMessage | None, None, None]:
        """The engine's messages as they come, None after each `TICK` of silence. Closing the iterator is the abort.

        `readiness` is told of the connection.

        Raises:
            EngineCrashed: the engine is gone; it may have been before the request was sent.
        """
        return self._converse(request, engine_message_decoder, readiness)

    def ask(self, query: EngineQuery, expected: type[EngineAnswer]) -> Generator[EngineAnswer | None, None, None]:
        """The one answer of a query that generates nothing; None after each `TICK` of silence before it.

        Raises:
            EngineCrashed: as `generate`.
            DmrError: the engine's own refusal.
        """
        with contextlib.closing(self._converse(query, engine_reply_decoder)) as replies:
            for reply in replies:
                if isinstance(reply, WireError):
                    raise reply.to_error()
                if reply is not None and not isinstance(reply, expected):
                    raise InternalError("The engine gave an answer to another question.")
                yield reply
                if reply is not None:
                    return

    def _converse(
        self,
        query: EngineQuery,
        decoder: msgspec.msgpack.Decoder[Message],
        readiness: Readiness | None = None,
    ) -> Generator[Message | None, None, None]:
        try:
            connection = self._spares.open(self._path)
        except OSError:
            raise EngineUnreachable("The engine is not there.") from None
        try:
            try:
                connection.send(query)
            except OSError:
                raise EngineUnreachable("The engine is not there.") from None
            if readiness is not None:
                readiness.follow(connection, self._path)
            yield from connection.frames(decoder)
        finally:
            connection.close()
            self._spares.refill(self._path)


class EngineUnreachable(EngineCrashed):
    """The request never reached the engine, so sending it again is safe."""

    code = "engine_unreachable"  # of its own: a crash that another process reports must not be taken for this


def _manager_gone() -> Unavailable:
    return Unavailable("The model manager is not running; it is being started again.")
