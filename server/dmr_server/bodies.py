"""Reading request bodies that anyone may have sent: bounded in size, depth and time."""

from __future__ import annotations

import io
import re
import socket
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import falcon
import msgspec

from dmr.errors import DmrError, InvalidRequest, PayloadTooLarge
from dmr_server.alarms import Alarms
from dmr_server.errors import InvalidBody, RequestTimeout, UnsupportedMediaType
from dmr_server.recording.draft import draft_of

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_DEPTH = 64
PIECE = 1 << 20  # bytes
MAX_DISCARDED = 64 << 20  # bytes of a refused body that are read, so that the client comes to read the refusal
PIECE_TIMEOUT = 30.0  # seconds in which one piece has to arrive: also ends a body that trickles

_alarms = Alarms()


@contextmanager
def _deadline(connection: socket.socket | None, seconds: float) -> Iterator[threading.Event]:
    """After `seconds` shut the connection's reading half: a blocked read ends, the answer can still be sent."""
    expired = threading.Event()
    if connection is None:
        yield expired
        return

    def expire() -> None:
        expired.set()
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RD)

    with _alarms.after(seconds, expire):
        yield expired


class RequestBody(io.RawIOBase):
    """The body of a request as a file, with a known length or chunked; an early end is an error, never a short file.

    Raises (from any read): RequestTimeout, InvalidBody.
    """

    def __init__(self, req: falcon.Request, piece_timeout: float = PIECE_TIMEOUT) -> None:
        super().__init__()
        self.size = req.content_length
        if self.size is None and not req.env.get("wsgi.input_terminated"):
            self.size = 0  # without a length and without a terminated stream there is nothing that may be read
        self._source = req.env["wsgi.input"]
        self._connection: socket.socket | None = req.env.get("gunicorn.socket")
        self._timeout = piece_timeout
        self._num_read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        data = self._next_piece(min(len(view), PIECE))
        view[: len(data)] = data
        return len(data)

    def _next_piece(self, size: int) -> bytes:
        if self.size is not None:
            size = min(size, self.size - self._num_read)
        if size <= 0:
            return b""
        data = self._timed_read(size)
        self._num_read += len(data)
        if not data and self.size is not None:
            raise InvalidBody(f"The request body ended after {self._num_read} of {self.size} bytes.")
        return data

    def _timed_read(self, size: int) -> bytes:
        with _deadline(self._connection, self._timeout) as expired:
            try:
                data = cast(bytes, self._source.read(size))
            except Exception as error:  # servers raise types of their own for broken chunks and lost connections
                if not expired.is_set():
                    raise InvalidBody(f"The request body could not be read: {error}.") from error
                data = b""
        if expired.is_set():
            raise RequestTimeout(f"The request body did not arrive: nothing complete for {self._timeout:g} seconds.")
        return data


def open_body(req: falcon.Request) -> tuple[BinaryIO, int | None]:
    """The raw body as a file and its size in bytes (None when it comes in chunks).

    Raises:
        UnsupportedMediaType: the body is a form or is compressed.
    """
    _refuse_forms(req)
    _content_encoding(req, ())
    body = RequestBody(req)
    return io.BufferedReader(body, PIECE), body.size


def read_json(req: falcon.Request, max_bytes: int) -> dict[str, Any]:
    """The JSON object in the body. `max_bytes` bounds it both as sent and unpacked.

    Raises:
        PayloadTooLarge, UnsupportedMediaType, InvalidBody, RequestTimeout
    """
    data = read_body(req, max_bytes)
    decoded = parse_json(data)
    draft = draft_of(req)
    if draft is not None:
        draft.asked(data, decoded)
    return decoded


def read_body(req: falcon.Request, max_bytes: int) -> bytes:
    """The whole body, unpacked. Whoever reads it before its time leaves it in `req.context.body`.

    Raises as `read_json` does.
    """
    body: bytes | None = getattr(req.context, "body", None)
    if body is not None:
        return body
    _refuse_forms(req)
    encoding = _content_encoding(req, ("gzip", "x-gzip"))
    data = read_raw(req, max_bytes)
    return _gunzip(data, max_bytes) if encoding else data


