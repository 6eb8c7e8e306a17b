"""The engine's thread: takes what arrives, steps while there is work, hands out what a step gave in one go."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from dmr.config import EngineSettings
from dmr.engine.deadlines import Deadlines, Expired
from dmr.engine.engine import Deliver, Engine, Request
from dmr.engine.queue_limits import QueueLimits
from dmr.errors import DeadlineExceeded, DmrError, InternalError, Overloaded
from dmr.wire import EngineCompleted, EngineMessage, WireError

logger = logging.getLogger(__name__)


class Delivery(NamedTuple):
    request: Request
    message: EngineMessage


Publish = Callable[[list[Delivery]], None]


class StepLoop:
    """All other threads speak to the engine through `submit` and `abort`."""

    def __init__(self, make_engine: Callable[[Deliver], Engine], settings: EngineSettings) -> None:
        """`make_engine` is given the function that takes the engine's messages."""
        self._deliveries: list[Delivery] = []
        self._engine = make_engine(lambda request, message: self._deliveries.append(Delivery(request, message)))
        self._settings = settings
        self._arrived: deque[Request] = deque()
        self._aborted: deque[Request] = deque()
        self._in_flight: set[Request] = set()
        self._limits = QueueLimits(settings)
        self._deadlines = Deadlines(settings.queue_timeout, settings.request_timeout)
        self._condition = threading.Condition()
        self._stopping = False

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
            self._limits.enter(_client_of(request), len(request.sequences))
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
                self._engine.check_integrity()
                self._tidy()

    def _tidy(self) -> None:
        """Until something comes."""
        while not (self._arrived or self._aborted or self._stopping) and self._engine.tidy():
            pass

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
                self._retire(request)
            for expired in self._deadlines.take_expired(time.monotonic()):
                self._engine.abort(expired.request)
                self._deliveries.append(Delivery(expired.request, WireError.of(self._reason(expired))))
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
        if not self._deliveries:
            return
        deliveries, self._deliveries = self._deliveries, []
        with self._condition:
            for request, message in deliveries:
                if isinstance(message, (EngineCompleted, WireError)):
                    self._retire(request)
        publish(deliveries)

    def _retire(self, request: Request) -> None:
        if request in self._in_flight:
            self._in_flight.remove(request)
            self._deadlines.forget(request)
            self._limits.leave(_client_of(request), len(request.sequences))


def _client_of(request: Request) -> str:
    return request.sequences[0].client
