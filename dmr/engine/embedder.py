"""Texts of many requests to vectors: merged into few native calls, and fair to each request."""

from __future__ import annotations

import bisect
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, NamedTuple, Protocol

from dmr.engine.core_share import CoreShare
from dmr.errors import DmrError, InternalError, Overloaded
from dmr.types import Timings
from dmr.wire import EngineReply, WireError

TEXTS_PER_PLACE = 16  # that may wait for each place of `max_queue`: a text is short work beside an answer

if TYPE_CHECKING:
    from dmr.engine.embed_runner import Vector

logger = logging.getLogger(__name__)

MakeReply = Callable[["list[Vector]", Timings], EngineReply]


class Runner(Protocol):
    """What the embedder needs of the native side."""

    max_batch_tokens: int
    max_texts: int

    def run(self, texts: list[list[int]], num_threads: int) -> list[Vector]: ...
    def rest(self) -> None: ...


class EmbedJob:
    """One request: its texts, and the vectors that are there already. `reply` is set once, by the embedder."""

    def __init__(self, texts: list[list[int]], make_reply: MakeReply) -> None:
        """`texts`: token ids, none of them empty."""
        self.texts = texts
        self.reply: Future[EngineReply] = Future()
        self.reply.set_running_or_notify_cancel()  # from here on, who waits cannot cancel it under our hands
        self._make_reply = make_reply
        self._vectors: dict[int, Vector] = {}
        self._waiting = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        self._lengths = [len(texts[index]) for index in self._waiting]
        self._arrived = time.monotonic()
        self._started = 0.0

    @property
    def is_waiting(self) -> bool:
        """Whether texts are left that no batch has taken."""
        return bool(self._waiting)

    @property
    def is_done(self) -> bool:
        return len(self._vectors) == len(self.texts)

    def take(self, room: int | None) -> int | None:
        """Hand out the longest text of `room` tokens at most (None = of any length): its index, if there is one."""
        place = len(self._lengths) if room is None else bisect.bisect_right(self._lengths, room)
        if place == 0:
            return None
        self._started = self._started or time.monotonic()
        self._lengths.pop(place - 1)
        return self._waiting.pop(place - 1)

    def put(self, index: int, vector: Vector) -> None:
        self._vectors[index] = vector

    def answer(self) -> EngineReply:
        now = time.monotonic()
        started = self._started or now
        timings = Timings(queued=started - self._arrived, prefill=now - started)
        return self._make_reply([self._vectors[index] for index in range(len(self.texts))], timings)


class Place(NamedTuple):
    """One text of a batch."""

    job: EmbedJob
    number: int  # of the text in its request

    @property
    def tokens(self) -> list[int]:
        return self.job.texts[self.number]


def pack(jobs: deque[EmbedJob], max_texts: int, max_tokens: int) -> list[Place]:
    """The next batch, a text of each job in turn. A text that is too long for any batch gets one of its own.

    Jobs whose texts are all handed out leave `jobs`. Who got nothing comes first the next time.
    """
    batch: list[Place] = []
    passed_over: list[EmbedJob] = []
    room = max_tokens
    while jobs and len(batch) < max_texts and room > 0:
        job = jobs.popleft()
        index = job.take(room if batch else None)
        if index is None:
            passed_over.append(job)
            continue
        batch.append(Place(job, index))
        room -= len(job.texts[index])
        if job.is_waiting:
            jobs.append(job)
    jobs.extendleft(reversed(passed_over))
    return batch


class Embedder:
    """Owns the queue and a thread (`run`). All other threads use `submit` and `abort`."""

    def __init__(self, runner: Runner, cores: CoreShare, max_queue: int) -> None:
        self._runner = runner
        self._cores = cores
        self._max_texts = max_queue * TEXTS_PER_PLACE
        self._jobs: deque[EmbedJob] = deque()  # with texts that no batch has taken
        self._in_flight: set[EmbedJob] = set()
        self._num_texts = 0  # of all jobs in flight
        self._condition = threading.Condition()
        self._stopping = False

    def submit(self, job: EmbedJob) -> None:
        """Queue a request; what becomes of it is told by `job.reply`.

        Raises:
            Overloaded: too many texts wait already.
        """
        if not job.texts:
            _settle(job)
            return
        with self._condition:
            if self._num_texts and self._num_texts + len(job.texts) > self._max_texts:
                raise Overloaded(f"{self._num_texts} texts are waiting already; try again in a moment.")
            self._num_texts += len(job.texts)
            self._in_flight.add(job)
            self._jobs.append(job)
            self._condition.notify()

    def abort(self, job: EmbedJob) -> None:
        """Drop what of a request is not computed yet. Harmless when it has finished. No reply follows."""
        with self._condition:
            self._retire(job)

    def stop(self) -> None:
        with self._condition:
            self._stopping = True
            self._condition.notify()

    def run(self) -> None:
        """Work until `stop`."""
        while batch := self._next_batch():
            try:
                vectors = self._compute([place.tokens for place in batch])
            except Exception as error:
                if not isinstance(error, DmrError):
                    logger.exception("a batch of texts failed")
                self._fail(batch, error if isinstance(error, DmrError) else InternalError("The engine failed."))
                continue
            for place, vector in zip(batch, vectors, strict=True):
                place.job.put(place.number, vector)
            self._finish(batch)

    def _compute(self, texts: list[list[int]]) -> list[Vector]:
        with self._cores.at_work("embedder"):
            return self._runner.run(texts, self._cores.num_threads(time.monotonic()))

    def _next_batch(self) -> list[Place]:
        """Waits while there is nothing to do. Empty = stop."""
        while True:
            with self._condition:
                if self._stopping:
                    return []
                if self._jobs:
                    return pack(self._jobs, self._runner.max_texts, self._runner.max_batch_tokens)
            # Freeing memory takes its time, in which others may submit.
            self._runner.rest()
            with self._condition:
                while not (self._jobs or self._stopping):
                    self._condition.wait()

    def _finish(self, batch: list[Place]) -> None:
        for job in dict.fromkeys(place.job for place in batch):
            with self._condition:
                is_wanted = job.is_done and self._retire(job)
            if is_wanted:
                _settle(job)

    def _fail(self, batch: list[Place], error: DmrError) -> None:
        for job in dict.fromkeys(place.job for place in batch):
            with self._condition:
                is_wanted = self._retire(job)
            if is_wanted:
                job.reply.set_result(WireError.of(error))

    def _retire(self, job: EmbedJob) -> bool:
        """False: it has been retired before."""
        if job not in self._in_flight:
            return False
        self._in_flight.remove(job)
        self._num_texts -= len(job.texts)
        if job in self._jobs:
            self._jobs.remove(job)
        return True


def _settle(job: EmbedJob) -> None:
    try:
        reply = job.answer()
    except Exception:
        logger.exception("the vectors of a request could not be told")
        reply = WireError.of(InternalError("The engine failed."))
    job.reply.set_result(reply)