def read_raw(req: falcon.Request, max_bytes: int) -> bytes:
    """The whole body as it was sent, whatever it is. Raises PayloadTooLarge, InvalidBody, RequestTimeout."""
    return _read_all(RequestBody(req), max_bytes)


def parse_json(data: bytes) -> dict[str, Any]:
    """Decode a JSON object.

    Raises:
        InvalidBody: with the reason.
        InvalidRequest: an integer of more than 64 bits, which no field takes and not every reader survives.
    """
    data = data.removeprefix(b"\xef\xbb\xbf")
    if not data.strip():
        raise InvalidBody("The request body is empty; a JSON object is expected.")
    if nests_deeper(data, MAX_DEPTH):
        raise InvalidBody(f"The request body is nested more than {MAX_DEPTH} levels deep.")
    try:
        decoded = msgspec.json.decode(data)
    except UnicodeDecodeError as error:
        raise InvalidBody(f"The request body is not valid UTF-8: {error.reason}.") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidBody(f"The request body is not valid JSON: {error}.") from None
    if not isinstance(decoded, dict):
        raise InvalidBody("The request body is not a JSON object.")
    if _LONG_NUMBER.search(data):
        for name, value in decoded.items():
            if _holds_large_integer(value):
                name = name[:40]
                raise InvalidRequest(f"Invalid value for '{name}': an integer has more than 64 bits.", param=name)
    return decoded


_LONG_NUMBER = re.compile(rb"[0-9]{19}")  # nothing shorter is beyond 64 bits


def _holds_large_integer(value: Any) -> bool:
    todo = [value]
    while todo:
        each = todo.pop()
        if isinstance(each, dict):
            todo += each.values()
        elif isinstance(each, list):
            todo += each
        elif isinstance(each, int) and not -(2**63) <= each < 2**64:
            return True
    return False


# The closing quote is optional, so that an unterminated string is one match and not a quadratic search.
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_BRACES_AS_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def nests_deeper(data: bytes, limit: int) -> bool:
    """Whether JSON text nests deeper than `limit`; each pass peels the innermost level off, without recursion."""
    if data.count(b"[") + data.count(b"{") <= limit:
        return False
    outline = _STRING.sub(b"", data).translate(_BRACES_AS_BRACKETS, _NO_BRACKETS)
    for _ in range(limit):
        peeled = outline.replace(b"[]", b"")
        if len(peeled) == len(outline):
            break
        outline = peeled
    return b"[]" in outline or outline.count(b"[") > limit


def _refuse_forms(req: falcon.Request) -> None:
    # curl labels any body as a urlencoded form, so only multipart is certain not to be JSON.
    if (req.content_type or "").strip().lower().startswith("multipart/"):
        raise UnsupportedMediaType(f"A body of type '{req.content_type}' is not read here.")


def _content_encoding(req: falcon.Request, accepted: tuple[str, ...]) -> str:
    encoding = (req.get_header("Content-Encoding") or "identity").strip().lower()
    if encoding in ("identity", ""):
        return ""
    if encoding not in accepted:
        raise UnsupportedMediaType(f"Content-Encoding '{encoding}' is not read here.")
    return encoding


def _read_all(body: RequestBody, max_bytes: int) -> bytes:
    if body.size is not None and body.size > max_bytes:
        _discard(body)
        raise _too_large(max_bytes)
    data = bytearray()
    while piece := body.read(PIECE):
        data += piece
        if len(data) > max_bytes:
            _discard(body)
            raise _too_large(max_bytes)
    return bytes(data)


def _discard(body: RequestBody) -> None:
    discarded = 0
    with suppress(DmrError):
        while discarded < MAX_DISCARDED and (piece := body.read(PIECE)):
            discarded += len(piece)


def _gunzip(data: bytes, max_bytes: int) -> bytes:
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        unpacked = unpacker.decompress(data, max_bytes + 1)
    except zlib.error as error:
        raise InvalidBody(f"The request body is not valid gzip: {error}.") from None
    if len(unpacked) > max_bytes:
        raise _too_large(max_bytes)
    if not unpacker.eof:
        raise InvalidBody("The request body is not valid gzip: it ends too early.")
    return unpacked


def _too_large(max_bytes: int) -> DmrError:
    return PayloadTooLarge(f"The request body is larger than the limit of {max_bytes} bytes.")
