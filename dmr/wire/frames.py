"""Frames over Unix sockets and pipes: four bytes of length, then msgpack; the blocking and the asyncio side."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from dmr.errors import DmrError, EngineCrashed, InternalError, InvalidRequest, PayloadTooLarge, error_from_code

MAX_FRAME_BYTES = 1 << 30
CONNECT_TIMEOUT = 10.0  # seconds
SEND_TIMEOUT = 60.0  # seconds in which the other side must have taken a whole message
_READ_SIZE = 1 << 16  # bytes
_LENGTH = struct.Struct(">I")
_LENGTH_SIZE = _LENGTH.size


class Frame(msgspec.Struct, frozen=True, omit_defaults=True, array_like=True):
    """Base of every message."""


class WireError(Frame, frozen=True, tag="error"):
    """A `DmrError` on its way to another process."""

    code: str
    message: str
    param: str | None = None
    retry_after: float | None = None
    details: Mapping[str, int] = {}  # the numbers behind the message

    @classmethod
    def of(cls, error: DmrError) -> WireError:
        return cls(error.code, error.message, error.param, error.retry_after, error.details)

    def to_error(self) -> DmrError:
        return error_from_code(self.code, self.message, self.param, self.retry_after, self.details)


_encoder = msgspec.msgpack.Encoder()

Message = TypeVar("Message")


def pack(message: msgspec.Struct | list[Any]) -> bytes:
    """One frame of a message or of several: four bytes of length, big-endian, then msgpack.

    Raises:
        PayloadTooLarge: over `MAX_FRAME_BYTES`.
        InvalidRequest: a number has more than 64 bits, or a text half of a surrogate pair, which is no character.
    """
    try:
        body = _encoder.encode(message)
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"The text is not valid Unicode: {error.reason}.") from None
    except OverflowError:
        raise InvalidRequest("A number is too large: integers have 64 bits at most.") from None
    if len(body) > MAX_FRAME_BYTES:
        raise PayloadTooLarge(f"The request has {len(body)} bytes; {MAX_FRAME_BYTES} can be handled.")
    return _LENGTH.pack(len(body)) + body


async def read_frame(reader: asyncio.StreamReader, decoder: msgspec.msgpack.Decoder[Message]) -> Message | None:
    """The next message, or None when the other side is gone.

    Raises:
        InternalError: what came is no such message; nothing more can be read.
    """
    try:
        length = _frame_length(await reader.readexactly(_LENGTH_SIZE))
        return _decode(await reader.readexactly(length), decoder)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


async def until_closed(reader: asyncio.StreamReader) -> None:
    """Wait for the other side to leave, after its one message: any further byte counts as leaving too."""
    with contextlib.suppress(ConnectionError):  # it has left without reading all of its answer
        await reader.read(1)


class Connection:
    """The blocking side of a conversation. Not for several threads at once."""

    def __init__(self, path: str, timeout: float, connect_timeout: float = CONNECT_TIMEOUT) -> None:
        """`timeout`: seconds of silence after which `frames` yields None. Raises OSError when nobody listens."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(connect_timeout)
            self._socket.connect(path)
            self._socket.settimeout(timeout)
        except OSError:
            self._socket.close()
            raise
        self._timeout = timeout
        self._buffer = bytearray()

    @property
    def is_open(self) -> bool:
        """Whether the other side, which has said nothing yet, is still there. To be asked before `send`."""
        self._socket.setblocking(False)
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def send(self, message: msgspec.Struct) -> None:
        """Raises OSError when the other side is gone or takes nothing, and what `pack` raises."""
        frame = pack(message)
        self._socket.settimeout(SEND_TIMEOUT)
        self._socket.sendall(frame)
        self._socket.settimeout(self._timeout)

    def frames(self, decoder: msgspec.msgpack.Decoder[Message]) -> Iterator[Message | None]:
        """Messages as they come; None after each time-out.

        Raises:
            EngineCrashed: the other side has gone.
            InternalError: what came is no message; nothing more can be read.
        """
        while True:
            while (body := self._take_frame()) is not None:
                yield _decode(body, decoder)
            try:
                self._buffer += self._receive()
            except (TimeoutError, BlockingIOError):
                yield None

    def take(self, decoder: msgspec.msgpack.Decoder[Message]) -> list[Message]:
        """The messages that have come, up to some 64 KB of them; after `dont_wait` only. Raises as `frames` does."""
        if self._buffer and (messages := self._decoded(decoder)):
            return messages
        try:
            data = self._receive()
        except BlockingIOError:
            return []
        if not self._buffer and len(data) > _LENGTH_SIZE and len(data) == _LENGTH_SIZE + _frame_length(data):
            return [_decode(memoryview(data)[_LENGTH_SIZE:], decoder)]  # one message, as mostly
        self._buffer += data
        return self._decoded(decoder)

    def fileno(self) -> int:
        """Readable when `take` has more to give, or the other side has gone."""
        return self._socket.fileno()

    def dont_wait(self) -> None:
        """From now on only `take` is called."""
        self._timeout = 0.0
        self._socket.setblocking(False)

    def close(self) -> None:
        self._socket.close()

    def _receive(self) -> bytes:
        try:
            data = self._socket.recv(_READ_SIZE)
        except (TimeoutError, BlockingIOError):
            raise
        except OSError:
            data = b""
        if not data:
            raise EngineCrashed("The process that served this request has died. The next request starts it anew.")
        return data

    def _decoded(self, decoder: msgspec.msgpack.Decoder[Message]) -> list[Message]:
        messages = []
        while (body := self._take_frame()) is not None:
            messages.append(_decode(body, decoder))
        return messages

    def _take_frame(self) -> bytes | None:
        buffer = self._buffer
        if len(buffer) < _LENGTH_SIZE:
            return None
        end = _LENGTH_SIZE + _frame_length(buffer)
        if len(buffer) < end:
            return None
        body = bytes(buffer[_LENGTH_SIZE:end])
        del buffer[:end]
        return body


def _frame_length(head: bytes | bytearray) -> int:
    (length,) = _LENGTH.unpack_from(head)
    if length > MAX_FRAME_BYTES:
        raise InternalError(f"A message of {length} bytes was announced by another process.")
    return int(length)


def _decode(body: bytes | memoryview, decoder: msgspec.msgpack.Decoder[Message]) -> Message:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InternalError(f"Another process sent something that is no message: {error}.") from error
