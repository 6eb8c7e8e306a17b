"""One core budget for all that computes in this process: generation, embeddings, pictures.

Each of two contexts that took every core would wait for the other's threads many times in a step. So while both are at
work, each gets its part. The encoder of pictures cannot be told how many threads to use from step to step: it takes
every core, and turns with the others.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from dmr.engine.core_budget import CoreBudget, CpuTimes, read_cpu_times
from dmr.engine.core_turns import CoreTurns
from dmr.engine.watchdog import Watchdog, Watched

LINGER = 0.25  # seconds after its last step in which somebody still counts as being at work


class CoreShare(CoreBudget):
    """For several threads. Whoever asks for threads does so `at_work`."""

    def __init__(
        self,
        num_cores: int,
        read: Callable[[], CpuTimes | None] = read_cpu_times,
        clock: Callable[[], float] = time.monotonic,
        watchdog: Watchdog | None = None,
    ) -> None:
        """`read` giving None: there are always `num_cores`, whatever other processes do.

        `watchdog` is told of all that is at work.
        """
        super().__init__(num_cores, read)
        self._watchdog = watchdog
        self._clock = clock
        self._lock = threading.Lock()
        self._turns = CoreTurns()
        self._at_work: set[str] = set()
        self._left: dict[str, float] = {}  # when somebody's last step ended

    def at_work(self, who: str) -> _AtWork:
        """Inside, somebody computes. Waits while another is `alone`."""
        return _AtWork(self, who)

    @contextlib.contextmanager
    def alone(self, who: str) -> Iterator[None]:
        """With every core, whatever other processes do; waits for those who are `at_work`. To `give_way` often."""
        with self._turns.alone(), self._watching(who):
            yield

    def give_way(self) -> None:
        """For who is alone: those who wait to be at work are now, once."""
        self._turns.give_way()

    def num_threads(self, now: float) -> int:
        """For the step that begins `now`, of one of those who are at work: an equal part of what is free."""
        with self._lock:
            lingering = {who for who, left in self._left.items() if now - left < LINGER}
            return max(1, super().num_threads(now) // max(1, len(self._at_work | lingering)))

    def settle_on(self, num_threads: int, look: CpuTimes) -> None:
        with self._lock:
            super().settle_on(num_threads, look)

    def _begin(self, who: str) -> Watched | None:
        self._turns.join()
        with self._lock:
            self._at_work.add(who)
        return self._watchdog.begin(who) if self._watchdog else None

    def _end(self, who: str, watched: Watched | None) -> None:
        if self._watchdog and watched:
            self._watchdog.end(watched)
        with self._lock:
            self._at_work.remove(who)
            self._left[who] = self._clock()
        self._turns.leave()

    def _watching(self, who: str) -> contextlib.AbstractContextManager[None]:
        return self._watchdog.watching(who) if self._watchdog else contextlib.nullcontext()


class _AtWork:
    """Every step is in one, so it is no generator, which would take several times as long."""

    __slots__ = ("_cores", "_watched", "_who")

    def __init__(self, cores: CoreShare, who: str) -> None:
        self._cores = cores
        self._who = who
        self._watched: Watched | None = None

    def __enter__(self) -> None:
        self._watched = self._cores._begin(self._who)

    def __exit__(self, *_: object) -> None:
        self._cores._end(self._who, self._watched)
