"""Server-sent events: bytes to the data of each event (WHATWG HTML, "Server-sent events")."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dmr.cli.lines import read_lines


def read_events(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The data of each complete event, however the bytes are cut; comments and other fields are skipped.

    Raises:
        ValueError: a line is too long.
    """
    data: list[bytes] = []
    for line in read_lines(pieces):
        if not line and data:
            yield b"\n".join(data)
            data = []
        elif line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
