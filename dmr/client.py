"""The frontends' side of the wire: leases and commands of the manager, requests to an engine."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TypeVar

from dmr.errors import EngineCrashed, InternalError, Unavailable
from dmr.types import ModelRecord, Removal, RunningModel
from dmr.wire import (
    AcquireLease,
    Connection,
    EngineMessage,
    EngineRequest,
    Imported,
    ImportModel,
    LeaseGranted,
    ListRunning,
    ManagerCommand,
    ManagerReply,
    Ping,
    Pong,
    Removed,
    RemoveModel,
    Running,
    Unloaded,
    UnloadModels,
    WireError,
    engine_message_decoder,
    manager_reply_decoder,
)

TICK = 0.5  # seconds of silence after which a caller gets the chance to look for its own client

Reply = TypeVar("Reply", bound=ManagerReply)


class Lease:
    """A loaded model that stays loaded until `close`."""

    def __init__(self, connection: Connection, granted: LeaseGranted) -> None:
        self._connection = connection
        self.model_id = granted.model_id
        self.socket = granted.socket
        self.info = granted.info

    def close(self) -> None:
        self._connection.close()


class ManagerClient:
    """One connection for each command; safe for any number of threads."""

    def __init__(self, socket_path: Path) -> None:
        self._path = str(socket_path)

    def acquire(self, reference: str, keep_alive: float | None) -> Generator[Lease | None, None, None]:
        """Yields None while the model loads, then the lease, once. Closing the iterator earlier gives it up.

        Raises:
            ModelNotFound, ModelLoadFailed, Unavailable
        """
        connection = self._connect()
        handed_over = False
        try:
            connection.send(AcquireLease(reference, keep_alive))
            for reply in connection.frames(manager_reply_decoder):
                if isinstance(reply, WireError):
                    raise reply.to_error()
                if isinstance(reply, LeaseGranted):
                    handed_over = True
                    yield Lease(connection, reply)
                    return
                yield None
        except (EngineCrashed, OSError):
            raise _manager_gone() from None
        finally:
            if not handed_over:
                connection.close()

    def import_model(self, path: Path, reference: str) -> ModelRecord:
        return self._ask(ImportModel(str(path), reference), Imported).record

    def remove_model(self, reference: str, force: bool) -> Removal:
        return self._ask(RemoveModel(reference, force), Removed).removal

    def unload_models(self, references: tuple[str, ...] | None) -> int:
        return self._ask(UnloadModels(references), Unloaded).count

    def running_models(self) -> tuple[RunningModel, ...]:
        return self._ask(ListRunning(), Running).models

    def ping(self) -> None:
        """Raises Unavailable when the manager does not answer."""
        self._ask(Ping(), Pong)

    def _ask(self, command: ManagerCommand, expected: type[Reply]) -> Reply:
        connection = self._connect()
        try:
            connection.send(command)
            for reply in connection.frames(manager_reply_decoder):
                if isinstance(reply, WireError):
                    raise reply.to_error()
                if isinstance(reply, expected):
                    return reply
        except (EngineCrashed, OSError):
            raise _manager_gone() from None
        finally:
            connection.close()
        raise InternalError("The model manager gave no answer.")

    def _connect(self) -> Connection:
        try:
            return Connection(self._path, TICK)
        except OSError:
            raise _manager_gone() from None


class EngineClient:
    """Requests to one engine, each on a connection of its own."""

    def __init__(self, socket_path: str) -> None:
        self._path = socket_path

    def generate(self, request: EngineRequest) -> Generator[EngineMessage | None, None, None]:
        """The engine's messages as they come, None after each `TICK` of silence. Closing the iterator is the abort.

        Raises:
            EngineCrashed: the engine is gone; it may have been before the request was sent.
        """
        try:
            connection = Connection(self._path, TICK)
        except OSError:
            raise EngineUnreachable("The engine is not there.") from None
        try:
            try:
                connection.send(request)
            except OSError:
                raise EngineUnreachable("The engine is not there.") from None
            yield from connection.frames(engine_message_decoder)
        finally:
            connection.close()


class EngineUnreachable(EngineCrashed):
    """The request never reached the engine, so sending it again is safe."""

    code = "engine_unreachable"  # of its own: a crash that another process reports must not be taken for this


def _manager_gone() -> Unavailable:
    return Unavailable("The model manager is not running; it is being started again.")
