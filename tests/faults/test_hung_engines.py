"""Row 33: an engine that stands still is ended; who waits for it gets an error, and the next request a new engine."""

from __future__ import annotations

import concurrent.futures
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from e2e.conftest import Server, children_of, is_alive, wait_until
from e2e.test_faults import CHAT, ENDLESS, MODEL, cmdline, opened

Start = Callable[..., Server]


def num_running(server: Server) -> int:
    found = re.findall(r"^dmr_running_sequences{.*} (\d+)", server.get("/metrics").data.decode(), re.MULTILINE)
    return sum(map(int, found))


def test_a_stopped_engine_costs_its_own_requests_only(own_server: Start) -> None:
    server = own_server(DMR_CONTEXT_SIZE="8192", DMR_HANG_TIMEOUT="3")
    server.chat(MODEL, max_tokens=1)
    [hung] = server.engine_pids()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        stream = pool.submit(server.post, CHAT, ENDLESS)
        whole = pool.submit(server.post, CHAT, {**ENDLESS, "stream": False})
        wait_until(lambda: num_running(server) == 2)
        os.kill(hung, signal.SIGSTOP)
        # Meanwhile the server can be looked at, and another model answers.
        assert server.get("/engines/ps").status == 200
        assert server.get("/metrics").status == 200
        server.chat("test/tiny-script")
        assert b'"error"' in stream.result(30).data.splitlines()[-2]
        answer = whole.result(30)
    assert answer.status == 503
    assert "hung" in answer.json()["error"]["message"]
    assert "Retry-After" in answer.headers
    assert server.chat(MODEL, max_tokens=2)["usage"]["completion_tokens"] == 2
    assert hung not in server.engine_pids()


def test_a_busy_engine_is_not_taken_for_a_hung_one(own_server: Start) -> None:
    server = own_server(DMR_CONTEXT_SIZE="8192", DMR_HANG_TIMEOUT="5")
    server.chat(MODEL, max_tokens=1)
    before = server.engine_pids()
    over = time.monotonic() + 8.0
    with opened(server, ENDLESS) as stream:
        while time.monotonic() < over:
            assert b'"error"' not in stream.recv(1 << 16)
        assert server.engine_pids() == before


def test_an_engine_ends_itself_when_a_computation_stands_still() -> None:
    """As a grammar that explodes inside the sampler does: its event loop lives on, so nobody else would notice."""
    program = """
import asyncio, os
from dmr.engine.watchdog import Watchdog
from dmr.engine.worker import StatusPipe, beat

async def main():
    watchdog = Watchdog(1.0, lambda: 7)
    with watchdog.watching("generator"):
        await beat(StatusPipe(os.open(os.devnull, os.O_WRONLY)), watchdog)

asyncio.run(main())
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "the engine hangs: the generator has computed nothing" in ended.stderr.splitlines()[-1]
    assert "Current thread" in ended.stderr, "where it hangs is to be seen in the log"


def test_a_stopped_engine_does_not_outlive_its_manager(own_server: Start) -> None:
    """It cannot see that its life line has closed, and its requests would wait for it for ever."""
    server = own_server(DMR_CONTEXT_SIZE="8192")
    server.chat(MODEL, max_tokens=1)
    [hung] = server.engine_pids()
    [manager] = [pid for pid in children_of(server.process.pid) if b"dmr.manager" in cmdline(pid)]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        whole = pool.submit(server.post, CHAT, {**ENDLESS, "stream": False})
        wait_until(lambda: num_running(server) == 1)
        os.kill(hung, signal.SIGSTOP)
        os.kill(manager, signal.SIGKILL)
        assert whole.result(30).status == 503
    wait_until(lambda: not is_alive(hung))
    wait_until(lambda: server.get("/ready").status == 200)
    assert server.chat(MODEL, max_tokens=2)["usage"]["completion_tokens"] == 2
