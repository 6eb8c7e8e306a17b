"""A manager that is stopped or hangs: noticed by its silence, killed, and started again like one that died."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from server.test_manager_process import is_alive, start, until

from dmr_server.manager_beats import ManagerBeats
from dmr_server.manager_process import ManagerProcess

__all__ = ["start"]

Start = Callable[..., ManagerProcess]
QUICK = {"hang_timeout": 0.5, "look_interval": 0.05, "first_backoff": 0.01}


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What the master's log says."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("gunicorn.error")
    log.addHandler(handler)
    yield lines
    log.removeHandler(handler)


def test_one_that_is_stopped_is_replaced(start: Start, told: list[str]) -> None:
    manager = start(**QUICK)
    for _ in range(2):  # its successor is watched as well
        pid = manager.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        assert until(lambda pid=pid: manager.pid != pid and is_alive(manager.pid))
        assert not is_alive(pid)
        assert told[-2] == f"The manager (pid {pid}) has said nothing for 0.5 s: it is killed."
        assert told[-1].startswith(f"The manager (pid {pid}) died; it starts again in")
        assert until(manager._accepts)


def test_one_that_never_says_anything_is_replaced_when_it_should_have_started(start: Start) -> None:
    manager = start("mute", start_timeout=1.0, **QUICK)
    pid, began = manager.pid, time.monotonic()
    assert until(lambda: manager.pid != pid)
    assert time.monotonic() - began > 0.8


def test_one_that_says_something_stays(start: Start, told: list[str]) -> None:
    manager = start(**QUICK)
    pid = manager.pid
    time.sleep(0.8)
    assert manager.pid == pid
    assert not told


def test_nobody_is_judged_when_that_is_turned_off(start: Start) -> None:
    manager = start(**{**QUICK, "hang_timeout": 0.0})
    pid = manager.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    time.sleep(0.8)
    assert manager.pid == pid
    os.kill(pid, signal.SIGKILL)  # but one that dies is noticed all the same
    assert until(lambda: manager.pid != pid and is_alive(manager.pid))


def test_one_that_is_stopped_does_not_hold_up_the_end(start: Start, told: list[str]) -> None:
    manager = start(**QUICK, grace_period=30.0)
    pid, began = manager.pid, time.monotonic()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    manager.stop()
    assert time.monotonic() - began < 10
    assert not is_alive(pid)
    assert not any("starts again" in line for line in told)


def test_silence_is_counted_in_looks() -> None:
    """While this process stood still nobody was heard, and nobody is to be blamed for it."""
    with closing(ManagerBeats(patience=0.1, first_patience=0.0, look_interval=0.01)) as beats:
        os.write(beats.writing_end, b"." * 10_000)
        time.sleep(0.15)
        began = time.monotonic()
        assert beats.wait_for_silence()
        assert time.monotonic() - began > 0.09
        beats.close_writing_end()


def test_the_end_of_a_manager_is_no_silence() -> None:
    with closing(ManagerBeats(patience=30.0, first_patience=0.0)) as beats:
        beats.close_writing_end()
        assert not beats.wait_for_silence()


def test_a_patience_below_what_two_beats_take_is_not_taken_at_its_word() -> None:
    with closing(ManagerBeats(patience=0.001, first_patience=0.0, look_interval=0.05)) as beats:
        began = time.monotonic()
        assert beats.wait_for_silence()
        assert time.monotonic() - began > 0.09
        beats.close_writing_end()
