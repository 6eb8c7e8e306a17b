"""Pictures and sounds to vectors, beside the steps: on a thread of its own, each of them once.

What was encoded is kept, the least recently used goes first. Who asks for the same thing while it is being encoded
waits for the same work.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple, Protocol

from dmr.engine.core_share import CoreShare
from dmr.engine.media_reader import EncodingCancelled, Medium, digest_of
from dmr.errors import DmrError, InternalError, Overloaded
from dmr.wire import EngineMedia

CACHE_BYTES = 256 << 20  # of vectors; a picture of 576 places and 4,096 numbers each has 9 MB
MAX_WAITING = 1024  # files

logger = logging.getLogger(__name__)


class Reader(Protocol):
    """What the encoder needs of the native side."""

    def read(self, media: EngineMedia) -> Medium: ...
    def encode(self, medium: Medium, between: Callable[[], None]) -> Medium: ...
    def abort(self) -> None: ...


class MediaCounts(NamedTuple):
    """Since the engine was loaded, and of now."""

    num_encoded: int = 0  # files
    num_hits: int = 0  # files that were there already
    seconds: float = 0.0  # that encoding took, whatever came of it
    num_waiting: int = 0  # files that are being encoded or wait for it
    cache_bytes: int = 0
    max_cache_bytes: int = 0


class _Work:
    """One file that somebody waits for."""

    def __init__(self, media: EngineMedia, digest: bytes) -> None:
        self.media = media
        self.digest = digest
        self.orders: list[MediaOrder] = []
        self.is_running = False


class MediaOrder:
    """All files of one request. `result` is set once, by the encoder: the media in order, or what went wrong."""

    def __init__(self, digests: Sequence[bytes]) -> None:
        self.digests = tuple(digests)
        self.found: dict[bytes, Medium] = {}
        self.result: Future[tuple[Medium, ...] | DmrError] = Future()
        self.result.set_running_or_notify_cancel()  # from here on, who waits cannot cancel it under our hands

    def put(self, medium: Medium) -> bool:
        """True: it was the last."""
        self.found[medium.digest] = medium
        return len(self.found) == len(set(self.digests))

    def settle(self) -> None:
        self.result.set_result(tuple(self.found[digest] for digest in self.digests))


class MediaEncoder:
    """Owns the cache and a thread (`run`). All other threads use `submit` and `abort`."""

    def __init__(self, reader: Reader, cores: CoreShare, cache_bytes: int = CACHE_BYTES) -> None:
        self._reader = reader
        self._cores = cores
        self._cache_bytes = cache_bytes
        self._cache: OrderedDict[bytes, Medium] = OrderedDict()  # the least recently used first
        self._num_cached_bytes = 0
        self._works: dict[bytes, _Work] = {}  # in flight
        self._queue: deque[_Work] = deque()
        self._condition = threading.Condition()
        self._stopping = False
        self._counted = MediaCounts(max_cache_bytes=cache_bytes)

    def submit(self, media: Sequence[EngineMedia]) -> MediaOrder:
        """Have all files encoded; what becomes of it is told by the order's `result`.

        Raises:
            Overloaded: too many files wait already.
        """
        digests = [digest_of(each) for each in media]
        order = MediaOrder(digests)
        with self._condition:
            if len(self._works) + len(media) > MAX_WAITING and self._works:
                raise Overloaded(f"{len(self._works)} images and sounds are waiting already; try again in a moment.")
            for each, digest in zip(media, digests, strict=True):
                self._enter(order, each, digest)
            if len(order.found) == len(set(digests)):
                order.settle()
        return order

    def abort(self, order: MediaOrder) -> None:
        """Nobody waits for it any more. Harmless when it is settled."""
        with self._condition:
            for digest in order.digests:
                work = self._works.get(digest)
                if work is None or order not in work.orders:
                    continue
                work.orders.remove(order)
                if work.orders:
                    continue
                if work.is_running:
                    self._reader.abort()
                else:
                    self._queue.remove(work)
                    del self._works[digest]

    def read(self, media: Sequence[EngineMedia]) -> tuple[Medium, ...]:
        """Without vectors where there are none yet: enough to count. Any thread; raises as the reader does."""
        return tuple(self._known(digest_of(each)) or self._reader.read(each) for each in media)

    def counts(self) -> MediaCounts:
        """Any thread."""
        with self._condition:
            return self._counted._replace(num_waiting=len(self._works), cache_bytes=self._num_cached_bytes)

    def stop(self) -> None:
        with self._condition:
            self._stopping = True
            self._condition.notify()

    def run(self) -> None:
        """Work until `stop`."""
        while (work := self._next()) is not None:
            try:
                medium: Medium | DmrError = self._encode(work.media)
            except EncodingCancelled:
                self._start_again_or_forget(work)
                continue
            except DmrError as error:
                medium = error
            except Exception:
                logger.exception("an image or sound could not be encoded")
                medium = InternalError("The engine failed.")
            self._finish(work, medium)

    def _enter(self, order: MediaOrder, media: EngineMedia, digest: bytes) -> None:
        known = self._cache.get(digest)
        if known is not None:
            self._cache.move_to_end(digest)
            self._counted = self._counted._replace(num_hits=self._counted.num_hits + 1)
            order.put(known)
            return
        work = self._works.get(digest)
        if work is None:
            work = self._works[digest] = _Work(media, digest)
            self._queue.append(work)
            self._condition.notify()
        if order not in work.orders:
            work.orders.append(order)

    def _known(self, digest: bytes) -> Medium | None:
        with self._condition:
            return self._cache.get(digest)

    def _encode(self, media: EngineMedia) -> Medium:
        medium = self._reader.read(media)
        began = time.monotonic()
        try:
            with self._cores.alone("projector"):
                return self._reader.encode(medium, self._cores.give_way)
        finally:
            with self._condition:
                seconds = self._counted.seconds + time.monotonic() - began
                self._counted = self._counted._replace(seconds=seconds)

    def _next(self) -> _Work | None:
        """Waits while there is nothing to do. None = stop."""
        with self._condition:
            while not (self._queue or self._stopping):
                self._condition.wait()
            if self._stopping:
                return None
            work = self._queue.popleft()
            work.is_running = True
            return work

    def _start_again_or_forget(self, work: _Work) -> None:
        """It was cancelled; somebody may have asked for it since."""
        with self._condition:
            work.is_running = False
            if work.orders:
                self._queue.appendleft(work)
            else:
                del self._works[work.digest]

    def _finish(self, work: _Work, medium: Medium | DmrError) -> None:
        with self._condition:
            del self._works[work.digest]
            if isinstance(medium, DmrError):
                for order in work.orders:
                    if not order.result.done():
                        order.result.set_result(medium)
                return
            self._counted = self._counted._replace(num_encoded=self._counted.num_encoded + 1)
            self._keep(medium)
            for order in work.orders:
                if order.put(medium) and not order.result.done():
                    order.settle()

    def _keep(self, medium: Medium) -> None:
        if medium.num_bytes > self._cache_bytes:
            return
        self._cache[medium.digest] = medium
        self._num_cached_bytes += medium.num_bytes
        while self._num_cached_bytes > self._cache_bytes:
            _, oldest = self._cache.popitem(last=False)
            self._num_cached_bytes -= oldest.num_bytes
