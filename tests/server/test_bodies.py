"""Bodies as anyone may send them: too large, too deep, cut short, packed, slow."""

from __future__ import annotations

import contextlib
import gzip
import io
import socket
import threading
import time
from typing import Any

import falcon
import falcon.testing
import pytest
from fakes import FakeService
from hypothesis import given
from hypothesis import strategies as st

from dmr_server.bodies import RequestBody, nests_deeper, parse_json
from dmr_server.errors import InvalidBody, RequestTimeout

CHAT = "/v1/chat/completions"
GOOD = b'{"model":"ai/smollm2","messages":[{"role":"user","content":"Hi"}]}'


def post(client: falcon.testing.TestClient, body: bytes, **headers: str) -> falcon.testing.Result:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.simulate_post(CHAT, body=body, headers=named)


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/json; charset=utf-8", "text/plain", "application/x-www-form-urlencoded", None],
)
def test_any_content_type_is_fine_when_it_parses(
    client: falcon.testing.TestClient, service: FakeService, answer: Any, content_type: str | None
) -> None:
    service.enqueue(*answer)
    result = client.simulate_post(CHAT, body=GOOD, content_type=content_type)
    assert result.status_code == 200


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b"{", "not valid JSON"),
        (b'{"model": NaN}', "not valid JSON"),
        (b'{"model": 1e999}', "not valid JSON"),
        (b'{"model": "\xff"}', "UTF-8"),
        (b'{"model": "\\ud800"}', "not valid JSON"),
        ('{"model": "a"}'.encode("utf-16"), "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b'"model"', "not a JSON object"),
        (b'{"a":' * 10_000, "nested"),
        (b'{"a":' + b"[" * 64 + b"]" * 64 + b"}", "nested"),
        (b"{" + b"\0" * 10 + b"}", "not valid JSON"),
    ],
)
def test_what_is_no_json_object_is_told_so(client: falcon.testing.TestClient, body: bytes, told: str) -> None:
    result = post(client, body)
    error = result.json["error"]
    assert (result.status_code, error["code"], error["param"]) == (400, "invalid_json", None)
    assert told in error["message"]


def test_a_byte_order_mark_is_no_mistake() -> None:
    assert parse_json(b'\xef\xbb\xbf{"a":1}') == {"a": 1}


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, int("9" * 400)])
def test_integers_beyond_64_bits_are_refused_wherever_they_stand(
    client: falcon.testing.TestClient, number: int
) -> None:
    result = post(client, b'{"tools": [{"parameters": {"maximum": %d}}], "model": "x"}' % number)
    error = result.json["error"]
    assert (result.status_code, error["param"]) == (400, "tools")
    assert "64 bits" in error["message"]
    for fine in (2**64 - 1, -(2**63), 1e300):
        text = b'{"a": [%s], "b": "%d"}' % (str(fine).encode(), number)
        assert parse_json(text) == {"a": [fine], "b": str(number)}


def test_brackets_in_strings_do_not_nest() -> None:
    body = b'{"a":"' + b"[{" * 1000 + b'\\"[[["}'
    assert parse_json(body)["a"].endswith('"[[[')


@pytest.mark.parametrize("body", [b"[" * 65 + b"]" * 65, b"[" * 100_000, b'{"a":' * 65 + b"1" + b"}" * 65])
def test_depth_limit(body: bytes) -> None:
    assert nests_deeper(body, 64)


def test_an_unterminated_string_of_quotes_is_looked_at_once() -> None:
    started = time.monotonic()
    assert not nests_deeper(b"[" * 65 + b'"' + b'\\"' * 1_000_000, 65)
    assert time.monotonic() - started < 2


JSON = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=30,
)


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


@given(JSON, st.integers(0, 6))
def test_depth_is_counted_right(value: Any, limit: int) -> None:
    import msgspec

    assert nests_deeper(msgspec.json.encode(value), limit) == (depth_of(value) > limit)


