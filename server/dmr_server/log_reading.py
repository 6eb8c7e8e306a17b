"""Log files as one stream of lines in the order of their times."""

from __future__ import annotations

import heapq
import os
import re
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from dmr.log_file import NUM_OLD, old_path

_STAMP = re.compile(rb"\[(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z)\] ")
MAX_LINE = 1 << 20  # bytes; what is longer is told in parts


class Line(NamedTuple):
    """`stamp`: its time, or for a line without one that of the line before it."""

    stamp: bytes
    text: bytes


class Tail:
    """A log file with those that were put aside before it, and what is written to it later, put aside or not."""

    def __init__(self, path: Path) -> None:
        """All that is there now is open from now on, so that nothing that is put aside meanwhile is lost."""
        self._path = path
        self._files: deque[BinaryIO] = deque()
        self._part = b""
        self._stamp = b""
        for old in (*(old_path(path, age) for age in range(NUM_OLD, 0, -1)), path):
            self._open(old)

    @property
    def exists(self) -> bool:
        return bool(self._files)

    def lines(self) -> Iterator[Line]:
        """What has come since the last call, whole lines only."""
        while (text := self._next()) is not None:
            found = _STAMP.match(text)
            if found:
                self._stamp = found[1]
            yield Line(self._stamp, text)

    def close(self) -> None:
        while self._files:
            self._files.popleft().close()

    def _next(self) -> bytes | None:
        while self._files or self._open(self._path):
            piece = self._files[0].readline(MAX_LINE)
            self._part += piece
            if self._part.endswith(b"\n") or len(piece) == MAX_LINE:
                text, self._part = self._part, b""
                return text
            if not piece and not self._go_on():
                return None
        return None

    def _go_on(self) -> bool:
        """At the end of a file: whether there is another one, or its beginning has become another."""
        at_end = self._files[0]
        if len(self._files) == 1:
            status = os.fstat(at_end.fileno())
            if status.st_size < at_end.tell():
                at_end.seek(0)
                return True
            # What was written to this one before it was put aside comes first.
            return self._open_younger(status)
        if at_end.peek(1):  # type: ignore[attr-defined] # it is buffered
            return True
        self._files.popleft().close()
        return True

    def _open_younger(self, open_one: os.stat_result) -> bool:
        """Open what has come after a file that was put aside, maybe more than once; whether there is any."""
        younger: list[Path] = []
        for path in (self._path, *(old_path(self._path, age) for age in range(1, NUM_OLD + 1))):
            try:
                found = path.stat()
            except FileNotFoundError:
                continue
            if (found.st_dev, found.st_ino) == (open_one.st_dev, open_one.st_ino):
                break
            younger.append(path)
        opened = [path for path in reversed(younger) if self._open(path)]
        return bool(opened)

    def _open(self, path: Path) -> bool:
        try:
            self._files.append(path.open("rb"))
        except FileNotFoundError:
            return False
        return True


def merged(tails: Sequence[Tail]) -> Iterator[bytes]:
    """What has come, by time; of two lines of the same time, that of the first file comes first."""
    for line in heapq.merge(*(tail.lines() for tail in tails), key=lambda line: line.stamp):
        yield line.text
