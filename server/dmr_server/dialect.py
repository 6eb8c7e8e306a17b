"""What a dialect is, and the one place where an answer goes out: streamed or whole, in every dialect."""

from __future__ import annotations

import logging
import math
import select
import socket
import ssl
import time
from collections.abc import Callable, Generator, Iterator
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import falcon
import msgspec

from dmr.errors import DmrError, InternalError
from dmr.types import Completed, Completion, Embeddings, Event, GenerateRequest, Scores, Started, Tick, collect
from dmr_server.errors import ClientGone, retry_headers
from dmr_server.recording.draft import Draft, KeepingEncoder, draft_of
from dmr_server.recording.kinds import NO_KIND
from dmr_server.streaming import Streamer, can_be_sent

if TYPE_CHECKING:
    from dmr.service import Service
    from dmr.service.answer import Answer, Channel, Channels

log = logging.getLogger("dmr.server")

OPENING_TIME = 10.0  # seconds that the status line of a stream waits for its first piece of text
PEEK_INTERVAL = 0.5  # seconds between two looks at a client while events keep coming
COMMENT_INTERVAL = 15.0  # seconds of silence after which a stream says that it lives; proxies cut at 30 and more
EVENT_STREAM = "text/event-stream"


class Dialect(Protocol):
    """How one vendor's surface says that something went wrong."""

    @property
    def media_type(self) -> str: ...

    def error(self, error: DmrError, request_id: str) -> tuple[int, bytes]:
        """Status and body."""


class Encoder(Protocol):
    """Turns the events of one streamed answer into bytes, in order; b"" where the wire has nothing to say."""

    media_type: str
    comment_interval: float  # seconds of silence after which `comment` is sent

    def encode(self, event: Event) -> bytes: ...

    def error(self, error: DmrError) -> bytes:
        """The frame for an error after the first byte; nothing follows it."""

    def comment(self) -> bytes:
        """Bytes that keep a silent stream alive."""


class Exchange(Protocol):
    """One request of a dialect, understood, and how to answer it. Pure: no I/O."""

    @property
    def request(self) -> GenerateRequest: ...

    @property
    def stream(self) -> bool: ...

    def encoder(self) -> Encoder: ...

    def to_result(self, completion: Completion) -> bytes: ...


class Client:
    """The other end of the connection, looked at without reading from it.

    A client that closed its sending half counts as gone, as in every large HTTP server.
    """

    def __init__(self, environ: dict[str, Any], clock: Callable[[], float] = time.monotonic) -> None:
        self.environ = environ
        self._connection: socket.socket | None = environ.get("gunicorn.socket")
        self._clock = clock
        self._next_look = clock() + PEEK_INTERVAL

    def check(self, *, now: bool = True) -> None:
        """Raise ClientGone if nobody is there; with `now` false at most once in `PEEK_INTERVAL`."""
        if self._connection is None or (not now and self._clock() < self._next_look):
            return
        self._next_look = self._clock() + PEEK_INTERVAL
        if isinstance(self._connection, ssl.SSLSocket):
            if _has_closed(self._connection):
                raise ClientGone
            return
        try:
            if self._connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"":
                raise ClientGone
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            raise ClientGone from None


def _has_closed(connection: ssl.SSLSocket) -> bool:
    """Whether the other end of a TLS connection sends no more, as far as this system tells without reading."""
    poll = getattr(select, "poll", None)
    hung_up = getattr(select, "POLLRDHUP", 0)
    if poll is None or connection.fileno() < 0:
        return connection.fileno() < 0
    watch = poll()
    watch.register(connection, hung_up)
    return any(events & (hung_up | select.POLLHUP | select.POLLERR) for _, events in watch.poll(0))


