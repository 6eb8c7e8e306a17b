"""How many threads a step should have: as many as there are cores that nobody else is using.

Compute threads wait for each other many times in every step. One that is not scheduled holds up all, so two threads
beside a busy neighbour are many times slower than one. The neighbour may be another engine of ours: each then settles
on its own share.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

INTERVAL = 0.25  # seconds between two looks
STALE = 1.0  # seconds after which a look tells nothing about now
TOLERATED = 0.5  # of a core: what background noise, our own frontends among it, may take from a thread


class CpuTimes(NamedTuple):
    """Seconds of processor time since some start; niced work is left out, since it yields to ours."""

    at: float
    everybody: float
    own: float


def read_cpu_times() -> CpuTimes | None:
    """From the kernel, for the cores this process may use; None where it does not tell."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return None
    names = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    ticks = 0
    for line in lines:
        name, *fields = line.split()
        if name in names:
            user, _nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(int, fields)
            ticks += user + system + irq + softirq + steal
    return CpuTimes(time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), time.process_time())


class CoreBudget:
    def __init__(self, num_cores: int, read: Callable[[], CpuTimes | None] = read_cpu_times) -> None:
        self._num_cores = num_cores
        self._read = read
        self._last = read()
        self._num_threads = num_cores

    def num_threads(self, now: float) -> int:
        """For the step that begins `now` (seconds, monotonic): 1 .. all cores. Looks once in `INTERVAL`."""
        if self._last is None or now - self._last.at < INTERVAL:
            return self._num_threads
        last, self._last = self._last, self._read()
        if self._last is None or self._last.at - last.at >= STALE:
            self._num_threads = self._num_cores  # who was busy before a pause may be gone; the next look will tell
        else:
            self._num_threads = self.threads_between(last, self._last)
        return self._num_threads

    def threads_between(self, earlier: CpuTimes, later: CpuTimes) -> int:
        """As many as there were cores that nobody else used between two looks."""
        others = (later.everybody - earlier.everybody) - (later.own - earlier.own)
        free = self._num_cores - max(0.0, others) / max(later.at - earlier.at, 1e-9)
        return max(1, min(self._num_cores, int(free + TOLERATED)))

    def settle_on(self, num_threads: int, look: CpuTimes) -> None:
        """From now on until the next look, which others have had sooner. Any thread."""
        self._last, self._num_threads = look, num_threads
