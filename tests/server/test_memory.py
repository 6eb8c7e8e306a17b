"""What a worker with many threads holds after thousands of requests."""

from __future__ import annotations

import json
import platform
import random
import re
import threading
from pathlib import Path

import pytest
from faults.live_servers import Start, start, worker_pids
from server.test_live import request
from server.test_thread_worker import held

from dmr import thread_caches

__all__ = ["start"]

NUM_THREADS = 200
NUM_CLIENTS = 8
MAY_GROW = 3.0  # MB; with caches of freed memory for each thread it is twice that, and goes on


def anonymous_mb(pid: int) -> float:
    found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024 / 1e6


def ask(port: int, count: int) -> None:
    """Bodies of all sizes, as they are in earnest."""

    def client(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(count // NUM_CLIENTS):
            messages = [{"role": "user", "content": "x" * dice.randrange(1000)}]
            body = json.dumps({"model": "fast", "messages": messages})
            assert request(port, "POST", "/v1/chat/completions", body)[0] == 200

    clients = [threading.Thread(target=client, args=(count + number,)) for number in range(NUM_CLIENTS)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries of C keep no such caches")
def test_memory_does_not_grow_with_requests(start: Start) -> None:
    environ = {thread_caches.VARIABLE: thread_caches.NONE}
    server, port = start(DMR_WORKER_THREADS=str(NUM_THREADS), **environ)
    with held(port, NUM_THREADS - 1):
        pass  # every thread has been used
    ask(port, 2000)
    (worker,) = worker_pids(server)
    warm = anonymous_mb(worker)
    ask(port, 6000)
    assert anonymous_mb(worker) - warm < MAY_GROW
