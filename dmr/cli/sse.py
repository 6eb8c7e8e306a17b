"""Server-sent events: bytes to the data of each event (WHATWG HTML, "Server-sent events")."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

MAX_LINE_BYTES = 16 * 1024 * 1024


def read_events(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The data of each complete event, however the bytes are cut; comments and other fields are skipped.

    Raises:
        ValueError: a line is longer than `MAX_LINE_BYTES`.
    """
    data: list[bytes] = []
    for line in _lines(pieces):
        if not line and data:
            yield b"\n".join(data)
            data = []
        elif line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r")
        if len(rest) > MAX_LINE_BYTES:
            raise ValueError("an event is too long")
