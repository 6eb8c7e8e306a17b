"""What the manager's process keeps of models that were loaded and unloaded."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from unit.manager.conftest import Bench
from unit.manager.test_manager_server import acquire, process, wait_for

from dmr.client import ManagerClient
from dmr.manager.__main__ import SOCKET_NAME

__all__ = ["process"]  # a fixture
NUM_CYCLES = 20
NUM_BEFORE = 3
MAX_POOL = 8  # less than a thread for each cycle


class Held(NamedTuple):
    num_files: int
    num_threads: int
    num_children: int


def held(pid: int) -> Held:
    folder = Path(f"/proc/{pid}")
    threads = list((folder / "task").iterdir())
    children = [child for thread in threads for child in (thread / "children").read_text().split()]
    return Held(len(list((folder / "fd").iterdir())), len(threads), len(children))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="there is no /proc to look at")
def test_twenty_cycles_leave_no_descriptor_thread_or_process(bench: Bench, process: subprocess.Popen[bytes]) -> None:
    client = ManagerClient(bench.folder / SOCKET_NAME)

    def cycle() -> None:
        acquire(client).close()
        wait_for(lambda: client.unload_models(None) == 1)

    for _ in range(NUM_BEFORE):
        cycle()
    # The connection of the last question may still be closing.
    most = Held(*(max(values) for values in zip(*(held(process.pid) for _ in range(5)), strict=True)))
    assert most.num_children == 0
    most = most._replace(num_threads=most.num_threads + MAX_POOL)  # a pool of threads fills when it is busy
    for _ in range(NUM_CYCLES):
        cycle()
    wait_for(lambda: all(now <= before for now, before in zip(held(process.pid), most, strict=True)))
    (life,) = client.lifecycle().models
    assert (life.num_loads, life.evictions) == (NUM_BEFORE + NUM_CYCLES, {"unload": NUM_BEFORE + NUM_CYCLES})
    assert list(bench.folder.glob("engine-*.sock")) == []
