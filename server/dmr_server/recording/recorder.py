"""Middleware that notes what has been served, and the thread that writes it down behind the requests' backs."""

from __future__ import annotations

import atexit
import logging
import sqlite3
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import falcon
import msgspec

from dmr.errors import DmrError
from dmr.types import ModelRecord
from dmr_server.errors import row_of
from dmr_server.recording.draft import Draft, draft_of
from dmr_server.recording.journal import Count, Journal, NewRecord
from dmr_server.recording.kinds import kind_of, method_of, route_of
from dmr_server.recording.records import MAX_AGENT, Record, shortened

if TYPE_CHECKING:
    from dmr.service import Service

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)  # seconds
GATHERING = 0.05  # seconds in which requests end that are written together
MAX_WAITING = 10_000  # finished requests that are yet to be written; with more, the oldest are lost
CLIENT_CLOSED = 499
_DEFAULT_REGISTRY = "docker.io/"

log = logging.getLogger("dmr.server")


class Done(NamedTuple):
    """A finished request. `at` is in Unix seconds."""

    route: str
    method: str
    status: int
    seconds: float
    at: float
    url: str
    user_agent: str
    origin: str
    draft: Draft | None
    answer: bytes
    error_code: str
    num_repeats: int = 0  # that it stands for; such a one is only counted


class Recorder:
    """Middleware, the first of all. `record`: "off", "metadata" or "bodies"."""

    def __init__(self, service: Service, journal: Journal, record: str, clock: Callable[[], float] = time.time) -> None:
        self.is_on = record != "off"
        self.journal = journal
        self._service = service
        self._keeps_bodies = record == "bodies"
        self._clock = clock
        self._waiting: deque[Done] = deque(maxlen=MAX_WAITING)
        self._writing = threading.Lock()
        self._bell = threading.Event()
        self._thread: threading.Thread | None = None
        self._has_failed = False

    # --- while requests are served -----------------------------------------------------------------------------------

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        req.context.began = time.monotonic()
        req.context.recorder = self

    def process_resource(
        self, req: falcon.Request, resp: falcon.Response, resource: object, params: dict[str, Any]
    ) -> None:
        self.begin_draft(req, req.uri_template or "")

    def begin_draft(self, req: falcon.Request, template: str) -> None:
        """From here on it is known what the request is for."""
        kind = kind_of(template) if req.method == "POST" else None
        if kind is not None and req.get_header("X-Preload-Only") != "true":
            req.context.draft = Draft(kind, self._keeps_bodies)

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, resource: object, req_succeeded: bool
    ) -> None:
        if req.method == "HEAD" and resp.stream is not None:  # falcon drops it as it is
            getattr(resp.stream, "close", lambda: None)()
            resp.stream = None
        if resp.stream is None:
            self._finish(req, resp)
        else:
            resp.stream = _Followed(resp.stream, lambda: self._finish(req, resp))

    def _finish(self, req: falcon.Request, resp: falcon.Response) -> None:
        draft = draft_of(req)
        error: DmrError | None = getattr(req.context, "error", None) or (draft and draft.error) or None
        status = falcon.http_status_to_code(resp.status)
        if draft is not None:
            status = CLIENT_CLOSED if draft.has_left else row_of(draft.error).status if draft.error else status
        done = Done(
            route_of(req),
            method_of(req),
            status,
            time.monotonic() - req.context.began,
            self._clock(),
            req.path,
            (req.user_agent or "")[:MAX_AGENT],
            req.get_header("X-Request-Origin") or (draft.kind.origin if draft else ""),
            draft,
            resp.data or b"" if draft is not None and draft.keeps_bodies else b"",
            error.code if error is not None else "",
        )
        req.context.count_again = partial(self._count_again, done)
        self._take(done)

    def _count_again(self, done: Done, num_repeats: int) -> None:
        """So many more were answered alike, in no time."""
        self._take(done._replace(num_repeats=num_repeats, seconds=0.0))

    def _take(self, done: Done) -> None:
        self._waiting.append(done)
        if self._thread is None:
            self._start()
        self._bell.set()

    def counts(self) -> dict[Count, float]:
        """All that was counted, by all workers; nothing while it cannot be read."""
        self.flush()
        try:
            return self.journal.counts()
        except sqlite3.Error as error:
            log.error("what was counted cannot be read: %s", error)
            return {}

    # --- behind them -------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what is waiting; what another thread has begun to write is written too."""
        with self._writing:
            batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
            if not batch:
                return
            counts: dict[Count, float] = {}
            records: list[NewRecord] = []
            for done in batch:
                self._add(done, counts, records)
            self._write(records, counts)

    def _start(self) -> None:
        with self._writing:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
                self._thread.start()
                atexit.register(self.flush)

    def _run(self) -> None:
        while True:
            self._bell.wait()
            time.sleep(GATHERING)
            self._bell.clear()
            self.flush()

    def _write(self, records: list[NewRecord], counts: dict[Count, float]) -> None:
        try:
            self.journal.write(records, counts)
            self._has_failed = False
        except sqlite3.Error as error:
            if not self._has_failed:
                log.error("finished requests cannot be recorded, nor counted: %s", error)
            self._has_failed = True

    def _add(self, done: Done, counts: dict[Count, float], records: list[NewRecord]) -> None:
        """A defect here must not stop the thread, nor may it cost others their counts."""
        times = done.num_repeats or 1
        try:
            for count, value in _http_counts(done):
                counts[count] = counts.get(count, 0.0) + times * value
            draft = done.draft
            model = self._model_of(draft) if draft is not None else None
            if draft is None or model is None:
                return
            label, model_id = model
            for count, value in _model_counts(label, done.status, draft):
                counts[count] = counts.get(count, 0.0) + times * value
            if self.is_on and not done.num_repeats:
                data = msgspec.json.encode(_to_record(done, draft, model_id))
                records.append(NewRecord(model_id, done.at, data))
        except Exception:
            log.exception("a finished request could not be recorded")

    def _model_of(self, draft: Draft) -> tuple[str, str] | None:
        """Its name for counts, and its id; None if there is no such model."""
        if draft.engine:
            engine = self._service.upstreams.get(draft.engine)
            is_known = engine is not None and draft.model in engine.models()
            return (draft.model if is_known else "other"), f"{draft.engine}/{draft.model}"
        try:
            record = self._service.get_model(draft.model)
        except DmrError:
            return None
        return counted_name(record), record.id


