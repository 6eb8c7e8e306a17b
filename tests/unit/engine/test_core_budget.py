from __future__ import annotations

import pytest

from dmr.engine.core_budget import INTERVAL, STALE, CoreBudget, CpuTimes, read_cpu_times


class Kernel:
    """Processor times that a test moves on."""

    def __init__(self) -> None:
        self.times = CpuTimes(0.0, 0.0, 0.0)

    def read(self) -> CpuTimes:
        return self.times

    def go_on(self, seconds: float, own: float, others: float) -> float:
        """Let time pass while we and others use so many cores; returns the time."""
        at, everybody, mine = self.times
        self.times = CpuTimes(at + seconds, everybody + (own + others) * seconds, mine + own * seconds)
        return self.times.at


@pytest.mark.parametrize(
    ("num_cores", "own", "others", "expected"),
    [
        (2, 2.0, 0.0, 2),
        (2, 1.8, 0.2, 2),  # background noise
        (2, 1.2, 0.8, 1),  # a neighbour that two spinning threads press into what is left
        (2, 1.0, 1.0, 1),
        (2, 0.1, 1.9, 1),
        (8, 8.0, 0.0, 8),
        (8, 5.0, 3.0, 5),
        (8, 0.0, 8.0, 1),
        (8, 4.0, 0.0, 8),  # not all of ours is parallel
        (1, 0.5, 0.5, 1),
        (4, 5.0, -0.5, 4),  # clocks that do not agree
    ],
)
def test_others_leave_us_the_rest(num_cores: int, own: float, others: float, expected: int) -> None:
    kernel = Kernel()
    budget = CoreBudget(num_cores, kernel.read)
    assert budget.num_threads(0.0) == num_cores
    assert budget.num_threads(kernel.go_on(2 * INTERVAL, own, others)) == expected


def test_it_follows_what_happens() -> None:
    kernel = Kernel()
    budget = CoreBudget(2, kernel.read)
    assert budget.num_threads(kernel.go_on(INTERVAL, 1.0, 1.0)) == 1
    assert budget.num_threads(kernel.go_on(INTERVAL / 2, 1.0, 0.0)) == 1  # too early to look again
    assert budget.num_threads(kernel.go_on(INTERVAL, 1.0, 0.0)) == 2


def test_a_long_pause_says_nothing_about_now() -> None:
    kernel = Kernel()
    budget = CoreBudget(2, kernel.read)
    assert budget.num_threads(kernel.go_on(STALE + 0.1, 0.0, 2.0)) == 2
    assert budget.num_threads(kernel.go_on(INTERVAL, 0.0, 2.0)) == 1
    assert budget.num_threads(kernel.go_on(STALE + 0.1, 0.0, 2.0)) == 2  # whoever that was may be gone


def test_a_kernel_that_does_not_tell() -> None:
    assert CoreBudget(4, lambda: None).num_threads(100.0) == 4


def test_this_kernel_tells() -> None:
    first = read_cpu_times()
    assert first is not None
    while (second := read_cpu_times()) is None or second.own - first.own < 0.05:
        sum(range(1000))
    assert second.everybody - first.everybody >= 0.02  # counted in hundredths of a second
