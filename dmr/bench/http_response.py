"""An HTTP/1.1 response out of its bytes, however they are cut. Pure: no I/O."""

from __future__ import annotations

MAX_HEAD_BYTES = 64 * 1024


class NotHttp(ValueError):
    """The bytes are no HTTP/1.1 response."""


class ResponseReader:
    """Feed it what a connection brings; it gives the body back. `status` is 0 until the head is complete."""

    def __init__(self) -> None:
        self.status = 0
        self.is_complete = False
        self._buffer = b""
        self._is_chunked = False
        # Bytes still to come: of the body, or of the chunk and the line end behind it. None: until the connection ends.
        self._num_left: int | None = 0

    def feed(self, data: bytes) -> bytes:
        """The bytes of the body that came with `data`. Raises NotHttp."""
        self._buffer = self._buffer + data if self._buffer else data
        if not self.status and not self._read_head():
            return b""
        if self._is_chunked:
            return self._take_chunks()
        piece, self._buffer = self._buffer, b""
        if self._num_left is not None:
            piece = piece[: self._num_left]
            self._num_left -= len(piece)
            self.is_complete = self._num_left == 0
        return piece

    def end(self) -> None:
        """The connection has ended; that may be what completes the body."""
        if self.status and not self._is_chunked and self._num_left is None:
            self.is_complete = True

    def _read_head(self) -> bool:
        head, separator, rest = self._buffer.partition(b"\r\n\r\n")
        if len(head) > MAX_HEAD_BYTES or not head.startswith(b"HTTP/1."[: len(head)]):
            raise NotHttp("this is no HTTP response")
        if not separator:
            return False
        first, *lines = head.split(b"\r\n")
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        self.status = _number(first.split(b" ")[1:2], 10)
        self._is_chunked = b"chunked" in fields.get(b"transfer-encoding", b"").lower()
        if not self._is_chunked:
            length = fields.get(b"content-length")
            self._num_left = None if length is None else _number([length], 10)
        self._buffer = rest
        return True

    def _take_chunks(self) -> bytes:
        pieces, buffer, position = [], self._buffer, 0
        while not self.is_complete:
            if self._num_left:
                piece = buffer[position : position + self._num_left]
                if not piece:
                    break
                pieces.append(piece[: max(0, self._num_left - 2)])
                position += len(piece)
                self._num_left -= len(piece)
                continue
            line_end = buffer.find(b"\r\n", position)
            if line_end < 0:
                break
            size = _number([buffer[position:line_end].partition(b";")[0]], 16)
            position = line_end + 2
            self._num_left = size + 2
            self.is_complete = size == 0  # trailers would say nothing that we want to know
        self._buffer = buffer[position:]
        return b"".join(pieces)


def _number(words: list[bytes], base: int) -> int:
    """The number that the only word is. Raises NotHttp."""
    try:
        number = int(words[0], base)
    except (IndexError, ValueError):
        raise NotHttp("this is no HTTP response") from None
    if number < 0:
        raise NotHttp("this is no HTTP response")
    return number
