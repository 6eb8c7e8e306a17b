"""The client that offers more than a server can take, and its account."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pressure.answers import ACCEPTED, FAILED, REFUSED, judge
from pressure.client import NOT_OPENED, SILENT, Client, Exchange
from pressure.counts import Account
from pressure.requests import request_of, streamed
from pressure.table import lines_of, verdicts_of

WHOLE = b'{"choices":[{"text":"a","finish_reason":"length"}],"usage":{"completion_tokens":8}}'
EVENTS = (
    b'data: {"choices":[{"text":"a","finish_reason":null}]}\n\n'
    b'data: {"choices":[{"text":"","finish_reason":"length"}]}\n\n'
    b'data: {"choices":[],"usage":{"completion_tokens":8}}\n\n'
    b"data: [DONE]\n\n"
)


def http(status: int, body: bytes, *more: bytes) -> bytes:
    head = [b"HTTP/1.1 %d X" % status, b"Content-Length: %d" % len(body), *more]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def exchange(data: bytes, error: str = "") -> Exchange:
    with socket.socket() as connection:
        made = Exchange(connection, b"", lambda ended: None)
    made.data += data
    made.error = error
    return made


@pytest.mark.parametrize(
    ("data", "how"),
    [
        (http(200, WHOLE), ACCEPTED),
        (http(200, EVENTS), ACCEPTED),
        (http(429, b"{}", b"Retry-After: 1"), REFUSED),
        (http(503, b"{}", b"retry-after: 30"), REFUSED),
        (http(503, b"{}"), FAILED),
        (http(500, b"{}", b"Retry-After: 1"), FAILED),
        (http(200, WHOLE)[:-1], FAILED),
        (http(200, WHOLE.replace(b'"length"', b"null")), FAILED),
        (http(200, WHOLE.replace(b"8", b"7")), FAILED),
        (http(200, EVENTS[:-14]), FAILED),
        (http(200, EVENTS.replace(b'"length"', b"null")), FAILED),
        (http(200, b'data: {"error":{"message":"x"}}\n\ndata: [DONE]\n\n'), FAILED),
        (http(200, b"{nothing"), FAILED),
        (b"", FAILED),
        (b"SSH-2.0\r\n\r\n", FAILED),
    ],
)
def test_only_a_whole_answer_is_one(data: bytes, how: str) -> None:
    assert judge(exchange(data), 8).how == how


def test_what_breaks_has_failed_and_what_is_not_opened_is_refused() -> None:
    assert judge(exchange(http(200, WHOLE), "broken"), 8).how == FAILED
    assert judge(exchange(b"", SILENT), 8).how == FAILED
    assert judge(exchange(b"", NOT_OPENED), 8).how == REFUSED


Answer = Callable[[socket.socket], None]


class Listener:
    """Gives every connection that is made to it to a function, one after the other."""

    def __init__(self) -> None:
        self.answer: Answer = lambda connection: None
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                self.answer(connection)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5.0)


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.close()


def ended(port: int, count: int = 1, timeout: float = 5.0) -> list[Exchange]:
    client = Client(port, timeout, connect_timeout=1.0)
    found: list[Exchange] = []
    for number in range(count):
        client.send(request_of("m", str(number), 3, 8, key="k"), found.append)
    client.drain(time.perf_counter() + 5.0)
    client.close()
    return found


def test_requests_are_sent_and_answers_come_back(listener: Listener) -> None:
    def answer(connection: socket.socket) -> None:
        assert connection.recv(1 << 16).startswith(b"POST /v1/completions HTTP/1.1\r\n")
        connection.sendall(http(200, WHOLE))

    listener.answer = answer
    account = Account(8)
    for each in ended(listener.port, 20):
        assert account.add(each) == ACCEPTED
        assert 0 < each.seconds < 5
    assert account.figures()[ACCEPTED] == 20
    assert account.num_tokens_until(time.perf_counter()) == 160


def test_an_answer_that_never_ends_is_given_up(listener: Listener) -> None:
    over = threading.Event()
    listener.answer = lambda connection: bool(over.wait(10)) and None
    began = time.perf_counter()
    (one,) = ended(listener.port, timeout=1.0)
    over.set()
    assert one.error == SILENT
    assert 0.9 < time.perf_counter() - began < 3.0


def test_nobody_listens() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    (one,) = ended(port)
    assert one.error == NOT_OPENED


def test_a_stream_is_asked_for_with_its_usage() -> None:
    assert b'"include_usage": true' in streamed("m", "s", 3, 8, key="k")
    assert b"Authorization: Bearer k\r\n" in streamed("m", "s", 3, 8, key="k")


def test_the_table_says_which_promise_is_broken() -> None:
    good = {"accepted": 9.0, "failed": 0.0, "p50": 1.0, "p99": 2.0, "p99/p50": 2.0}
    rounds = {"dmr": [{"figures": good}]}
    assert verdicts_of("streams", rounds) == ["no accepted request fails: kept", "p99 <= 5 x p50: kept"]
    rounds["dmr"].append({"figures": {**good, "failed": 1.0}, "reasons": {"failed: x": 1}})
    assert verdicts_of("streams", rounds)[0] == "no accepted request fails: BROKEN"
    assert "  dmr, round 2: 1 failed: x" in lines_of("streams", rounds)
    assert verdicts_of("streams", {"llama-server": rounds["dmr"]}) == []


def test_memory_is_judged_when_the_server_is_warm() -> None:
    told = {"failed": 0.0, "recovery": 0.5, "MB after a quarter": 300.0}
    warming, warm = {**told, "MB at the end": 330.0}, {**told, "MB at the end": 302.0}
    words = "memory grows by 8 MB at most: "
    for rounds, verdict in (([warming], "BROKEN"), ([warming, warm], "kept"), ([warm, warming], "BROKEN")):
        assert words + verdict in verdicts_of("requests", {"dmr": [{"figures": each} for each in rounds]})
