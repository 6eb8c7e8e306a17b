"""The manager's process: comes up, comes back, goes away, and takes everything with it."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dmr_server.manager_process import ManagerProcess, StartFailed

COMMAND = (sys.executable, str(Path(__file__).parent / "live" / "fake_manager.py"))


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ManagerProcess]]:
    monkeypatch.setenv("DMR_RUNTIME_DIR", "")  # restored afterwards
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    started: list[ManagerProcess] = []

    def start(behaviour: str = "", **kwargs: Any) -> ManagerProcess:
        monkeypatch.setenv("FAKE_MANAGER", behaviour)
        sound: dict[str, Any] = {"runtime_dir": tmp_path / "run", "grace_period": 5.0, "command": COMMAND}
        started.append(ManagerProcess(**{**sound, **kwargs}))
        started[-1].start()
        return started[-1]

    yield start
    for manager in started:
        manager.stop()


def is_alive(pid: int | None) -> bool:
    assert pid is not None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def until(check: Callable[[], Any], seconds: float = 5) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := check()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def test_it_runs_until_it_is_stopped(start: Callable[..., ManagerProcess], tmp_path: Path) -> None:
    manager = start()
    pid = manager.pid
    assert is_alive(pid)
    assert os.environ["DMR_RUNTIME_DIR"] == str(tmp_path / "run")
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700
    manager.stop()
    assert not is_alive(pid)
    assert (tmp_path / "run").is_dir()  # a folder that was given stays
    manager.stop()


def test_its_own_folder_goes_with_it(start: Callable[..., ManagerProcess]) -> None:
    manager = start(runtime_dir=None)
    assert manager.runtime_dir.stat().st_mode & 0o777 == 0o700
    manager.stop()
    assert not manager.runtime_dir.exists()


@pytest.mark.parametrize(
    ("behaviour", "told"), [("at_once", "status 3"), ("deaf", "did not accept connections within 0.3 seconds")]
)
def test_a_failed_start_leaves_nothing(
    start: Callable[..., ManagerProcess], tmp_path: Path, behaviour: str, told: str
) -> None:
    with pytest.raises(StartFailed, match=told):
        start(behaviour, runtime_dir=None, start_timeout=0.3 if behaviour == "deaf" else 10)
    assert not list(tmp_path.glob("dmr-*"))


def test_a_path_too_long_for_a_socket_is_told(start: Callable[..., ManagerProcess], tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match="too long"):
        start(runtime_dir=tmp_path / ("x" * 100))


def test_it_comes_back_when_it_dies(start: Callable[..., ManagerProcess]) -> None:
    manager = start(first_backoff=0.01)
    for _ in range(2):
        pid = manager.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert until(lambda pid=pid: manager.pid not in (None, pid) and is_alive(manager.pid))


def test_what_does_not_go_is_killed(start: Callable[..., ManagerProcess]) -> None:
    manager = start("stubborn", grace_period=0.2)
    pid = manager.pid
    manager.stop()
    assert not is_alive(pid)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_worker_holds_no_life_line(start: Callable[..., ManagerProcess]) -> None:
    manager = start()
    pid = manager.pid
    child = os.fork()
    if child == 0:  # lives on after its parent let go, and stops nothing of its parent's
        manager.stop()
        signal.pause()
        os._exit(0)
    try:
        time.sleep(0.1)
        assert is_alive(pid)
        started = time.monotonic()
        manager.stop()
        assert time.monotonic() - started < 3  # by its life line, not by the kill after the grace period
        assert not is_alive(pid)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
