"""Lines of an answer that comes in pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

MAX_LINE_BYTES = 16 * 1024 * 1024


def read_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Each line without its end, however the bytes are cut; the last one, too, if nothing ends it.

    Raises:
        ValueError: a line is longer than `MAX_LINE_BYTES`.
    """
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r")
        if len(rest) > MAX_LINE_BYTES:
            raise ValueError("a line is too long")
    if rest:
        yield rest