def counted_name(record: ModelRecord) -> str:
    """What a model is called in figures, by whatever of its names it was asked for."""
    return (record.tags or (record.id,))[0].removeprefix(_DEFAULT_REGISTRY)


class _Followed:
    """A streamed body, whose end is told."""

    def __init__(self, body: Any, then: Callable[[], None]) -> None:
        self._body = iter(body)
        self._source = body
        self._then = then
        self._is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        piece: bytes = next(self._body)
        return piece

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        try:
            close = getattr(self._source, "close", None)
            if close is not None:
                close()
        finally:
            self._then()


def _http_counts(done: Done) -> Iterator[tuple[Count, float]]:
    yield Count("requests", (done.route, done.method, str(done.status))), 1
    yield Count("seconds", (done.route, str(bisect_left(BOUNDS, done.seconds)))), 1
    yield Count("seconds_sum", (done.route,)), done.seconds


def _model_counts(model: str, status: int, draft: Draft) -> Iterator[tuple[Count, float]]:
    mode = draft.kind.mode
    yield Count("model_requests", (model, mode, str(status))), 1
    if draft.num_input_tokens:
        yield Count("input_tokens", (model, mode)), draft.num_input_tokens
    if draft.num_output_tokens:
        yield Count("output_tokens", (model, mode)), draft.num_output_tokens


def _to_record(done: Done, draft: Draft, model_id: str) -> Record:
    request = response = ""
    error = done.error_code
    if draft.keeps_bodies:
        request = shortened(draft.request or b"")
        answer = shortened(done.answer or (draft.response() if draft.response is not None else b""))
        response, error = (answer, error) if done.status < 400 else ("", answer or error)
    return Record(
        f"{model_id}_{int(done.at * 1e9)}",
        draft.model,
        done.method,
        done.url,
        int(done.at),
        done.status,
        request,
        response,
        error,
        done.user_agent,
        done.origin,
        draft.engine,
        round(done.seconds * 1000, 1),
        draft.num_input_tokens,
        draft.num_output_tokens,
    )
