"""The bytes of a request, understood as far as a refusal depends on them. Pure: no I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, Union

import msgspec

MAX_BYTES = 16 << 10  # of a whole request
# What has a meaning of its own, for which the request has to be read by those who know it.
_SPECIAL = frozenset(
    ("origin", "transfer-encoding", "content-encoding", "expect", "upgrade", "x-preload-only", "x-request-id")
)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,6})[ \t]*(?:\r\n|$)", re.IGNORECASE)
_ONCE = frozenset(("host", "authorization", "x-api-key", "content-length"))


class Asked(NamedTuple):
    """Two requests for which this is the same are refused alike, if both are for a place in an engine's queue."""

    line: str  # the first one, as it was sent
    host: str
    credentials: str  # in either header; empty = there are none
    model: str


class _Named(msgspec.Struct):
    model: Union[str, None] = None


_decoder = msgspec.json.Decoder(_Named)


def read_asked(data: bytes) -> Asked | None:
    """What a whole request asks for. None: it is not all there, or more than a plain one whose JSON names a model."""
    head, separator, body = data.partition(b"\r\n\r\n")
    if not separator or not head.startswith(b"POST /"):
        return None
    line, *lines = head.decode("latin-1").split("\r\n")
    headers = _headers_of(lines)
    if headers is None or headers.get("content-length") != str(len(body)) or not line.endswith(" HTTP/1.1"):
        return None
    try:
        model = _decoder.decode(body).model
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not model:
        return None
    credentials = _credentials(headers.get("authorization", ""), headers.get("x-api-key", ""))
    return Asked(line, headers.get("host", ""), credentials, model)


def num_missing(data: bytes) -> int:
    """How many bytes are to come of a request that may be plain and is not all there; 0 if it is, or too large."""
    head, separator, body = data.partition(b"\r\n\r\n")
    if not data.startswith(b"POST /"):
        return 0
    if not separator:
        return 1 if len(data) < MAX_BYTES else 0
    length = _LENGTH.search(head)
    missing = int(length[1]) - len(body) if length is not None else 0
    return missing if 0 < missing <= MAX_BYTES - len(data) else 0


def asked_in(environ: Mapping[str, Any], model: str) -> Asked | None:
    """The same of a request that is being served; `model` as it was asked for. None as for `read_asked`."""
    if any(f"HTTP_{name.upper().replace('-', '_')}" in environ for name in _SPECIAL) or not model:
        return None
    line = f"{environ['REQUEST_METHOD']} {environ.get('RAW_URI', '')} {environ['SERVER_PROTOCOL']}"
    credentials = _credentials(environ.get("HTTP_AUTHORIZATION", ""), environ.get("HTTP_X_API_KEY", ""))
    return Asked(line, environ.get("HTTP_HOST", ""), credentials, model)


def _headers_of(lines: list[str]) -> dict[str, str] | None:
    """By their names in small letters. None: one of them needs more than a look."""
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name = name.lower()
        if not colon or name in _SPECIAL or (name in _ONCE and name in headers):
            return None
        headers[name] = value.strip(" \t")
    return headers


def _credentials(authorization: str, key: str) -> str:
    return f"{authorization}\n{key}" if authorization or key else ""
