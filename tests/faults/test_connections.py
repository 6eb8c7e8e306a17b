"""Rows 24 to 26: connections that are slow, idle or say two things at once."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time

import pytest
from faults.live_servers import Start, start, until
from server.test_live import request

__all__ = ["start"]

CHAT = b'{"model": "fast", "messages": [{"role": "user", "content": "Hi"}]}'
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize("begun", [b"", b"P", b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-A: ", HEAD])
def test_forty_half_sent_requests_hold_up_nobody(start: Start, begun: bytes) -> None:
    _, port = start(DMR_WORKER_THREADS="64")
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            connection.sendall(begun)
        began = time.monotonic()
        for _ in range(5):
            assert request(port, "POST", "/v1/chat/completions", CHAT)[0] == 200
        assert time.monotonic() - began < 5.0


def test_a_head_that_trickles_is_cut_and_frees_its_thread(start: Start) -> None:
    _, port = start(DMR_WORKER_THREADS="1", MAX_HEAD="1", MAX_WAIT="20")
    with socket.create_connection(("127.0.0.1", port), timeout=10) as slow:
        slow.sendall(HEAD)
        cut = time.monotonic() + 15
        with pytest.raises(OSError):  # noqa: PT012 - it is cut at some time
            while time.monotonic() < cut:
                slow.sendall(b"X-A: 1\r\n")
                time.sleep(0.1)
        assert request(port, "POST", "/v1/chat/completions", CHAT)[0] == 200


def test_a_request_that_takes_its_time_to_be_answered_is_not_cut(start: Start) -> None:
    _, port = start(MAX_HEAD="0.5")
    body = CHAT.replace(b"fast", b"drip")  # 0.8 seconds
    status, answer = request(port, "POST", "/v1/chat/completions", body)
    assert status == 200
    assert answer["choices"][0]["message"]["content"] == "0 1 2 3 "


def test_an_idle_connection_is_kept_longer_than_clients_keep_theirs(start: Start) -> None:
    from dmr_server import gunicorn_conf

    # openai-python and anthropic-sdk-python (httpx) drop theirs after 5 seconds, Node's fetch after 4, Go's after 90
    # by default, which asks again when an idle connection was closed.
    assert gunicorn_conf.keepalive >= 60


def test_a_server_that_ends_answers_what_comes_on_a_kept_connection_and_says_that_it_closes(start: Start) -> None:
    server, port = start()
    kept = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    kept.request("POST", "/v1/chat/completions", CHAT)
    assert kept.getresponse().read()
    server.process.terminate()
    time.sleep(0.3)
    kept.request("POST", "/v1/chat/completions", CHAT)
    answer = kept.getresponse()
    assert answer.status == 200
    assert answer.headers["Connection"] == "close"
    assert answer.read()
    kept.close()


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: 5\r\nContent-Length: 66\r\n",
        b"Content-Length: 66\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Content-Length: +66\r\n",
        b"Content-Length: 66\r\nX-A : 1\r\n",
        b"Content-Length: 66\r\nX-A: 1\r\n folded\r\n",
    ],
    ids=["two lengths", "length and chunked", "chunked and more", "unknown", "signed", "blank in a name", "folded"],
)
def test_a_request_of_two_lengths_is_refused_and_the_connection_closed(start: Start, lines: bytes) -> None:
    _, port = start()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(HEAD + lines + b"\r\n" + CHAT + b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(1 << 16):
                answer += piece
    assert answer.count(b"HTTP/1.1 ") <= 1, "what follows was taken for a request of its own"
    assert b"200 OK" not in answer
    assert until(lambda: request(port, "GET", "/health")[0] == 200, 5)
