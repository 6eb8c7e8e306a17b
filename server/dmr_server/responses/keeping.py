"""Between the answers and where they are kept: what was kept is found, what is answered is kept as it goes."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from dmr.errors import DmrError, InvalidRequest, StoreError
from dmr.types import Completed, Completion, Event, GenerateRequest, Started
from dmr_server.responses.items import Item
from dmr_server.responses.request import ResponseExchange
from dmr_server.responses.storage import KeptResponse, ResponseStore
from dmr_server.responses.stream import ResponseEncoder
from dmr_server.responses.wire import (
    Cancelled,
    Failure,
    PreviousResponseNotFound,
    Response,
    ResponseNotFound,
    encode,
)

if TYPE_CHECKING:
    from dmr.service import Service

log = logging.getLogger("dmr.server")

LOOK_INTERVAL = 1.0  # seconds between two looks whether an answer in progress is still wanted
TOUCH_INTERVAL = 10.0  # seconds between two signs that it goes on
STALE = 60.0  # seconds without a sign after which nobody is answering any more
FLUSH_INTERVAL = 0.2  # seconds that events of a background answer wait for each other
UNFINISHED = ("queued", "in_progress")

_ITEM_ID = re.compile(r"[a-z]+_(.+)_i?\d+")


def to_response(kept: KeptResponse) -> Response:
    """The response object of a kept answer."""
    return msgspec.json.decode(kept.body, type=Response)


class _Answered(msgspec.Struct):
    """The part of a response object that a conversation goes on from."""

    output: list[Item]


def output_of(kept: KeptResponse) -> list[Item]:
    return msgspec.json.decode(kept.body, type=_Answered).output


def input_of(kept: KeptResponse) -> list[Item]:
    items: list[Item] = msgspec.json.decode(kept.input)
    return items


class Lookup:
    """What one request wants to know of kept answers; each is read once."""

    def __init__(self, store: ResponseStore, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._items: dict[str, dict[str, Item]] = {}  # by response and item

    def get(self, id: str) -> KeptResponse:
        """A kept answer; one that nobody has been answering for a while has failed. Raises ResponseNotFound."""
        kept = self._store.get(id) if self._store.is_available() else None
        if kept is None:
            raise ResponseNotFound(f"Response with id '{id[:80]}' not found.{self._hint()}")
        if kept.status not in UNFINISHED or self._clock() - kept.touched < STALE:
            return kept
        failed = msgspec.structs.replace(
            to_response(kept),
            status="failed",
            error=Failure("server_error", "The server was stopped while it was answering."),
        )
        self._store.update(id, "failed", encode(failed))
        return msgspec.structs.replace(kept, status="failed", body=encode(failed))

    def status(self, id: str) -> str:
        """The status that `get` would find, without reading the answer. Raises ResponseNotFound."""
        state = self._store.state(id) if self._store.is_available() else None
        if state is None or (state.status in UNFINISHED and self._clock() - state.touched >= STALE):
            return self.get(id).status
        return state.status

    def history(self, id: str) -> list[Item]:
        """All items of the conversation that ended with an answer.

        Raises:
            InvalidRequest: it goes on still, or is too long.
            PreviousResponseNotFound: a part of it is missing.
        """
        chain, missing = self._store.chain(id) if self._store.is_available() else ([], id)
        if missing is not None:
            raise self._no_previous(missing)
        status = self.status(id) if chain[-1].status in UNFINISHED else ""
        if status in UNFINISHED:
            raise InvalidRequest(f"Response '{id}' is still {status.replace('_', ' ')}.", param="previous_response_id")
        items: list[Item] = []
        for state in chain:
            kept = self._store.get(state.id)
            if kept is None:  # since a moment ago
                raise self._no_previous(state.id)
            items += (*input_of(kept), *output_of(kept))
        return items

    def _no_previous(self, id: str) -> PreviousResponseNotFound:
        message = f"Previous response with id '{id[:80]}' not found.{self._hint()}"
        return PreviousResponseNotFound(message, param="previous_response_id")

    def find_item(self, id: str) -> Item:
        """An item of a kept answer, whose id is a part of the item's; raises ResponseNotFound."""
        found = _ITEM_ID.fullmatch(id)
        owner = f"resp_{found.group(1)}" if found else ""
        if found and owner not in self._items:
            kept = self._store.get(owner) if self._store.is_available() else None
            self._items[owner] = {item["id"]: item for item in _all_items(kept)}
        item = self._items.get(owner, {}).get(id)
        if item is None:
            raise ResponseNotFound(f"Item with id '{id[:80]}' not found.{self._hint()}", param="input")
        return item

    def _hint(self) -> str:
        return "" if self._store.is_available() else " No answers can be kept here: see the server's log."


def _all_items(kept: KeptResponse | None) -> list[Item]:
    return [] if kept is None else [*input_of(kept), *output_of(kept)]


