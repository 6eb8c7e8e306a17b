"""HTTP workers that die, or end after so many requests, and what becomes of streams."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path

from faults.live_servers import Start, start, until, worker_pids
from server.test_live import open_chat, request

__all__ = ["start"]

CHAT = json.dumps({"model": "fast", "messages": [{"role": "user", "content": "Hi"}]})


def is_streaming(connection: socket.socket, seconds: float = 8.0) -> bool:
    connection.settimeout(seconds)
    try:
        while piece := connection.recv(1 << 16):
            if b"data: " in piece:
                return True
    except TimeoutError:
        pass
    return False


def open_stream(port: int) -> socket.socket:
    """One that streams: what came to a worker that is full is opened again."""
    for _ in range(10):
        stream = open_chat(port, "busy", True)
        if is_streaming(stream, 2.0):
            return stream
        stream.close()
    raise AssertionError("there is no worker for it")


def test_a_killed_worker_costs_its_own_connections_only(start: Start) -> None:
    server, port = start(DMR_WORKERS="2", DMR_WORKER_THREADS="1", MAX_WAIT="30")
    # One thread each, so that each of them has one of the two streams.
    with open_stream(port) as first, open_stream(port) as second:
        victim, _ = sorted(worker_pids(server))
        os.kill(victim, signal.SIGKILL)
        assert until(lambda: len(worker_pids(server) - {victim}) == 2, 20)
        ended = [not goes_on(stream) for stream in (first, second)]
        assert sorted(ended) == [False, True]
    assert until(lambda: request(port, "POST", "/v1/chat/completions", CHAT)[0] == 200, 10)


def goes_on(stream: socket.socket) -> bool:
    """Whether it still comes after what had been sent already."""
    until_when = time.monotonic() + 2
    try:
        while time.monotonic() < until_when:
            if not stream.recv(1 << 16):
                return False
    except ConnectionResetError:
        return False
    return True


def test_a_worker_that_has_had_its_requests_ends_with_its_last_stream(start: Start) -> None:
    """The grace period of this server, 3 seconds, is shorter than the stream."""
    server, port = start(GUNICORN_CMD_ARGS="--max-requests 4", DMR_GRACE_PERIOD="1")
    [old] = worker_pids(server)
    with open_chat(port, "busy", True) as stream:
        assert is_streaming(stream)
        for _ in range(3):
            assert request(port, "POST", "/v1/chat/completions", CHAT)[0] == 200
        assert until(lambda: len(worker_pids(server)) == 2, 10), server.stderr
        [new] = worker_pids(server) - {old}
        for _ in range(2):
            assert request(port, "POST", "/v1/chat/completions", CHAT)[0] == 200
        time.sleep(2.5)
        assert is_streaming(stream)
        assert old in worker_pids(server)
    assert until(lambda: worker_pids(server) == {new}, 10), server.stderr
    time.sleep(1.5)
    assert worker_pids(server) == {new}, "it has a successor already"


def test_requests_go_on_while_workers_come_and_go(start: Start) -> None:
    server, port = start(GUNICORN_CMD_ARGS="--max-requests 5", DMR_WORKERS="2")
    before = worker_pids(server)

    def have_all_changed() -> bool:
        """After a few more requests, of which either process may get few."""
        for _ in range(10):
            status, answer = request(port, "POST", "/v1/chat/completions", CHAT)
            assert (status, answer["choices"][0]["message"]["content"]) == (200, "0 1 2 ")
        return not worker_pids(server) & before

    assert until(have_all_changed, 30)
    assert until(lambda: len(worker_pids(server)) == 2, 10)


def test_reload_changes_workers_and_cuts_no_stream(start: Start, tmp_path: Path) -> None:
    settings = tmp_path / "config.toml"
    settings.write_text("[server]\nwrite_timeout = 60\n")
    server, port = start(DMR_GRACE_PERIOD="20", DMR_CONFIG=str(settings))
    [old] = worker_pids(server)
    with open_chat(port, "busy", True) as stream:
        assert is_streaming(stream)
        settings.write_text("[server]\nwrite_timeout = 61\n")
        server.process.send_signal(signal.SIGHUP)
        assert until(lambda: len(worker_pids(server)) == 2, 10)
        assert request(port, "POST", "/v1/chat/completions", CHAT)[0] == 200
        assert is_streaming(stream)
        assert old in worker_pids(server)
    assert until(lambda: old not in worker_pids(server), 10)


def test_a_second_signal_cuts_what_a_first_would_let_finish(start: Start) -> None:
    server, port = start(DMR_GRACE_PERIOD="60")
    with open_chat(port, "busy", True) as stream:
        assert is_streaming(stream)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(10) == 0
