"""Who computes when: several share the cores, or one has them alone, and neither waits for ever."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from dmr.engine.core_share import CoreShare
from dmr.engine.core_turns import CoreTurns

PATIENCE = 5.0


@contextlib.contextmanager
def sharing(turns: CoreTurns) -> Iterator[None]:
    turns.join()
    try:
        yield
    finally:
        turns.leave()


def start(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


class Steps:
    """A thread that steps all the time, and says whether somebody was alone meanwhile."""

    def __init__(self, turns: CoreTurns) -> None:
        self._turns = turns
        self._over = threading.Event()
        self.num_steps = 0
        self.is_stepping = False
        self.thread = start(self._run)

    def _run(self) -> None:
        while not self._over.is_set():
            with sharing(self._turns):
                self.is_stepping = True
                self.num_steps += 1
                self._over.wait(0.001)
                self.is_stepping = False

    def end(self) -> None:
        self._over.set()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


def test_several_share_at_the_same_time() -> None:
    turns, both = CoreTurns(), threading.Barrier(2, timeout=PATIENCE)

    def work() -> None:
        with sharing(turns):
            both.wait()

    threads = [start(work), start(work)]
    for thread in threads:
        thread.join(PATIENCE)
    assert not both.broken


def test_who_is_alone_gets_on_beside_those_who_never_pause_and_so_do_they() -> None:
    turns = CoreTurns()
    steps = [Steps(turns), Steps(turns)]
    try:
        with turns.alone():
            for _ in range(20):
                assert not any(each.is_stepping for each in steps)
                seen = sum(each.num_steps for each in steps)
                while not turns._num_waiting:  # both come back at once
                    pass
                turns.give_way()
                assert sum(each.num_steps for each in steps) > seen
    finally:
        for each in steps:
            each.end()


def test_giving_way_to_nobody_takes_no_time_and_keeps_the_turn() -> None:
    turns = CoreTurns()
    with turns.alone():
        turns.give_way()
        assert turns._is_alone
    with sharing(turns):
        pass


def test_a_failure_lets_go() -> None:
    turns = CoreTurns()
    for kind in (turns.alone, lambda: sharing(turns), turns.alone):
        with contextlib.suppress(KeyError), kind():
            raise KeyError
    assert not any((turns._is_alone, turns._num_sharing, turns._is_next))


def test_who_is_alone_costs_those_at_work_no_threads() -> None:
    cores = CoreShare(4, lambda: None)
    has_begun, seen = threading.Event(), list[int]()

    def step() -> None:
        has_begun.set()
        with cores.at_work("generator"):
            seen.append(cores.num_threads(0.0))

    with cores.alone("projector"):
        thread = start(step)
        assert has_begun.wait(PATIENCE)
        while not cores._turns._num_waiting:
            pass
        assert seen == []
        cores.give_way()
        assert seen == [4]
    thread.join(PATIENCE)
