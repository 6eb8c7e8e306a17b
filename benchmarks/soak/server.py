"""The server that is soaked, as its processes: which there are, what they hold, and how they are killed."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

START_TIMEOUT = 60.0
STOP_TIMEOUT = 60.0


class Holding(NamedTuple):
    """What the processes that stay for ever hold: the master, the manager, the workers."""

    num_processes: int
    rss_bytes: int
    num_files: int


class SoakedServer:
    def __init__(self, models_path: Path, folder: Path, port: int, **settings: str) -> None:
        self.port = port
        self._runtime_dir = folder / "run"
        own = {
            "MODELS_PATH": str(models_path),
            "MODEL_RUNNER_PORT": str(port),
            "DMR_RUNTIME_DIR": str(self._runtime_dir),
            "DMR_CONFIG": os.devnull,
        }
        self.log = folder / "server.log"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dmr", "serve"], env={**os.environ, **own, **settings}, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_TIMEOUT
        while not self.is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"The server did not start; see {self.log}.")
            time.sleep(0.1)

    def is_ready(self) -> bool:
        return self.status("GET", "/ready") == 200

    def status(self, method: str, path: str, body: str | None = None) -> int:
        """0 = no answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            response.read()
            return response.status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    def engines(self) -> list[int]:
        return [pid for pid, line in self._family().items() if "dmr.engine.worker" in line]

    def managers(self) -> list[int]:
        return [pid for pid, line in self._family().items() if "dmr.manager" in line]

    def workers(self) -> list[int]:
        return [pid for pid, line in self._family().items() if "gunicorn" in line and pid != self._process.pid]

    def holding(self) -> Holding:
        pids = [self._process.pid, *self.managers(), *self.workers()]
        return Holding(len(pids), sum(map(_rss, pids)), sum(map(_num_files, pids)))

    def stop(self) -> tuple[int, list[int]]:
        """SIGTERM; the exit status, and which of its processes are left."""
        family = list(self._family())
        self._process.send_signal(signal.SIGTERM)
        status = self._process.wait(STOP_TIMEOUT)
        deadline = time.monotonic() + 10
        while (left := [pid for pid in family if _is_alive(pid)]) and time.monotonic() < deadline:
            time.sleep(0.1)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        return status, left

    def _family(self) -> dict[int, str]:
        """The master and all its living descendants: pid -> command line."""
        parents = {pid: parent for pid in _pids() if (parent := _parent(pid))}
        found = [self._process.pid]
        for known in found:
            found += [pid for pid, parent in parents.items() if parent == known]
        return {pid: _command(pid) for pid in found}


def _pids() -> list[int]:
    return [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()]


def _stat(pid: int) -> list[str]:
    """From the state on; empty = it has gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _parent(pid: int) -> int:
    """0 = it has gone."""
    stat = _stat(pid)
    return int(stat[1]) if stat and stat[0] != "Z" else 0


def _is_alive(pid: int) -> bool:
    return _parent(pid) != 0


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _rss(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _num_files(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - of a process that may go any time
    except OSError:
        return 0
