from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from versus import processes
from versus.processes import DidNotStart, Process, answers, free_port, spinning_neighbour

# A parent with a child that takes no notice of SIGTERM.
STUBBORN = """
import signal, subprocess, sys, time
child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", child])
time.sleep(60)
"""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_whole_family_is_ended_even_by_an_exception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "STOP_TIMEOUT", 0.2)
    log = tmp_path / "log"
    family: list[int] = []

    def use_and_interrupt() -> None:
        with Process([sys.executable, "-c", STUBBORN], log, os.environ) as process:
            process.wait_ready(lambda: "up" in log.read_text(), 20.0)
            family.extend(process.family())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use_and_interrupt()
    assert len(family) == 2
    deadline = time.monotonic() + 5.0
    while any(map(is_alive, family)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("program", "timeout", "message"),
    [
        ("raise SystemExit('no such model')", 20.0, r"It ended\. What it said:\nno such model"),
        ("import time; time.sleep(60)", 0.05, "It is not ready"),
    ],
)
def test_what_does_not_start_tells_why(program: str, timeout: float, message: str, tmp_path: Path) -> None:
    process = Process([sys.executable, "-c", program], tmp_path / "log", os.environ)
    with process, pytest.raises(DidNotStart, match=message):
        process.wait_ready(lambda: False, timeout)


def children() -> set[int]:
    return set(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()))


def test_a_neighbour_is_there_as_long_as_it_is_wanted(tmp_path: Path) -> None:
    before = children()
    with spinning_neighbour(tmp_path / "log"):
        (neighbour,) = children() - before
    assert not is_alive(neighbour)


def test_cpu_time_is_that_of_the_family(tmp_path: Path) -> None:
    spin = "import time\nwhile time.process_time() < 0.1: pass\nprint('done', flush=True)\ntime.sleep(60)"
    log = tmp_path / "log"
    with Process([sys.executable, "-c", spin], log, os.environ) as process:
        process.wait_ready(lambda: "done" in log.read_text(), 20.0)
        assert process.cpu_seconds() >= 0.09
    assert process.cpu_seconds() == 0.0


def test_nobody_answers_at_a_port_that_is_free() -> None:
    assert not answers(f"http://127.0.0.1:{free_port()}/health")
