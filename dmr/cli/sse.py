"""Server-sent events: bytes to the data of each event (WHATWG HTML, "Server-sent events")."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dmr.cli.lines import read_lines


def read_events(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The data of each complete event, however the bytes are cut; comments and other fields are skipped.

    Raises:
        ValueError: a line is too long.
    """
    return (data for _, data in read_named_events(pieces))


def read_named_events(pieces: Iterable[bytes]) -> Iterator[tuple[str, bytes]]:
    """The same with the name of each event, `message` if it has none."""
    name, data = "", list[bytes]()
    for line in read_lines(pieces):
        if not line:
            if data:
                yield name or "message", b"\n".join(data)
            name, data = "", []
        elif line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif line.startswith(b"event:"):
            name = line[6:].strip().decode("utf-8", "replace")
