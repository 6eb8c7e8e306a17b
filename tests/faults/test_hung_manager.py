"""Row 33 again: a manager that stands still is ended as an engine is, and who waits for it gets an error."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import time
from collections.abc import Callable

from e2e.conftest import Server, children_of, is_alive, wait_until
from e2e.test_faults import CHAT, MODEL, cmdline

Start = Callable[..., Server]
OTHER = "test/tiny-think"


def manager_of(server: Server) -> int:
    [manager] = [pid for pid in children_of(server.process.pid) if b"dmr.manager" in cmdline(pid)]
    return manager


def test_a_stopped_manager_is_replaced_and_who_waits_for_it_is_told(own_server: Start) -> None:
    server = own_server(DMR_CONTEXT_SIZE="2048", DMR_HANG_TIMEOUT="3")
    server.chat(MODEL, max_tokens=1)
    manager, engines = manager_of(server), server.engine_pids()
    os.kill(manager, signal.SIGSTOP)
    chat = {"model": OTHER, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        openai = pool.submit(server.post, CHAT, chat)
        anthropic = pool.submit(server.post, "/v1/messages", chat)
        ollama = pool.submit(server.post, "/api/chat", chat)
        began = time.monotonic()
        assert server.get("/health").status == 200
        # "Overloaded" has a status of its own in the second.
        assert [each.result(30).status for each in (openai, anthropic, ollama)] == [503, 529, 503]
        assert time.monotonic() - began < 15
    assert "manager" in openai.result().json()["error"]["message"]
    assert anthropic.result().json()["error"]["type"] == "overloaded_error"
    assert "manager" in ollama.result().json()["error"]
    assert "Retry-After" in openai.result().headers
    wait_until(lambda: server.get("/ready").status == 200)
    assert server.chat(OTHER, max_tokens=2)["usage"]["completion_tokens"] == 2
    assert server.chat(MODEL, max_tokens=2)["usage"]["completion_tokens"] == 2
    assert not is_alive(manager)
    assert not any(map(is_alive, engines)), "its engines end with it, although it was stopped"
    assert f"(pid {manager}) has said nothing for 3 s: it is killed" in server.log.read_text()


def test_a_server_that_was_stopped_as_a_whole_blames_nobody(own_server: Start) -> None:
    """As a suspended machine is, or a container that is paused."""
    server = own_server(DMR_HANG_TIMEOUT="2")
    family = [server.process.pid, *children_of(server.process.pid)]
    manager = manager_of(server)
    for pid in family:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(3.0)
    # The one that looks goes on before the one that it looks at.
    for pid in family:
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.2)
    time.sleep(1.0)
    assert manager_of(server) == manager
    assert server.get("/ready").status == 200
