"""An answer while it comes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

from dmr.client import Readiness
from dmr.errors import DmrError
from dmr.types import Event
from dmr.wire import EngineMessage


class Flow:
    """How the events of an answer can be had without waiting. Filled in by who asks the engine."""

    def __init__(self) -> None:
        self.readiness = Readiness()
        self.read: Callable[[EngineMessage], list[Event]] | None = None  # None: not one message after the other


class Answer:
    """The events of one request, as an iterator that may wait. Closing it is the abort.

    From its first event but `Tick` on, a loop may serve it beside others, if it `can_be_taken`: after `dont_wait` its
    events are taken, and `fileno` is readable when there are more.
    """

    def __init__(self, events: Generator[Event, None, None], flow: Flow) -> None:
        self._events = events
        self._flow = flow

    def __iter__(self) -> Iterator[Event]:
        return self._events

    def __next__(self) -> Event:
        return next(self._events)

    def close(self) -> None:
        self._events.close()

    @property
    def can_be_taken(self) -> bool:
        return self._flow.read is not None

    def fileno(self) -> int:
        return self._flow.readiness.fileno()

    def dont_wait(self) -> None:
        """From now on events come from `take` only; after the last one it is to be closed."""
        self._flow.readiness.dont_wait()

    def take(self) -> Iterator[Event]:
        """The events that have come by now; none is lost before an error. Raises as the iterator does."""
        assert self._flow.read is not None
        try:
            for message in self._flow.readiness.take():
                yield from self._flow.read(message)
        except DmrError as error:
            # Whoever holds the lease may know why.
            self._events.throw(error)
