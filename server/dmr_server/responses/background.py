"""Answers that go on without a client: they run in threads of their own, and can be followed from any worker."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING

import msgspec

from dmr.errors import DmrError, InternalError, Overloaded
from dmr.types import Completed, GenerateRequest
from dmr_server.dialect import COMMENT_INTERVAL, Client
from dmr_server.errors import ClientGone
from dmr_server.responses.keeping import UNFINISHED, KeptAnswer, LoggedEncoder, Lookup, to_response, watched
from dmr_server.responses.replay import replay
from dmr_server.responses.request import ResponseExchange
from dmr_server.responses.storage import ResponseStore
from dmr_server.responses.stream import COMMENT
from dmr_server.responses.wire import Response

if TYPE_CHECKING:
    from dmr.service import Service

log = logging.getLogger("dmr.server")

MAX_JOBS = 64  # of one worker process
POLL_INTERVAL = 0.2  # seconds between two looks at an answer that goes on elsewhere


class Jobs:
    """The background answers of this process."""

    def __init__(self, service: Service, store: ResponseStore) -> None:
        self._service = service
        self._store = store
        self._places = threading.BoundedSemaphore(MAX_JOBS)

    def start(self, exchange: ResponseExchange, request: GenerateRequest) -> Response:
        """Begin to answer; returns the response as it is now. Raises Overloaded, StoreError."""
        if not self._places.acquire(blocking=False):
            raise Overloaded(f"{MAX_JOBS} responses are in the background already.", retry_after=5.0)
        answer = KeptAnswer(self._store, exchange)
        queued = msgspec.structs.replace(exchange.style.base, status="queued")
        thread = threading.Thread(target=self._run, args=(exchange, request, answer), daemon=True, name=answer.id)
        try:
            answer.insert(queued)
            thread.start()
        except BaseException:
            self._places.release()
            raise
        return queued

    def _run(self, exchange: ResponseExchange, request: GenerateRequest, answer: KeptAnswer) -> None:
        encoder = LoggedEncoder(exchange.encoder(), answer, logs=exchange.stream)
        try:
            is_complete = False
            for event in watched(self._service.generate(request), answer):
                encoder.encode(event)
                is_complete = isinstance(event, Completed)
            if not is_complete:
                raise InternalError("The engine ended the request before the answer was complete.")
        except DmrError as error:
            encoder.error(error)
        except Exception:
            log.exception("a background answer failed")
            encoder.error(InternalError("Something went wrong here; the server's log has the details."))
        finally:
            self._places.release()


class Follower:
    """The body of a stream of a kept answer: as it is logged, or all at once when it has ended."""

    def __init__(
        self,
        store: ResponseStore,
        id: str,
        client: Client,
        starting_after: int = -1,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._id = id
        self._client = client
        self._after = starting_after
        self._sleep = sleep
        self._frames = self._follow()

    def __iter__(self) -> Follower:
        return self

    def __next__(self) -> bytes:
        return next(self._frames)

    def close(self) -> None:
        self._frames.close()

    def _follow(self) -> Generator[bytes, None, None]:
        try:
            yield from self._logged()
        except ClientGone:
            log.debug("the client left while it followed %s", self._id)
        except DmrError as error:  # deleted meanwhile, or the file is gone: there is nothing left to tell
            log.info("%s can be followed no further: %s", self._id, error.message)

    def _logged(self) -> Iterator[bytes]:
        position, silent = 0, 0.0
        while True:
            # First whether it has ended, then its events: so none is missed.
            status = Lookup(self._store).status(self._id)
            for first, data in self._store.events(self._id, position):
                frames = data.split(b"\n\n")[:-1]
                position = first + len(frames)
                if news := frames[max(0, self._after + 1 - first) :]:
                    silent = 0.0
                    yield b"\n\n".join(news) + b"\n\n"
            if status not in UNFINISHED:
                if position == 0:
                    yield replay(to_response(Lookup(self._store).get(self._id)), self._after)
                return
            self._client.check()
            self._sleep(POLL_INTERVAL)
            silent += POLL_INTERVAL
            if silent >= COMMENT_INTERVAL:
                silent = 0.0
                yield COMMENT
