from __future__ import annotations

import threading

from dmr.engine.watchdog import Watchdog
from dmr.wire import BEAT_INTERVAL


class Work:
    """A count of operations, and a watchdog with a patience of three looks over it."""

    def __init__(self, patience: float = 3 * BEAT_INTERVAL) -> None:
        self.num_operations = 0
        self.watchdog = Watchdog(patience, lambda: self.num_operations)

    def looks(self, count: int) -> list[str | None]:
        return [self.watchdog.look() for _ in range(count)]


def test_what_stands_still_is_named() -> None:
    work = Work()
    with work.watchdog.watching("a step"):
        assert work.looks(3) == [None, None, "a step"]


def test_a_long_computation_that_gets_on_is_none() -> None:
    work = Work()
    with work.watchdog.watching("a step"):
        for _ in range(20):
            assert work.looks(2) == [None, None]
            work.num_operations += 1


def test_many_short_ones_are_none_even_if_they_count_nothing() -> None:
    """On a device nothing may be counted."""
    work = Work()
    for _ in range(20):
        with work.watchdog.watching("a step"):
            assert work.looks(2) == [None, None]


def test_nothing_to_do_is_nothing_that_hangs() -> None:
    assert Work().looks(10) == [None] * 10


def test_one_that_failed_is_over() -> None:
    work = Work()
    try:
        with work.watchdog.watching("a step"):
            raise ValueError
    except ValueError:
        pass
    assert work.looks(10) == [None] * 10


def test_without_patience_nothing_is_said() -> None:
    work = Work(patience=0)
    with work.watchdog.watching("a step"):
        assert work.looks(10) == [None] * 10


def test_each_thread_is_looked_at() -> None:
    work = Work()
    begun, over = threading.Event(), threading.Event()

    def compute() -> None:
        with work.watchdog.watching("an embedding"):
            begun.set()
            over.wait(10)

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        assert begun.wait(10)
        with work.watchdog.watching("a step"):
            assert work.looks(1) == [None]
        assert work.looks(2) == [None, "an embedding"]
    finally:
        over.set()
        thread.join()
