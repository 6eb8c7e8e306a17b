"""Processes that a benchmark starts: ended whatever happens, by their own ids, and watched for the CPU they take."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import urllib3

STOP_TIMEOUT = 20.0  # seconds between SIGTERM and SIGKILL
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class DidNotStart(Exception):
    """With the end of what the process said."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _end_with_parent() -> None:
    """In a new child: SIGTERM when this process dies, however it does."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


class Process:
    """One running program with all its descendants. A context manager, which ends them."""

    def __init__(self, command: Sequence[str], log: Path, environ: Mapping[str, str]) -> None:
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def family(self) -> list[int]:
        """Itself and all living descendants."""
        children: dict[int, list[int]] = {}
        for folder in Path("/proc").iterdir():
            fields = _stat(int(folder.name)) if folder.name.isdigit() else []
            if fields and fields[0] != "Z":
                children.setdefault(int(fields[1]), []).append(int(folder.name))
        found = [self._process.pid]
        for pid in found:
            found += children.get(pid, [])
        return found

    def cpu_seconds(self) -> float:
        """What the whole family has computed so far."""
        stats = [_stat(pid) for pid in self.family()]
        return sum(int(fields[11]) + int(fields[12]) for fields in stats if fields) / _TICKS_PER_SECOND

    def wait_ready(self, is_ready: Callable[[], bool], timeout: float) -> None:
        """What does not become ready is stopped. Raises DidNotStart."""
        deadline = time.monotonic() + timeout
        try:
            while not is_ready():
                if self.has_ended or time.monotonic() > deadline:
                    words = self.log.read_text(errors="replace")[-2000:]
                    raise DidNotStart(f"It {'ended' if self.has_ended else 'is not ready'}. What it said:\n{words}")
                time.sleep(0.05)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """SIGTERM; after a while SIGKILL for what is left. Safe to call twice."""
        family = self.family() if not self.has_ended else []
        if family:
            self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT)
        for pid in family:
            if (_stat(pid) or "Z")[0] != "Z":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._process.wait()


def answers(url: str) -> bool:
    """Whether a GET gets status 200."""
    try:
        return urllib3.request("GET", url, retries=False, timeout=5.0).status == 200
    except urllib3.exceptions.HTTPError:
        return False


@contextlib.contextmanager
def spinning_neighbour(log: Path) -> Iterator[None]:
    """A process that takes all the CPU time it can get on one core, as a compiler or an IDE does."""
    with Process([sys.executable, "-c", "while True: pass"], log, os.environ):
        yield
