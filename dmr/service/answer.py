"""An answer while it comes."""

from __future__ import annotations

from collections.abc import Generator, Iterator

from dmr.client import Readiness
from dmr.types import Event


class Answer:
    """The events of one request, as an iterator that may wait. Closing it is the abort.

    From its first event but `Tick` on, a loop may serve it beside others: after `dont_wait` it yields a Tick where it
    would have waited, `is_drained` tells such a Tick from others, and `fileno` is readable when there is more.
    """

    def __init__(self, events: Generator[Event, None, None], readiness: Readiness) -> None:
        self._events = events
        self._readiness = readiness

    def __iter__(self) -> Iterator[Event]:
        return self._events

    def __next__(self) -> Event:
        return next(self._events)

    def close(self) -> None:
        self._events.close()

    def fileno(self) -> int:
        return self._readiness.fileno()

    def dont_wait(self) -> None:
        self._readiness.dont_wait()

    @property
    def is_drained(self) -> bool:
        """Whether the last Tick came because there is nothing until `fileno` is readable."""
        return self._readiness.is_drained
