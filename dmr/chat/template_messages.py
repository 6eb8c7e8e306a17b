"""What goes between a server and the processes that render templates for it: four bytes of length, then msgpack."""

from __future__ import annotations

import socket
import struct
from typing import Any, NamedTuple, TypeVar

import msgspec

from dmr import _core

MAX_BYTES = 1 << 30
LENGTH = struct.Struct(">I")
_READ_SIZE = 1 << 16
T = TypeVar("T")


class Definition(NamedTuple):
    """What makes a template."""

    source: str
    bos: str
    eos: str
    adds_bos: bool


class Ask(msgspec.Struct, frozen=True, array_like=True):
    key: bytes
    definition: tuple[str, str, str, bool] | None  # None: it was told before
    request: tuple[Any, ...] | None  # None: only what the template is


class Told(msgspec.Struct, frozen=True, array_like=True):
    """`error`: "" or a name of `ERRORS`, or "unknown": tell the definition; "memory": there was not enough."""

    error: str = ""
    message: str = ""
    capabilities: dict[str, bool] = {}
    state: tuple[Any, ...] | None = None  # of the prompt


ERRORS: dict[str, type[Exception]] = {
    each.__name__: each for each in (_core.TemplateError, _core.GrammarError, ValueError, OverflowError)
}
_FIELDS = (
    "messages",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "enable_thinking",
    "add_generation_prompt",
    "continue_final",
    "json_schema",
    "grammar",
    "template_kwargs",
)
_encoder = msgspec.msgpack.Encoder()


def from_request(request: _core.ChatRequest) -> tuple[Any, ...]:
    return tuple(getattr(request, field) for field in _FIELDS)


def to_request(values: tuple[Any, ...]) -> _core.ChatRequest:
    request = _core.ChatRequest()
    for field, value in zip(_FIELDS, values, strict=True):
        setattr(request, field, value)
    return request


def send(connection: socket.socket, message: msgspec.Struct) -> None:
    """Raises OSError; UnicodeEncodeError: a text is none; ValueError: it is too long."""
    body = _encoder.encode(message)
    if len(body) > MAX_BYTES:
        raise ValueError(f"a conversation of {len(body)} bytes is too long for a template")
    connection.sendall(LENGTH.pack(len(body)) + body)


def receive(connection: socket.socket, decoder: msgspec.msgpack.Decoder[T]) -> T:
    """Raises OSError, EOFError: the other side has gone; msgspec.MsgspecError."""
    (length,) = LENGTH.unpack(_take(connection, LENGTH.size))
    return decoder.decode(_take(connection, length))


def _take(connection: socket.socket, size: int) -> bytearray:
    data = bytearray()
    while len(data) < size:
        piece = connection.recv(min(size - len(data), _READ_SIZE))
        if not piece:
            raise EOFError
        data += piece
    return data
