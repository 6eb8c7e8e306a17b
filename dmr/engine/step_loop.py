"""The engine's thread: takes what arrives, steps while there is work, hands out what a step gave in one go."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

import msgspec

from dmr.config import EngineSettings
from dmr.engine.deadlines import Deadlines, Expired
from dmr.engine.engine import Deliver, Engine, Request
from dmr.engine.queue_limits import QueueLimits
from dmr.errors import DeadlineExceeded, DmrError, InternalError, Overloaded
from dmr.types import Statistics
from dmr.wire import EngineCompleted, EngineMessage, WireError, is_last

AUDIT_INTERVAL = 1.0  # seconds between two looks at the books, which take as long as a small step
SNAPSHOT_INTERVAL = 0.1  # seconds between two looks at the engine's counts while it is at work

logger = logging.getLogger(__name__)


Deliveries = dict[Request, list[EngineMessage]]
Publish = Callable[[Deliveries], None]


class _Ends:
    """How many requests have ended in which way."""

    def __init__(self) -> None:
        self.num_completed = 0
        self.num_failed = 0
        self.num_aborted = 0
        self.num_refused = 0


class StepLoop:
    """All other threads speak to the engine through `submit` and `abort`."""

    def __init__(self, make_engine: Callable[[Deliver], Engine], settings: EngineSettings) -> None:
        """`make_engine` is given the function that takes the engine's messages."""
        self._deliveries: Deliveries = {}  # since the last were published
        self._engine = make_engine(self._deliver)
        self._settings = settings
        self._arrived: deque[Request] = deque()
        self._aborted: deque[Request] = deque()
        self._in_flight: set[Request] = set()
        self._limits = QueueLimits(settings)
        self._deadlines = Deadlines(settings.queue_timeout, settings.request_timeout)
        self._condition = threading.Condition()
        self._stopping = False
        self._ends = _Ends()
        self._snapshot = self._engine.statistics()
        self._snapshot_due = 0.0
        self._audit_due = 0.0

    @property
    def num_sequences(self) -> int:
        """Of all requests in flight, waiting or running."""
        return self._limits.num_sequences

    def submit(self, request: Request) -> None:
        """Queue a request.

        Raises:
            TooManyRequests: too many sequences of its client wait already.
            Overloaded: too many sequences wait already.
        """
        with self._condition:
            try:
                self._limits.enter(_client_of(request), len(request.sequences))
            except DmrError:
                self._ends.num_refused += 1
                raise
            self._deadlines.add(request, time.monotonic())
            self._in_flight.add(request)
            self._arrived.append(request)
            self._condition.notify()

    def abort(self, request: Request) -> None:
        """Stop working for a request. Harmless when it has finished."""
        with self._condition:
            self._aborted.append(request)
            self._condition.notify()
        self._engine.interrupt_for(request)

    def statistics(self) -> Statistics:
        """What was counted until `SNAPSHOT_INTERVAL` before the running step. Any thread; never waits for a step.

        Who has got the end of an answer finds all of it counted; how many run and wait is true now.
        """
        with self._condition:
            num_arrived = sum(len(request.sequences) for request in self._arrived)
            return msgspec.structs.replace(
                self._snapshot,
                num_completed=self._ends.num_completed,
                num_failed=self._ends.num_failed,
                num_aborted=self._ends.num_aborted,
                num_refused=self._ends.num_refused,
                num_running=self._engine.num_running,
                num_waiting=self._engine.num_waiting + num_arrived,
            )

    def stop(self) -> None:
        with self._condition:
            self._stopping = True
            self._condition.notify()

    def run(self, publish: Publish) -> None:
        """Work until `stop`. `publish` takes all messages of a step; it is called on this thread and must not block.

        Raises whatever leaves the engine unusable; the process must end then, so that no request waits for ever.
        """
        while self._take_news():
            self._publish(publish)
            if self._engine.has_work:
                self._step()
                self._publish(publish)
            if not self._engine.has_work:
                self._audit()
                self._tidy()

    def _audit(self) -> None:
        """Raises AssertionError when the books are wrong."""
        now = time.monotonic()
        if now >= self._audit_due:
            self._audit_due = now + AUDIT_INTERVAL
            self._engine.check_integrity()

    def _tidy(self) -> None:
        """Until something comes."""
        while not (self._arrived or self._aborted or self._stopping) and self._engine.tidy():
            self._snapshot = self._engine.statistics()

    def _step(self) -> None:
        try:
            self._engine.step()
        except Exception:
            logger.exception("a step failed; every request that was in it is given up")
            self._engine.give_up_all(InternalError("The engine failed."))

    def _take_news(self) -> bool:
        """Take in what has come, take out what is aborted or late. Waits while there is nothing to do; False = stop."""
        with self._condition:
            while not (self._arrived or self._aborted or self._stopping or self._engine.has_work):
                self._condition.wait()
            while self._arrived:
                self._engine.add(self._arrived.popleft())
            while self._aborted:
                request = self._aborted.popleft()
                self._engine.abort(request)
                if self._retire(request):
                    self._ends.num_aborted += 1
            for expired in self._deadlines.take_expired(time.monotonic()):
                self._engine.abort(expired.request)
                self._deliver(expired.request, WireError.of(self._reason(expired)))
            return not self._stopping

    def _reason(self, expired: Expired) -> DmrError:
        if expired.has_begun:
            return DeadlineExceeded(
                f"The answer was not complete after {self._settings.request_timeout:g} seconds, which is all that a "
                "request may take here."
            )
        return Overloaded(
            f"The request has waited for {self._settings.queue_timeout:g} seconds and its turn has not come.",
            retry_after=self._limits.seconds_to_drain(),
        )

    def _publish(self, publish: Publish) -> None:
        deliveries, self._deliveries = self._deliveries, {}
        ends = [(request, messages[-1]) for request, messages in deliveries.items() if is_last(messages[-1])]
        if ends or not self._engine.has_work or time.monotonic() >= self._snapshot_due:
            self._snapshot = self._engine.statistics()
            self._snapshot_due = time.monotonic() + SNAPSHOT_INTERVAL
        if ends:
            with self._condition:
                for request, message in ends:
                    if self._retire(request):
                        self._count_end(message)
        if deliveries:
            publish(deliveries)

    def _deliver(self, request: Request, message: EngineMessage) -> None:
        """The end of a request is its last message."""
        messages = self._deliveries.get(request)
        if messages is None:
            self._deliveries[request] = [message]
        else:
            messages.append(message)

    def _count_end(self, message: EngineMessage) -> None:
        if isinstance(message, EngineCompleted):
            self._ends.num_completed += 1
        else:
            self._ends.num_failed += 1

    def _retire(self, request: Request) -> bool:
        """False: it has been before."""
        if request not in self._in_flight:
            return False
        self._in_flight.remove(request)
        self._deadlines.forget(request)
        self._limits.leave(_client_of(request), len(request.sequences))
        return True


def _client_of(request: Request) -> str:
    return request.sequences[0].client
