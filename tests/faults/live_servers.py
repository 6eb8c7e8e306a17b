"""gunicorn with dmr's configuration over a service whose models are ways to behave: `tests/server/live`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from server.test_live import Server, until

Start = Callable[..., tuple[Server, int]]

__all__ = ["Server", "Start", "start", "until", "worker_pids"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a server; it and its port."""
    started: list[Server] = []

    def make(**environ: str) -> tuple[Server, int]:
        server = Server(tmp_path, **environ)
        started.append(server)
        port = int(server.wait_for(r"dmr listens on http://127\.0\.0\.1:(\d+)"))
        server.wait_for("(Try: curl)")
        return server, port

    yield make
    for server in started:
        server.stop()
        assert "Traceback" not in server.stderr


def worker_pids(server: Server) -> set[int]:
    """Its forks: they have its own command line."""
    parent = server.process.pid
    own = Path(f"/proc/{parent}/cmdline").read_bytes()
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text().rpartition(")")[2].split()
                if stat[0] != "Z" and int(stat[1]) == parent and (folder / "cmdline").read_bytes() == own:
                    found.add(int(folder.name))
            except OSError:
                continue
    return found
