"""GET /engines/requests: the last requests of each model, or each as it ends."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import falcon
import msgspec

from dmr.errors import DmrError, InternalError
from dmr.types import Mode
from dmr_server import ending
from dmr_server.dialect import COMMENT_INTERVAL, EVENT_STREAM, Client
from dmr_server.docker import DockerDialect
from dmr_server.docker_configure import WireConfiguration, to_entry
from dmr_server.errors import ClientGone, NotConfigured
from dmr_server.flags import flag
from dmr_server.recording.records import ModelRecords, Stored
from dmr_server.refusal import refuse_to_stay

if TYPE_CHECKING:
    from dmr.service import Service
    from dmr_server.recording.recorder import Recorder

POLL_INTERVAL = 0.25  # seconds between two looks for what other workers have written


class Dropped(msgspec.Struct, frozen=True):
    dropped: int


class Requests:
    """GET, DELETE /engines/requests"""

    dialect = DockerDialect()

    def __init__(self, service: Service, recorder: Recorder) -> None:
        self._service = service
        self._recorder = recorder

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        self._check_on()
        model_id = self._model_id(req.get_param("model"))
        try:
            if EVENT_STREAM in (req.get_header("Accept") or "").lower():
                self._follow(req, resp, model_id)
            else:
                self._recorder.flush()
                resp.data = msgspec.json.encode(self._all(model_id))
        except sqlite3.Error as error:
            raise InternalError(f"the records cannot be read: {error}") from error

    on_head = on_get

    def on_delete(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Ours: what is kept can be dropped, of one model or of all."""
        self._check_on()
        try:
            self._recorder.flush()
            num_dropped = self._recorder.journal.drop(self._model_id(req.get_param("model")))
        except sqlite3.Error as error:
            raise InternalError(f"the records cannot be dropped: {error}") from error
        resp.data = msgspec.json.encode(Dropped(num_dropped))

    def _check_on(self) -> None:
        if not self._recorder.is_on:
            raise NotConfigured("requests are not recorded: set DMR_RECORD to 'metadata' or 'bodies'")

    def _all(self, model_id: str | None) -> list[ModelRecords]:
        stored = self._recorder.journal.records(model_id)
        return [self._told(model, records) for model, records in stored.items()]

    def _told(self, model_id: str, records: list[Stored]) -> ModelRecords:
        return ModelRecords(len(records), model_id, self._configuration(model_id), [each.record for each in records])

    def _configuration(self, model_id: str) -> WireConfiguration:
        """That for generating text, if there are several."""
        try:
            found = [each for each in self._service.configurations.shown() if each.model_id == model_id]
        except DmrError:  # the records are worth telling without it
            found = []
        found.sort(key=lambda each: each.mode is not Mode.COMPLETION)
        return to_entry(found[0]).config if found else WireConfiguration()

    def _model_id(self, name: str | None) -> str | None:
        """By any of its names; a name that is none finds nothing, or what another engine has by it."""
        if not name:
            return None
        try:
            return self._service.get_model(name).id
        except DmrError:
            return name

    def _follow(self, req: falcon.Request, resp: falcon.Response, model_id: str | None) -> None:
        includes_existing = flag(req, "include_existing")
        refuse_to_stay()
        self._recorder.flush()
        journal = self._recorder.journal
        last = journal.last_sequence()
        stored = journal.records(model_id).values() if includes_existing else ()
        existing = [
            record for records in stored for record in records if record.sequence <= last
        ]  # later ones are news
        begun = [self._event("existing_request", record) for record in existing]
        begun.append(b'event: connected\ndata: {"status": "connected"}\n\n')
        resp.content_type = EVENT_STREAM
        resp.set_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})

        def news(after: int) -> list[Stored]:
            self._recorder.flush()
            return journal.since(after, model_id)

        resp.stream = Following(b"".join(begun), last, news, self._event, Client(req.env))

    def _event(self, name: str, record: Stored) -> bytes:
        data = msgspec.json.encode([self._told(record.model_id, [record])])
        return b"event: %b\ndata: %b\n\n" % (name.encode(), data)


class Following:
    """The events of a stream that ends with its client or with this process."""

    def __init__(
        self,
        begun: bytes,
        last: int,
        news: Callable[[int], list[Stored]],
        to_event: Callable[[str, Stored], bytes],
        client: Client,
    ) -> None:
        self._begun = begun
        self._last = last
        self._news = news
        self._to_event = to_event
        self._client = client

    def __iter__(self) -> Iterator[bytes]:
        yield self._begun
        said_at = time.monotonic()
        while not ending.has_begun():
            try:
                news = self._news(self._last)
                self._client.check()
            except ClientGone:
                return
            except sqlite3.Error as error:
                yield b"event: error\ndata: %b\n\n" % msgspec.json.encode({"error": str(error)})
                return
            if news:
                self._last = news[-1].sequence
                said_at = time.monotonic()
                yield b"".join(self._to_event("new_request", record) for record in news)
            elif time.monotonic() - said_at >= COMMENT_INTERVAL:
                said_at = time.monotonic()
                yield b": waiting\n\n"
            else:
                ending.wait(POLL_INTERVAL)
