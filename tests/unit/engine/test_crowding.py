"""Steps that stand in a crowd are ended, once, and no others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from dmr.engine.core_budget import CoreBudget, CpuTimes
from dmr.engine.crowding import INTERVAL, Crowding
from dmr.engine.prefill_pacer import PrefillPacer


@contextlib.contextmanager
def step(crowding: Crowding, expected: float) -> Iterator[None]:
    crowding.begin(expected)
    yield
    crowding.end()


class World:
    """A machine with two cores; `crowding` is looked at by hand."""

    def __init__(self) -> None:
        self.times = CpuTimes(0.0, 0.0, 0.0)
        self.budget = CoreBudget(2, lambda: self.times)
        self.num_threads = 2
        self.num_interrupted = 0
        self.crowding = Crowding(
            self.budget, lambda: self.num_threads, self.interrupt, lambda: self.times, lambda: self.times.at
        )
        self.crowding._thread = object()  # type: ignore[assignment]  # none is begun

    def interrupt(self) -> None:
        self.num_interrupted += 1

    def go_on(self, seconds: float, others: float) -> None:
        """Let time pass, with looks, while others use so many of the cores and we the rest."""
        for _ in range(round(seconds / INTERVAL)):
            at, everybody, own = self.times
            self.times = CpuTimes(at + INTERVAL, everybody + 2 * INTERVAL, own + (2 - others) * INTERVAL)
            self.crowding.look()


def test_a_step_whose_core_another_process_takes_is_ended_and_comes_again_with_one_thread() -> None:
    world = World()
    with step(world.crowding, 0.1):
        world.go_on(0.3, others=1.0)
        assert world.num_interrupted == 0
        world.go_on(0.2, others=1.0)
    assert world.num_interrupted == 1
    assert world.budget.num_threads(world.times.at) == 1
    world.num_threads = 1
    with step(world.crowding, 0.1):
        world.go_on(5, others=1.0)
    assert world.num_interrupted == 1


def test_a_long_step_gets_the_time_that_it_should_take() -> None:
    world = World()
    with step(world.crowding, 1.0):
        world.go_on(2.9, others=1.0)
    assert world.num_interrupted == 0


@pytest.mark.parametrize(("expected", "others"), [(0.1, 0.0), (0.1, 0.3), (0.0, 1.0)])
def test_who_is_late_without_a_crowd_or_without_a_measure_goes_on(expected: float, others: float) -> None:
    world = World()
    with step(world.crowding, expected):
        world.go_on(5, others)
    assert world.num_interrupted == 0


def test_a_step_is_not_ended_for_what_was_seen_of_another() -> None:
    world = World()
    for _ in range(10):
        with step(world.crowding, 0.1):
            world.go_on(0.3, others=1.0)
    assert world.num_interrupted == 0


def test_a_pacer_tells_what_a_step_should_take() -> None:
    pacer = PrefillPacer(0.1, smallest=32, largest=512)
    assert pacer.expected(100, 0) == pacer.expected(0, 4) == 0.0
    pacer.observe(100, 0, 0.1)
    assert pacer.expected(50, 0) == pytest.approx(0.05)
    assert pacer.expected(50, 4) == 0.0
    pacer.observe(0, 4, 0.02)
    assert pacer.expected(50, 4) == pytest.approx(0.07)


def test_the_thread_that_looks_begins_with_the_first_step() -> None:
    crowding = Crowding(CoreBudget(2, lambda: None), lambda: 2, lambda: None)
    assert crowding._thread is None
    with step(crowding, 0.1):
        pass
    assert crowding._thread is not None
    assert crowding._thread.daemon