class KeptAnswer:
    """The record of one answer. What cannot be kept costs a line in the log, never the answer."""

    def __init__(self, store: ResponseStore, exchange: ResponseExchange) -> None:
        self.id = exchange.style.base.id
        self._store = store
        self._exchange = exchange
        self._has_row = False

    def begin(self, response: Response) -> None:
        """Tell all workers of the answer."""
        try:
            self._insert(response)
            self._has_row = True
        except StoreError as error:
            log.warning("%s cannot be kept: %s", self.id, error.message)

    def insert(self, response: Response) -> None:
        """The same for an answer that is of no use if it cannot be fetched; raises StoreError."""
        self._insert(response)
        self._has_row = True

    def renew(self, response: Response) -> None:
        """What has become of it. If it was cancelled meanwhile it stays so, if it was deleted there is nothing left."""
        if not self._has_row:
            return
        try:
            if not self._store.update(self.id, response.status, encode(response)):
                cancelled = msgspec.structs.replace(response, status="cancelled", error=None, completed_at=None)
                self._store.update(self.id, "cancelled", encode(cancelled), even_cancelled=True)
        except StoreError as error:
            log.warning("%s cannot be kept: %s", self.id, error.message)

    def check(self, *, touch: bool) -> None:
        """Raises Cancelled if nobody wants the answer any more."""
        if not self._has_row:
            return
        try:
            is_wanted = self._store.is_wanted(self.id, touch=touch)
        except StoreError as error:
            log.warning("%s: it cannot be seen whether it was cancelled: %s", self.id, error.message)
            return
        if not is_wanted:
            raise Cancelled("The response was cancelled.")

    def add_events(self, first: int, data: bytes) -> None:
        try:
            self._store.add_events(self.id, first, data)
        except StoreError as error:
            log.warning("events of %s cannot be kept: %s", self.id, error.message)

    def _insert(self, response: Response) -> None:
        previous, items = response.previous_response_id, encode(self._exchange.items)
        self._store.insert(KeptResponse(self.id, previous, response.status, encode(response), items))


class KeptEncoder:
    """Encodes a stream and keeps what it comes to, before the client is told of it."""

    def __init__(self, inner: ResponseEncoder, answer: KeptAnswer) -> None:
        self.media_type = inner.media_type
        self.comment_interval = inner.comment_interval
        self._inner = inner
        self._answer = answer
        self._has_ended = False

    def encode(self, event: Event) -> bytes:
        frames = self._inner.encode(event)
        if isinstance(event, Started):
            self._begin()
        elif isinstance(event, Completed):
            self._end(self._inner.response)
        return frames

    def error(self, error: DmrError) -> bytes:
        frames = self._inner.error(error)
        self._end(self._inner.response)
        return frames

    def comment(self) -> bytes:
        return self._inner.comment()

    def abandon(self) -> None:
        """The client has left; what it has got so far is kept as cancelled."""
        if not self._has_ended:
            self._end(self._inner.cancelled())

    def _begin(self) -> None:
        self._answer.begin(self._inner.response)

    def _end(self, response: Response) -> None:
        self._has_ended = True
        self._answer.renew(response)


class LoggedEncoder(KeptEncoder):
    """For an answer in the background, whose row is there already; with `logs` its events are kept for followers."""

    def __init__(
        self,
        inner: ResponseEncoder,
        answer: KeptAnswer,
        *,
        logs: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(inner, answer)
        self._logs = logs
        self._clock = clock
        self._waiting: list[bytes] = []
        self._first = 0  # number of the first event that waits
        self._next_flush = 0.0

    def encode(self, event: Event) -> bytes:
        frames = self._inner.encode(event)
        self._log(frames, at_once=isinstance(event, Completed))
        if isinstance(event, Started):
            self._begin()
        elif isinstance(event, Completed):
            self._end(self._inner.response)
        return frames

    def error(self, error: DmrError) -> bytes:
        frames = self._inner.error(error)
        self._log(frames, at_once=True)
        self._end(self._inner.response)
        return frames

    def _begin(self) -> None:
        self._answer.renew(self._inner.response)

    def _log(self, frames: bytes, at_once: bool) -> None:
        if not self._logs:
            return
        if frames:
            self._waiting.append(frames)
        now = self._clock()
        if self._waiting and (at_once or now >= self._next_flush):
            self._answer.add_events(self._first, b"".join(self._waiting))
            self._waiting, self._first = [], self._inner.num_sent
            self._next_flush = now + FLUSH_INTERVAL


class KeptExchange:
    """An exchange whose answer is kept. It stands before the service, to see when nobody wants the answer any more."""

    def __init__(self, service: Service, store: ResponseStore, exchange: ResponseExchange) -> None:
        self.request = exchange.request
        self.stream = exchange.stream
        self._service = service
        self._exchange = exchange
        self._answer = KeptAnswer(store, exchange)
        self._encoder: KeptEncoder | None = None

    def encoder(self) -> KeptEncoder:
        self._encoder = KeptEncoder(self._exchange.encoder(), self._answer)
        return self._encoder

    def to_result(self, completion: Completion) -> bytes:
        response = self._exchange.to_response(completion)
        self._answer.begin(response)
        return encode(response)

    def generate(self, request: GenerateRequest, *, in_pieces: bool = True) -> Iterator[Event]:
        try:
            yield from watched(self._service.generate(request, in_pieces=in_pieces), self._answer)
        except GeneratorExit:
            if self._encoder is not None:
                self._encoder.abandon()
            raise


def watched(events: Iterator[Event], answer: KeptAnswer) -> Iterator[Event]:
    """The same events, until somebody cancels or deletes the answer; then Cancelled is raised."""
    next_look = time.monotonic() + LOOK_INTERVAL
    next_touch = time.monotonic() + TOUCH_INTERVAL
    try:
        for event in events:
            now = time.monotonic()
            if now >= next_look:
                answer.check(touch=now >= next_touch)
                next_look = now + LOOK_INTERVAL
                next_touch = now + TOUCH_INTERVAL if now >= next_touch else next_touch
            yield event
    finally:
        close: Any = getattr(events, "close", None)
        if close is not None:
            close()
