"""What is refused at the door, without a thread: what an engine has just refused."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import falcon.testing
import pytest
from fakes import FakeService
from server.test_live import request, until
from server.test_thread_worker import Start, start

from dmr.errors import Overloaded, TooManyRequests
from dmr_server import door
from dmr_server.asked import MAX_BYTES, Asked, asked_in, num_missing, read_asked
from dmr_server.door import DOUBLING, MAX_KNOWN, Door, Full, Refused

__all__ = ["start"]

LINE = "POST /v1/completions HTTP/1.1"
ASKED = Asked(LINE, "h", "", "m")
TOLD = Refused("503 Service Unavailable", {"Retry-After": "1"}, b'{"error":1}', "req_1")


def full(kind: type[Full] = Overloaded, interval_ms: int = 50) -> Full:
    error = kind("There is no place.", retry_after=2.0)
    error.interval_ms = interval_ms
    return error


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def told() -> list[int]:
    return []


@pytest.fixture
def guarded(clock: Clock, told: list[int]) -> Door:
    """A door that knows that an engine is full, and lets one in every 50 ms."""
    made = Door(clock)
    made.remember(ASKED, "1.2.3.4", full(), TOLD, told.append)
    return made


# --- how many are let in ---------------------------------------------------------------------------------------------


def test_one_is_let_in_whenever_a_place_becomes_free(guarded: Door, clock: Clock) -> None:
    answers = []
    for _ in range(200):
        answers.append(guarded.refusal(ASKED, "1.2.3.4"))
        if answers[-1] is None:  # there is no place inside either
            guarded.remember(ASKED, "1.2.3.4", full(), TOLD, lambda count: None)
        clock.now += 0.01
    assert 35 <= answers.count(None) <= 45  # in two seconds


def test_more_are_let_in_as_long_as_none_is_refused_inside(guarded: Door, clock: Clock, told: list[int]) -> None:
    num_let_in = []
    for _ in range(8):
        let_in = 0
        for _ in range(100):
            let_in += guarded.refusal(ASKED, "1.2.3.4") is None
            clock.now += DOUBLING / 100
        num_let_in.append(let_in)
    assert num_let_in[0] < num_let_in[1] < num_let_in[2]
    assert num_let_in[-1] == 100
    guarded.tidy()
    assert not guarded.is_watched
    assert told == [800 - sum(num_let_in)]


def test_with_several_workers_each_lets_fewer_in(clock: Clock) -> None:
    made = Door(clock)
    made.num_workers = 4
    made.remember(ASKED, "1.2.3.4", full(), TOLD, lambda count: None)
    clock.now += 0.09
    assert made.refusal(ASKED, "1.2.3.4") is TOLD


def test_what_is_remembered_is_bounded(guarded: Door) -> None:
    for number in range(2 * MAX_KNOWN):
        asked = ASKED._replace(model=f"m{number}")
        guarded.remember(asked, "1.2.3.4", full(), TOLD, lambda count: None)
    assert guarded.refusal(ASKED._replace(model="m1"), "1.2.3.4") is TOLD
    assert guarded.refusal(asked, "1.2.3.4") is None


# --- who is refused --------------------------------------------------------------------------------------------------


def test_a_full_queue_is_full_for_everybody(guarded: Door) -> None:
    assert guarded.refusal(ASKED, "9.9.9.9") is TOLD
    assert guarded.refusal(ASKED._replace(credentials="Bearer a\n"), "9.9.9.9") is TOLD
    for other in (ASKED._replace(model="n"), ASKED._replace(host="i"), ASKED._replace(line="POST /x HTTP/1.1")):
        assert guarded.refusal(other, "1.2.3.4") is None


def test_who_has_no_key_is_not_told_that_a_queue_is_full(clock: Clock) -> None:
    made = Door(clock)
    made.checks_keys = True
    known = ASKED._replace(credentials="Bearer a\n")
    made.remember(known, "1.2.3.4", full(), TOLD, lambda count: None)
    assert made.refusal(known, "9.9.9.9") is TOLD
    assert made.refusal(ASKED._replace(credentials="Bearer b\n"), "1.2.3.4") is None
    assert made.refusal(ASKED, "1.2.3.4") is None


@pytest.mark.parametrize("credentials", ["", "Bearer a\n"])
def test_one_client_that_has_its_share_keeps_out_no_other(clock: Clock, credentials: str) -> None:
    made = Door(clock)
    asked = ASKED._replace(credentials=credentials)
    made.remember(asked, "1.2.3.4", full(TooManyRequests), TOLD, lambda count: None)
    assert made.refusal(asked, "1.2.3.4") is TOLD
    assert made.refusal(asked._replace(credentials="Bearer b\n"), "1.2.3.4") is None
    assert (made.refusal(asked, "9.9.9.9") is TOLD) == bool(credentials)


# --- what a request asks for -----------------------------------------------------------------------------------------

BODY = b'{"model": "m", "prompt": "Hi"}'
HEAD = (
    b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nUser-Agent: x\r\nAuthorization: Bearer a\r\n"
    b"Content-Type: application/json\r\nContent-Length: 30\r\n"
)


def test_a_whole_request_is_read_as_the_app_reads_it() -> None:
    environ = falcon.testing.create_environ(
        "/v1/completions", method="POST", headers={"Host": "h", "Authorization": "Bearer a"}
    )
    environ["RAW_URI"] = "/v1/completions"
    assert read_asked(HEAD + b"\r\n" + BODY) == asked_in(environ, "m") == Asked(LINE, "h", "Bearer a\n", "m")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        HEAD,
        HEAD + b"\r\n" + BODY[:-1],
        HEAD + b"\r\n" + BODY + b"P",
        (HEAD + b"\r\n" + BODY).replace(b"POST", b"GET"),
        (HEAD + b"\r\n" + BODY).replace(b"1.1", b"1.0"),
        (HEAD + b"\r\n" + BODY).replace(b"model", b"madel"),
        (HEAD + b"\r\n" + BODY).replace(b'"m"', b"[1]"),
        (HEAD + b"\r\n" + BODY).replace(b"{", b"("),
        (HEAD + b"\r\n" + BODY).replace(b"User-Agent: x", b"no colon"),
        HEAD + b"Content-Length: 30\r\n\r\n" + BODY,
        HEAD + b"host: other\r\n\r\n" + BODY,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + BODY,
        HEAD + b"Content-Encoding: gzip\r\n\r\n" + BODY,
        HEAD + b"Expect: 100-continue\r\n\r\n" + BODY,
        HEAD + b"Origin: http://localhost\r\n\r\n" + BODY,
        HEAD + b"X-Request-Id: mine\r\n\r\n" + BODY,
        HEAD + b"X-Preload-Only: true\r\n\r\n" + BODY,
        HEAD + b"\r\n" + b"[" * 30,
    ],
)
def test_what_is_more_than_plain_is_let_in(data: bytes) -> None:
    assert read_asked(data) is None


def test_what_is_missing_of_a_request_is_known_once_its_head_is_there() -> None:
    data = HEAD + b"\r\n" + BODY
    assert [num_missing(data[:length]) for length in (len(HEAD), len(data) - 30, len(data) - 7)] == [1, 30, 7]
    assert num_missing(data) == 0
    assert num_missing(data + b"P") == 0
    assert num_missing(data[:-1].replace(b": 30", b": %d" % MAX_BYTES)) == 0
    assert num_missing(b"GET /health HTTP/1.1\r\n") == 0
    assert num_missing(data.replace(b"Content-Length: 30\r\n", b"")) == 0


# --- what the app remembers ------------------------------------------------------------------------------------------


@pytest.fixture
def empty_door(monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    """That of the process, which the app has."""
    monkeypatch.setattr(door.current, "_known", {})
    yield door.current
    door.current._known.clear()


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/messages", "/api/chat"])
@pytest.mark.parametrize("stream", [True, False])
def test_the_same_answer_is_given_again(
    client: falcon.testing.TestClient, service: FakeService, empty_door: Door, path: str, stream: bool
) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    body = {"model": "ai/smollm2", "stream": stream, "max_tokens": 9}
    body |= {"prompt": "Hi"} if path == "/v1/completions" else {"messages": messages}
    service.enqueue(full())
    first = client.simulate_post(path, json=body, headers={"Host": "localhost"}, extras={"RAW_URI": path})
    refused = empty_door.refusal(Asked(f"POST {path} HTTP/1.1", "localhost", "", "ai/smollm2"), "127.0.0.1")
    assert refused is not None
    head, _, data = refused.again().partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    assert int(status.split()[1]) == first.status_code
    own = {"x-request-id", "request-id", "content-length"}
    assert {name: headers[name] for name in first.headers if name not in own} == {
        name: value for name, value in first.headers.items() if name not in own
    }
    assert headers["content-length"] == str(len(data))
    assert headers["connection"] == "close"
    assert headers["x-request-id"] == headers["request-id"] != first.headers["x-request-id"]
    again = data.replace(headers["x-request-id"].encode(), first.headers["x-request-id"].encode())
    assert again == first.content


@pytest.mark.parametrize(
    ("path", "headers", "error"),
    [
        ("/v1/completions", {}, Overloaded("It is full, but not for a small one.", retry_after=1.0)),
        ("/v1/completions", {"Origin": "http://localhost"}, full()),
        ("/v1/completions", {"X-Request-Id": "mine"}, full()),
        ("/v1/responses", {}, full()),
    ],
)
def test_what_may_differ_is_not_remembered(
    client: falcon.testing.TestClient,
    service: FakeService,
    empty_door: Door,
    path: str,
    headers: dict[str, str],
    error: Full,
) -> None:
    service.enqueue(error)
    body = {"model": "ai/smollm2", **({"input": "Hi", "store": False} if "responses" in path else {"prompt": "Hi"})}
    assert client.simulate_post(path, json=body, headers=headers, extras={"RAW_URI": path}).status_code == 503
    assert not empty_door.is_watched


# --- under gunicorn --------------------------------------------------------------------------------------------------


def post(port: int, body: dict[str, Any], **headers: str) -> tuple[http.client.HTTPResponse, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json", **headers})
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response, answer


def test_an_engine_is_asked_now_and_then_only(start: Start) -> None:
    port = start()
    body = {"model": "full", "prompt": "Hi"}
    ids = set()
    began = time.monotonic()
    for _ in range(100):
        response, answer = post(port, body)
        assert (response.status, answer["error"]["code"], response.headers["Retry-After"]) == (503, "overloaded", "2")
        ids.add(response.headers["x-request-id"])
    num_asked = int(request(port, "GET", "/version")[1]["started"])
    assert len(ids) == 100
    assert num_asked <= 2 + (time.monotonic() - began) / 0.2  # which is what the engine says of itself
    assert num_asked < 50

    def num_counted() -> int:
        told = request(port, "GET", "/metrics")[1]
        found = re.search(r'dmr_http_requests_total\{route="/v1/completions",method="POST",status="503"\} (\d+)', told)
        return int(found[1]) if found else 0

    assert until(lambda: num_counted() == 100, 5)
    assert post(port, {"model": "fast", "prompt": "Hi"})[0].status == 200


def test_requests_of_one_connection_are_answered_in_their_order(start: Start) -> None:
    port = start()

    def plain(model: str) -> bytes:
        body = json.dumps({"model": model, "prompt": "Hi"}).encode()
        return b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    with socket.create_connection(("127.0.0.1", port), timeout=10) as first:
        first.sendall(plain("full"))
        assert first.recv(12) == b"HTTP/1.1 503"
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(plain("drip") + plain("fast"))
        time.sleep(0.2)
        connection.sendall(plain("full"))
        data = b""
        while b" 503 " not in data:
            data += connection.recv(1 << 16)
    assert re.findall(rb"HTTP/1.1 (\d+)", data) == [b"200", b"200", b"503"]


def test_a_connection_that_says_nothing_takes_no_thread(start: Start) -> None:
    port = start(DMR_WORKER_THREADS="1")
    with socket.create_connection(("127.0.0.1", port), timeout=10) as silent:
        time.sleep(0.1)
        began = time.monotonic()
        assert post(port, {"model": "fast", "prompt": "Hi"})[0].status == 200
        assert time.monotonic() - began < 2.0
        silent.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert silent.recv(12) == b"HTTP/1.1 200"


def test_however_many_do_not_close_their_connections_hold_up_nobody(start: Start) -> None:
    port = start(DMR_WORKER_THREADS="2")
    with contextlib.ExitStack() as stack:
        lazy = []
        for _ in range(60):
            lazy.append(stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)))
            lazy[-1].sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert lazy[-1].recv(12) == b"HTTP/1.1 200"
        began = time.monotonic()
        assert request(port, "GET", "/health")[0] == 200
        assert time.monotonic() - began < 1.0
        time.sleep(3.5)
        for connection in lazy:  # they have been closed for good by now, so whatever is sent is answered by a reset
            with contextlib.suppress(OSError):
                connection.sendall(b"x")
        time.sleep(0.2)
        assert all(_is_reset(connection) for connection in lazy)


def _is_reset(connection: socket.socket) -> bool:
    try:
        while connection.recv(1 << 16):
            pass
        connection.sendall(b"x")
    except OSError:
        return True
    return False