def respond(req: falcon.Request, resp: falcon.Response, service: Service, exchange: Exchange) -> None:
    """Answer an exchange on `resp`. Errors up to admission are raised, so that they get a true status code."""
    client = Client(req.env)
    draft = draft_of(req)
    events = service.generate(with_client(req, exchange.request), in_pieces=exchange.stream)
    if not exchange.stream:
        completion = _whole(events, client)
        if draft is not None:
            draft.used(completion.usage)
        resp.content_type = falcon.MEDIA_JSON
        resp.data = exchange.to_result(completion)
        return
    first = _opening(events, client)
    encoder = exchange.encoder()
    if draft is not None and draft.keeps_bodies:
        draft.response = lambda: draft.fold(exchange.to_result)
        encoder = KeepingEncoder(encoder, draft)
    resp.content_type = encoder.media_type
    resp.set_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
    streamer = getattr(req.context, "streamer", None)
    resp.stream = EventStream(first, events, encoder, client, streamer=streamer, draft=draft)


T = TypeVar("T")


def wait_for(req: falcon.Request, replies: Iterator[Tick | T]) -> T:
    """The one reply of a call of the service that is no stream; raises ClientGone when nobody waits for it any more."""
    client = Client(req.env)
    try:
        for reply in replies:
            if not isinstance(reply, Tick):
                _note_tokens(draft_of(req), reply)
                return reply
            client.check()
        raise InternalError("The engine ended the request without an answer.")
    finally:
        _close(replies)


def _note_tokens(draft: Draft | None, reply: object) -> None:
    if draft is not None and isinstance(reply, (Embeddings, Scores)):
        counted = reply.num_tokens
        draft.num_input_tokens = counted if isinstance(counted, int) else sum(counted)


def who(req: falcon.Request) -> str:
    """Whom the engine treats as one client: a key's holder, else an address. The key itself goes nowhere."""
    known = getattr(req.context, "key", None)
    if known is not None:
        return f"key:{known.name}"
    scheme, _, credentials = (req.get_header("Authorization") or "").strip().partition(" ")
    # One key is one client, in whichever header it comes.
    bearer = credentials if scheme.lower() == "bearer" else f"{scheme} {credentials}"
    key = bearer.strip() or (req.get_header("x-api-key") or "").strip()
    return sha256(key.encode("utf-8", "replace")).hexdigest()[:16] if key else str(req.remote_addr)


def with_client(req: falcon.Request, request: GenerateRequest) -> GenerateRequest:
    """The request, with whose it is and that client's share of an engine."""
    known = getattr(req.context, "key", None)
    return msgspec.structs.replace(request, client=who(req), weight=known.weight if known is not None else 1.0)


def _close(events: Iterator[Any]) -> None:
    close = getattr(events, "close", None)
    if close is not None:
        close()


def _opening(events: Iterator[Event], client: Client, clock: Callable[[], float] = time.monotonic) -> list[Event]:
    """The first events: up to the first that shows that the answer comes, or those of the first seconds.

    What goes wrong before is raised, and gets a true status: official clients repeat by status only.
    """
    opening: list[Event] = []
    deadline = math.inf
    try:
        for event in events:
            if not isinstance(event, Tick):
                opening.append(event)
                if not isinstance(event, Started):
                    return opening
                deadline = clock() + OPENING_TIME
            elif clock() >= deadline:
                return opening
            client.check(now=isinstance(event, Tick))
        raise InternalError("The engine ended the request without an answer.")
    except BaseException:
        _close(events)
        raise


def _whole(events: Iterator[Event], client: Client) -> Completion:
    try:
        return collect(_watched(events, client))
    finally:
        _close(events)


def _watched(events: Iterator[Event], client: Client) -> Iterator[Event]:
    completed = False
    for event in events:
        client.check(now=isinstance(event, Tick))
        completed = completed or isinstance(event, Completed)
        yield event
    if not completed:
        raise InternalError("The engine ended the request before the answer was complete.")


