"""Bounded reads from a file that nobody vouches for: no length in it is believed before it was checked."""

from __future__ import annotations

import os
import stat
import struct
from io import FileIO
from pathlib import Path

from dmr.errors import InvalidModelFile

WINDOW_BYTES = 1 << 20  # read at a time; also the longest stretch that one unpack may need
MAX_STRING_BYTES = 16 << 20  # a chat template is some 20 KiB
MAX_KEPT_BYTES = 64 << 20  # all strings together
MAX_WALKED = 2_000_000  # array elements whose length must be looked at one by one; vocabularies stay below 1 million

_U64 = struct.Struct("<Q")


def open_regular_file(path: Path) -> FileIO:
    """Open a file for reading; pipes and devices, which could block for ever, are refused.

    Raises:
        InvalidModelFile: there is no such file, it is not a regular one, or it may not be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise InvalidModelFile(f"{path} cannot be opened: {getattr(error, 'strerror', None) or error}.") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidModelFile(f"{path} is not a regular file.")
    return os.fdopen(descriptor, "rb", buffering=0)


class GGUFCursor:
    """A position in a file of known size, behind a window of its bytes. Little-endian.

    Every method raises InvalidModelFile where the file ends too early or a length is absurd.
    """

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self.file_size = os.fstat(file.fileno()).st_size
        self._window = b""
        self._window_start = 0
        self._at = 0  # in the window
        self._kept = 0
        self._walked = 0

    @property
    def position(self) -> int:
        return self._window_start + self._at

    @property
    def remaining(self) -> int:
        return self.file_size - self.position

    def unpack(self, layout: struct.Struct, what: str) -> tuple[int | float | bool, ...]:
        """Unpack at most WINDOW_BYTES."""
        self._require(layout.size, what)
        values = layout.unpack_from(self._window, self._at)
        self._at += layout.size
        return values

    def unsigned(self, layout: struct.Struct, what: str) -> int:
        return int(self.unpack(layout, what)[0])

    def string(self, what: str, limit: int = MAX_STRING_BYTES) -> bytes:
        """A 64-bit length in bytes, and the bytes."""
        length = self.unsigned(_U64, f"the length of {what}")
        if length > limit:
            raise InvalidModelFile(f"{what} claims to be {length} bytes long, more than the {limit} allowed.")
        self._kept += length
        if self._kept > MAX_KEPT_BYTES:
            raise InvalidModelFile(f"the metadata holds more than {MAX_KEPT_BYTES} bytes of text.")
        self.check_room(length, what)
        parts = []
        while length:
            self._require(min(length, WINDOW_BYTES), what)
            parts.append(self._window[self._at : self._at + length])
            self._at += len(parts[-1])
            length -= len(parts[-1])
        return b"".join(parts)

    def skip(self, length: int, what: str) -> None:
        self.check_room(length, what)
        self._at += length
        if self._at > len(self._window):
            self._window_start, self._window, self._at = self.position, b"", 0

    def skip_strings(self, count: int, what: str) -> None:
        """Pass over `count` strings without keeping them: the hot loop of a large vocabulary."""
        self.count_walked(count)
        self.check_room(count * _U64.size, what)
        unpack, window, at = _U64.unpack_from, self._window, self._at
        for _ in range(count):
            if at + _U64.size > len(window):
                self._at = at
                self._require(_U64.size, what)
                window, at = self._window, self._at
            at += _U64.size + unpack(window, at)[0]
            if at > len(window):
                self._at = len(window)
                self.skip(at - len(window), what)
                window, at = self._window, self._at
        self._at = at

    def count_walked(self, count: int) -> None:
        self._walked += count
        if self._walked > MAX_WALKED:
            raise InvalidModelFile(f"the metadata's arrays have more than {MAX_WALKED} elements of varying length.")

    def check_room(self, length: int, what: str) -> None:
        if length > self.remaining:
            raise InvalidModelFile(
                f"the file is truncated: {what} needs {length} bytes at offset {self.position} "
                f"but the file has {self.file_size}."
            )

    def _require(self, length: int, what: str) -> None:
        """Have at least `length` bytes in the window."""
        if self._at + length <= len(self._window):
            return
        self.check_room(length, what)
        self._window_start, self._at = self.position, 0
        self._window = os.pread(self._file.fileno(), WINDOW_BYTES, self._window_start)
        if len(self._window) < length:
            raise InvalidModelFile(f"the file ended while {what} was read.")
