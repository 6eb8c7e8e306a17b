"""Real gunicorn with all of its threads taken, and with clients that hold on to what they have."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from server.test_live import Server, counts, open_chat, request, until

Start = Callable[..., int]
CHAT = json.dumps({"model": "fast", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9})


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a server; its port."""
    started: list[Server] = []

    def make(**environ: str) -> int:
        server = Server(tmp_path, **environ)
        started.append(server)
        port = int(server.wait_for(r"dmr listens on http://127\.0\.0\.1:(\d+)"))
        server.wait_for("(Try: curl)")
        return port

    yield make
    for server in started:
        server.stop()
        assert "Traceback" not in server.stderr


@contextlib.contextmanager
def held(port: int, num_streams: int) -> Iterator[list[socket.socket]]:
    """So many streams that have begun and do not end."""
    with contextlib.ExitStack() as stack:
        streams = []
        for _ in range(num_streams):
            streams.append(stack.enter_context(open_chat(port, "busy", True)))
            assert streams[-1].recv(12) == b"HTTP/1.1 200"
        yield streams


def post(port: int, path: str) -> tuple[http.client.HTTPResponse, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", path, CHAT, {"Content-Type": "application/json"})
    response = connection.getresponse()
    body = json.loads(response.read())
    connection.close()
    return response, body


def test_what_finds_no_thread_is_refused_in_its_own_words(start: Start) -> None:
    port = start(DMR_WORKER_THREADS="2", MAX_WAIT="1")
    with held(port, 2):
        began = time.monotonic()
        response, body = post(port, "/v1/chat/completions")
        assert 0.9 < time.monotonic() - began < 4.0
        assert (response.status, body["error"]["code"]) == (503, "overloaded")
        assert 1 <= int(response.headers["Retry-After"]) <= 30
        response, body = post(port, "/v1/messages")
        assert (response.status, body["error"]["type"]) == (529, "overloaded_error")
        response, body = post(port, "/api/chat")
        assert (response.status, "busy" in body["error"]) == (503, True)
    assert until(lambda: post(port, "/v1/chat/completions")[0].status == 200, 5)


def test_a_full_server_can_be_looked_at(start: Start) -> None:
    port = start(DMR_WORKER_THREADS="1")
    with held(port, 1):
        for path in ("/health", "/v1/models", "/engines/ps") * 4:
            began = time.monotonic()
            assert request(port, "GET", path)[0] == 200
            assert time.monotonic() - began < 2.0


def test_who_waits_gets_the_next_thread(start: Start) -> None:
    port = start(DMR_WORKER_THREADS="1", MAX_WAIT="8")
    with held(port, 1) as (first,), open_chat(port, "fast", False) as second, open_chat(port, "fast", False) as third:
        time.sleep(0.5)
        first.close()
        for waiting in (second, third):
            assert waiting.recv(12) == b"HTTP/1.1 200"


def test_a_full_process_lets_the_others_go_first(start: Start) -> None:
    port = start(DMR_WORKERS="2", DMR_WORKER_THREADS="4", MAX_WAIT="30")
    began = time.monotonic()
    with held(port, 8):
        assert time.monotonic() - began < 8.0


@contextlib.contextmanager
def one_full_and_one_stopped(start: Start) -> Iterator[tuple[int, Callable[[], None]]]:
    """Two processes of one thread each: the port, and what lets the one go on that has nothing to do."""
    port = start(DMR_WORKERS="2", DMR_WORKER_THREADS="1", MAX_WAIT="1")
    with held(port, 1) as (first,):
        (idle,) = forks(port) - {process_of(port, first)}
        os.kill(idle, signal.SIGSTOP)
        try:
            yield port, lambda: os.kill(idle, signal.SIGCONT)
        finally:
            os.kill(idle, signal.SIGCONT)


def test_a_full_process_leaves_a_request_to_one_that_is_slow(start: Start) -> None:
    """The other's thread is free, but for half a second it has no core to accept with."""
    with one_full_and_one_stopped(start) as (port, go_on), open_chat(port, "fast", False) as second:
        time.sleep(0.5)
        go_on()
        assert second.recv(12) == b"HTTP/1.1 200"


def test_a_process_that_hangs_leaves_requests_to_the_others(start: Start) -> None:
    with one_full_and_one_stopped(start) as (port, _):
        assert post(port, "/v1/chat/completions")[0].status == 503  # after the full one's own patience


def forks(port: int) -> set[int]:
    """The two processes that have this port open, beside their master."""
    holders = until(lambda: found if len(found := holders_of(socket_at(local=port, remote=0))) == 3 else None, 10)
    return {pid for pid in holders if parent_of(pid) in holders}


def process_of(port: int, client: socket.socket) -> int:
    """Which of them serves this client."""
    (pid,) = holders_of(socket_at(local=port, remote=client.getsockname()[1]))
    return pid


def socket_at(local: int, remote: int) -> str:
    """The number of a socket on loopback."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if [int(fields[place].partition(":")[2], 16) for place in (1, 2)] == [local, remote]:
            return fields[9]
    raise AssertionError((local, remote))


def holders_of(number: str) -> set[int]:
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if str(link.readlink()) == f"socket:[{number}]":
                found.add(int(link.parts[2]))
    return found


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_client_that_does_not_close_holds_up_nobody(start: Start) -> None:
    port = start()
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            lazy = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            lazy.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert lazy.recv(12) == b"HTTP/1.1 200"
        began = time.monotonic()
        assert request(port, "GET", "/health")[0] == 200
        assert time.monotonic() - began < 1.0


def test_a_client_that_reads_nothing_is_cut_off(start: Start) -> None:
    port = start(DMR_WRITE_TIMEOUT="1")
    with open_chat(port, "flood", True) as stalled, open_chat(port, "flood", False) as other:
        assert stalled.recv(12) == b"HTTP/1.1 200"
        assert until(lambda: counts(port) == (2, 2), 20)
        time.sleep(4.0)  # the whole answer is made before it is sent, so its request had ended then
        for connection in (stalled, other):
            received = 0
            with contextlib.suppress(ConnectionResetError):
                while data := connection.recv(1 << 20):
                    received += len(data)
            assert 0 < received < 30_000_000
