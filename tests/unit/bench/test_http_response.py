from __future__ import annotations

import pytest

from dmr.bench.http_response import NotHttp, ResponseReader

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nB;x=y\r\n, big world\r\n0\r\n\r\n"
SIZED = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"


def read(data: bytes, step: int) -> tuple[ResponseReader, bytes]:
    reader = ResponseReader()
    body = b"".join(reader.feed(data[at : at + step]) for at in range(0, len(data), step))
    return reader, body


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_a_body_is_the_same_however_its_bytes_are_cut(step: int) -> None:
    for data, expected in ((CHUNKED, b"hello, big world"), (SIZED, b"hello")):
        reader, body = read(data, step)
        assert (body, reader.status, reader.is_complete) == (expected, 200, True)


@pytest.mark.parametrize("data", [CHUNKED, SIZED])
def test_a_body_that_is_cut_short_is_not_complete(data: bytes) -> None:
    for length in range(len(data) - 2):
        reader, _ = read(data[:length], 1000)
        reader.end()
        assert not reader.is_complete


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    reader, body = read(b"HTTP/1.0 500 Oops\r\n\r\nbroken", 4)
    assert (body, reader.status, reader.is_complete) == (b"broken", 500, False)
    reader.end()
    assert reader.is_complete


def test_an_empty_body_is_complete_with_its_head() -> None:
    reader, body = read(b"HTTP/1.1 429 Busy\r\nContent-Length: 0\r\n\r\n", 1000)
    assert (body, reader.status, reader.is_complete) == (b"", 429, True)


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 \r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000,
    ],
)
def test_what_is_no_http_is_told(data: bytes) -> None:
    with pytest.raises(NotHttp):
        ResponseReader().feed(data)
