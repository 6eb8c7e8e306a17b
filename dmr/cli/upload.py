"""A file on its way out, with progress."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import BinaryIO, Protocol

from dmr.errors import InvalidModelFile


class Upload:
    """A file-like body of exactly `size` bytes; `progress(done, total)` is called as they leave."""

    def __init__(self, file: BinaryIO, progress: Callable[[int, int], None]) -> None:
        self.size = os.fstat(file.fileno()).st_size
        self._file = file
        self._progress = progress
        self._done = 0

    def read(self, amount: int = -1) -> bytes:
        """Up to `amount` bytes; raises `InvalidModelFile` if it cannot be read or has become shorter."""
        left = self.size - self._done
        try:
            data = self._file.read(left if amount < 0 else min(amount, left))
        except OSError as error:
            raise InvalidModelFile(f"{self._file.name} cannot be read: {error.strerror}.") from None
        if not data and left:
            raise InvalidModelFile(f"{self._file.name} has changed while it was read.")
        self._done += len(data)
        self._progress(self._done, self.size)
        return data


class Readable(Protocol):
    def read(self, amount: int = -1, /) -> bytes: ...


class StreamUpload:
    """A body that comes from anywhere; `size` is None when nobody knows it before."""

    def __init__(self, source: Readable, size: int | None, progress: Callable[[int, int | None], None]) -> None:
        self.size = size
        self._source = source
        self._progress = progress
        self._done = 0

    def read(self, amount: int = -1) -> bytes:
        """Up to `amount` bytes; nothing at the end."""
        data = self._source.read(amount)
        self._done += len(data)
        self._progress(self._done, self.size)
        return data
