"""Ends a step that stands in a crowd, so that it is computed again with fewer threads.

The number of threads is chosen before a step. When another process takes a core in the middle of one, its threads wait
for each other a thousand times, each time for as long as the kernel lets the other run: what takes a tenth of a second
can take six. It is better to lose what was done of it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from dmr.engine.core_budget import CoreBudget, CpuTimes, read_cpu_times

INTERVAL = 0.1  # seconds between two looks at a step
LEAST = 0.3  # seconds that any step may take
LATE = 3  # times what it should take


class _Step(NamedTuple):
    began: float
    expected: float  # seconds; 0 = nobody knows


class Crowding:
    """The engine's thread calls `begin` and `end`; the looks are those of a thread that begins with the first step."""

    def __init__(
        self,
        budget: CoreBudget,
        num_threads: Callable[[], int],
        interrupt: Callable[[], None],
        read: Callable[[], CpuTimes | None] = read_cpu_times,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`num_threads`: that the running step computes with. `interrupt`: ends it; nothing of it is kept."""
        self._budget = budget
        self._num_threads = num_threads
        self._interrupt = interrupt
        self._read = read
        self._clock = clock
        self._step: _Step | None = None
        self._seen: tuple[_Step, CpuTimes] | None = None  # a step that was late at the last look
        self._is_at_work = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, expected: float) -> None:
        """A step begins, which should take so many seconds; 0 = nobody knows."""
        self._step = _Step(self._clock(), expected)
        if not self._is_at_work.is_set():
            self._is_at_work.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="crowding", daemon=True)
            self._thread.start()

    def end(self) -> None:
        self._step = None

    def look(self) -> None:
        """Once in `INTERVAL`. It takes two looks at a late step to see who has the cores."""
        step, seen, self._seen = self._step, self._seen, None
        if step is None or not step.expected or self._clock() - step.began < max(LEAST, LATE * step.expected):
            return
        now = self._read()
        if now is None:
            return
        self._seen = step, now
        if seen is None or seen[0] is not step:
            return
        num_threads = self._budget.threads_between(seen[1], now)
        if num_threads < self._num_threads() and self._step is step:
            self._step = None  # once is enough
            self._budget.settle_on(num_threads, now)
            self._interrupt()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            self._is_at_work.wait()
            self._is_at_work.clear()
            pause.wait(INTERVAL)
            self.look()
            if self._step is not None:  # it has not ended since
                self._is_at_work.set()
