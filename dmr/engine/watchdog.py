"""Notices computations that stand still, so that nobody waits for them for ever.

A computation may take any time as long as it gets on: what counts is the time in which nothing was computed. It is
counted in looks, not by a clock: a process that was stopped, or a machine that slept, has not been looked at meanwhile.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from dmr.wire import BEAT_INTERVAL


class Watched:
    """One computation under way."""

    __slots__ = ("num_still", "progress", "what")

    def __init__(self, what: str, progress: int) -> None:
        self.what = what
        self.progress = progress  # at the last look at which it had changed
        self.num_still = 0  # looks since


class Watchdog:
    def __init__(self, patience: float, progress: Callable[[], int]) -> None:
        """`patience`: seconds that a computation may stand still; 0 = for ever.

        `progress`: a number that grows as long as anything is computed in this process.
        """
        self._patience = patience
        self._progress = progress
        self._lock = threading.Lock()
        self._watched: set[Watched] = set()

    @contextlib.contextmanager
    def watching(self, what: str) -> Iterator[None]:
        """Inside, something is being computed. Any thread."""
        watched = self.begin(what)
        try:
            yield
        finally:
            self.end(watched)

    def begin(self, what: str) -> Watched:
        """Something is being computed, until `end`. Any thread."""
        watched = Watched(what, self._progress())
        with self._lock:
            self._watched.add(watched)
        return watched

    def end(self, watched: Watched) -> None:
        with self._lock:
            self._watched.remove(watched)

    def look(self) -> str | None:
        """What has stood still for too long, if anything has. To be called every `BEAT_INTERVAL` seconds."""
        progress = self._progress()
        with self._lock:
            for watched in self._watched:
                watched.num_still = watched.num_still + 1 if watched.progress == progress else 0
                watched.progress = progress
                if 0 < self._patience <= watched.num_still * BEAT_INTERVAL:
                    return watched.what
        return None
