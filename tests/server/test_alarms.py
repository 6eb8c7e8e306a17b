from __future__ import annotations

import threading

from dmr_server.alarms import Alarms

LONG = 60.0


def test_an_alarm_goes_off_once() -> None:
    alarms, rung, later = Alarms(), threading.Event(), threading.Event()
    rings: list[int] = []

    def ring() -> None:
        rings.append(1)
        rung.set()

    with alarms.after(0.01, ring):
        assert rung.wait(LONG)
        with alarms.after(0.05, later.set):
            assert later.wait(LONG)
    assert rings == [1]


def test_none_goes_off_once_its_block_has_ended() -> None:
    alarms, rung, wrong = Alarms(), threading.Event(), threading.Event()
    with alarms.after(0.05, wrong.set):
        pass
    with alarms.after(0.2, rung.set):
        assert rung.wait(LONG)
    assert not wrong.is_set()


def test_a_shorter_one_does_not_wait_for_those_that_are_there() -> None:
    alarms, rung = Alarms(), threading.Event()
    with alarms.after(LONG, lambda: None), alarms.after(0.01, rung.set):
        assert rung.wait(LONG / 2)


def test_one_thread_serves_them_all() -> None:
    alarms = Alarms()
    before = {thread for thread in threading.enumerate() if thread.name == "alarms"}
    for _ in range(50):
        with alarms.after(LONG, lambda: None):
            pass
    assert len({thread for thread in threading.enumerate() if thread.name == "alarms"} - before) == 1