def test_too_large_is_refused(client: falcon.testing.TestClient) -> None:
    result = post(client, b"{}", content_length="100001")
    assert (result.status_code, result.json["error"]["code"]) == (413, "request_too_large")


def chunked(body: bytes) -> falcon.Request:
    """A request as a server passes one on that came in chunks: no length, but an input that ends."""
    environ = falcon.testing.create_environ(path=CHAT, method="POST")
    environ.pop("CONTENT_LENGTH", None)
    return falcon.Request({**environ, "wsgi.input": io.BytesIO(body), "wsgi.input_terminated": True})


def test_chunked_bodies_are_counted() -> None:
    from dmr.errors import PayloadTooLarge
    from dmr_server.bodies import read_json

    assert read_json(chunked(b'{"a":1}'), 7) == {"a": 1}
    with pytest.raises(PayloadTooLarge, match="7 bytes"):
        read_json(chunked(b'{"a":1} '), 7)


def test_a_body_that_ends_early_is_told(client: falcon.testing.TestClient) -> None:
    result = post(client, GOOD, content_length=str(len(GOOD) + 5))
    assert result.status_code == 400
    assert f"ended after {len(GOOD)} of {len(GOOD) + 5} bytes" in result.json["error"]["message"]


def test_gzip(client: falcon.testing.TestClient, service: FakeService, answer: Any) -> None:
    service.enqueue(*answer)
    assert post(client, gzip.compress(GOOD), content_encoding="gzip").status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (gzip.compress(b"[" + b" " * 200_000 + b"]"), 413, "larger"),
        (gzip.compress(GOOD)[:-9], 400, "too early"),
        (b"plain", 400, "gzip"),
    ],
)
def test_bad_gzip(client: falcon.testing.TestClient, body: bytes, status: int, told: str) -> None:
    result = post(client, body, content_encoding="gzip")
    assert result.status_code == status
    assert told in result.json["error"]["message"]


@pytest.mark.parametrize("headers", [{"content_encoding": "br"}, {"content_type": "multipart/form-data; boundary=x"}])
def test_what_is_not_read_here(client: falcon.testing.TestClient, headers: dict[str, str]) -> None:
    result = post(client, GOOD, **headers)
    assert (result.status_code, result.json["error"]["code"]) == (415, "unsupported_media_type")


def slow_request(connection: socket.socket, size: int) -> falcon.Request:
    environ = falcon.testing.create_environ(path=CHAT, method="POST", headers={"content-length": str(size)})
    return falcon.Request(
        {**environ, "wsgi.input": connection.makefile("rb"), "gunicorn.socket": connection}  # type: ignore[typeddict-unknown-key]
    )


def test_a_body_that_never_comes_times_out() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, RequestBody(slow_request(ours, 10), piece_timeout=0.05) as body, pytest.raises(RequestTimeout):
        body.read(10)


def test_a_body_that_trickles_times_out_too() -> None:
    ours, theirs = socket.socketpair()
    over = threading.Event()

    def trickle() -> None:
        with contextlib.suppress(BrokenPipeError):  # the server may stop reading at any moment
            while not over.wait(0.02):
                theirs.sendall(b"x")

    sender = threading.Thread(target=trickle)
    with ours, theirs, RequestBody(slow_request(ours, 10_000), piece_timeout=0.1) as body:
        sender.start()
        try:
            with pytest.raises(RequestTimeout):
                body.read(10_000)
        finally:
            over.set()
            sender.join()


def test_the_answer_can_still_be_sent_after_a_timeout() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, RequestBody(slow_request(ours, 10), piece_timeout=0.05) as body:
        with pytest.raises(RequestTimeout):
            body.read(10)
        ours.sendall(b"408")
        assert theirs.recv(3) == b"408"


def test_a_broken_chunk_is_the_clients_fault() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError("no more data")

    req = chunked(b"")
    req.env["wsgi.input"] = Broken()
    with pytest.raises(InvalidBody, match="no more data"):
        RequestBody(req).read(1)