class EventStream:
    """The body of a streamed answer. `close()` aborts the request, also when nothing was read yet.

    It waits for its events in the thread that reads it; or, from the second piece on, a streamer sends it, if there is
    one, the events can be taken without waiting and the connection can be written to.
    """

    def __init__(
        self,
        first: list[Event],
        events: Iterator[Event],
        encoder: Encoder,
        client: Client,
        clock: Callable[[], float] = time.monotonic,
        streamer: Streamer | None = None,
        draft: Draft | None = None,
    ) -> None:
        self._draft = draft or Draft(NO_KIND, keeps_bodies=False)
        self._events = events
        self._answer = cast("Answer", events)  # what is said of it here is only asked where there is a streamer
        self._encoder = encoder
        self._client = client
        self._clock = clock
        self._streamer = streamer if getattr(events, "can_be_taken", False) else None
        self._connection = can_be_sent(client.environ)
        self._last_sent = clock()
        self._opened = False
        self._is_complete = False
        self._frames = self._encode(first)
        self.has_ended = False

    def __iter__(self) -> EventStream:
        return self

    def __next__(self) -> bytes:
        if self._opened and self._streamer is not None and self._connection is not None and not self._is_complete:
            self._answer.dont_wait()
            self._streamer.send(self, self._connection, self._client.environ["SERVER_PROTOCOL"] != "HTTP/1.0")
            raise StopIteration
        for frame in self._frames:
            if frame or not self._opened:  # the first even if it is empty: it sends the headers
                self._opened = True
                self._last_sent = self._clock()
                return frame
        raise StopIteration

    def close(self) -> None:
        self._frames.close()
        _close(self._events)

    def fileno(self) -> int:
        return self._answer.fileno()

    def move(self, channels: Channels, owner: object) -> Channel | None:
        return self._answer.move(channels, owner)

    @property
    def has_moved(self) -> bool:
        return self._answer.has_moved

    def take(self) -> bytes:
        """What there is by now, without waiting."""
        pieces: list[bytes] = []
        try:
            for event in self._answer.take():
                pieces.append(self._encoded(event))
            self.has_ended = self._is_complete
        except Exception as error:
            pieces.append(self._failed(error))
            self.has_ended = True
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if data:
            self._last_sent = self._clock()
        return data

    def look(self) -> bytes:
        """What a silence asks for. Ends when the client has left."""
        try:
            self._client.check()
        except ClientGone:
            self._left()
            self.has_ended = True
        return self._comment()

    def _encode(self, first: list[Event]) -> Generator[bytes, None, None]:
        """A frame for each event; b"" where there is nothing to say."""
        try:
            yield b"".join(map(self._encoded, first))
            for event in self._events:
                self._client.check(now=isinstance(event, Tick))
                yield self._encoded(event) or (self._comment() if isinstance(event, Tick) else b"")
            if not self._is_complete:
                raise InternalError("The engine ended the request before the answer was complete.")
        except ClientGone:
            self._left()
        except Exception as error:
            yield self._failed(error)
        finally:
            _close(self._events)

    def _encoded(self, event: Event) -> bytes:
        if isinstance(event, Completed):
            self._is_complete = True
            self._draft.used(event.usage)
        return self._encoder.encode(event)

    def _failed(self, error: Exception) -> bytes:
        """The last frame of a stream that breaks off."""
        if not isinstance(error, DmrError):
            log.error("a streamed answer failed", exc_info=error)
            error = InternalError("Something went wrong here; the server's log has the details.")
        self._draft.error = error
        return self._encoder.error(error)

    def _left(self) -> None:
        log.debug("the client left during a streamed answer")
        self._draft.has_left = True

    def _comment(self) -> bytes:
        """What says that the stream lives, after a long silence."""
        if self._clock() - self._last_sent < self._encoder.comment_interval:
            return b""
        self._last_sent = self._clock()
        return self._encoder.comment()


def send_error(req: falcon.Request, resp: falcon.Response, dialect: Dialect, error: DmrError) -> None:
    """Put an error into `resp` in a dialect's shape."""
    req.context.error = error
    status, body = dialect.error(error, getattr(req.context, "request_id", ""))
    resp.status = falcon.code_to_http_status(status)
    resp.content_type = dialect.media_type
    resp.data = body
    resp.text = None
    resp.stream = None
    resp.set_headers(retry_headers(error))
