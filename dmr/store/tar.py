"""Tar archives as streams: read from whoever sent them without believing a length, and written without a second copy.

Only what an archive of a model needs: regular files and folders (POSIX ustar, with pax and GNU names and sizes).
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Union

from dmr.errors import InvalidModelFile, StoreError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BLOCK = 512
PIECE = 1 << 20  # bytes
MAX_EXTENSION_BYTES = 1 << 20  # a pax header or a long name
MAX_MEMBERS = 100_000
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_GZIP = b"\x1f\x8b"


class TarMember(io.RawIOBase):
    """One regular file of an archive that is being read; its bytes can be had until the next one is asked for.

    Raises (from any read): InvalidModelFile where the archive ends too early. What the source raises goes through.
    """

    def __init__(self, name: str, size: int, source: BinaryIO) -> None:
        super().__init__()
        self.member_name = name
        self.size = size
        self._source = source
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        wanted = min(len(view), self._left, PIECE)
        data = self._source.read(wanted) if wanted else b""
        if wanted and not data:
            raise _ends_early()
        view[: len(data)] = data
        self._left -= len(data)
        return len(data)

    def content(self, limit: int) -> bytes:
        """All of it, if that is no more than `limit` bytes."""
        if self.size > limit:
            raise InvalidModelFile(f"{_shown(self.member_name)} in the archive has {self.size} bytes; {limit} may be.")
        return self.readall()

    def skip_rest(self) -> None:
        while self.read(PIECE):
            pass
        padding = -self.size % BLOCK
        if padding and len(_read(self._source, padding)) != padding:
            raise _ends_early()


def read_members(source: BinaryIO) -> Iterator[TarMember]:
    """The regular files of an archive, in order. Names are plain relative paths.

    Raises:
        InvalidModelFile: it is no tar archive, is damaged, or holds links, devices or paths that lead out of it.
    """
    renamed: dict[str, str] = {}
    for _ in range(MAX_MEMBERS):
        header = _read_header(source)
        if header is None:
            return
        if header.size < 0:
            raise InvalidModelFile(f"{_shown(header.name)} in the archive has a negative size.")
        if header.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME):
            extension = TarMember("a header", header.size, source)
            text = extension.content(MAX_EXTENSION_BYTES)
            extension.skip_rest()
            if header.type == tarfile.GNUTYPE_LONGNAME:
                renamed["path"] = text.rstrip(b"\0").decode(errors="surrogateescape")
            elif header.type == tarfile.XHDTYPE:
                renamed |= _pax_fields(text)
            continue
        name, size = renamed.get("path", header.name), _size(renamed.get("size"), header.size)
        renamed = {}
        if header.type == tarfile.DIRTYPE:
            continue
        if header.type not in _REGULAR:
            raise InvalidModelFile(f"{_shown(name)} in the archive is a link or a device; only files may be in it.")
        member = TarMember(_safe_name(name), size, source)
        yield member
        member.skip_rest()
    raise InvalidModelFile(f"The archive has more than {MAX_MEMBERS} files.")


def _read_header(source: BinaryIO) -> tarfile.TarInfo | None:
    block = _read(source, BLOCK)
    if not block or not any(block):
        return None
    if block.startswith(_GZIP):
        raise InvalidModelFile("The archive is compressed; unpack it to a plain tar file (gunzip) and send that.")
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError) as error:
        raise InvalidModelFile(f"This is not a tar archive, or a damaged one: {error}.") from error


def _pax_fields(text: bytes) -> dict[str, str]:
    """The records `length key=value` that matter here. Raises InvalidModelFile."""
    fields: dict[str, str] = {}
    while text.strip(b"\0"):
        digits, _, _ = text.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 8 else 0
        record = text[len(digits) + 1 : length]
        if not record.endswith(b"\n") or length > len(text):
            raise InvalidModelFile("The archive has a damaged pax header.")
        key, _, value = record[:-1].partition(b"=")
        if key in (b"path", b"size"):
            fields[key.decode()] = value.decode(errors="surrogateescape")
        text = text[length:]
    return fields


def _size(text: str | None, size: int) -> int:
    if text is None:
        return size
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise InvalidModelFile("The archive has a file whose size is no number.")
    return int(text)


def _safe_name(name: str) -> str:
    """The path without `./` before it."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or not parts or "\0" in name or "\\" in name:
        raise InvalidModelFile(f"{_shown(name)} in the archive is not a safe path.")
    return "/".join(parts)


def _read(source: BinaryIO, size: int) -> bytes:
    """As many bytes, or fewer at the end."""
    data = b""
    while len(data) < size and (piece := source.read(size - len(data))):
        data += piece
    return data


def _shown(name: str) -> str:
    return ascii(name)[:100]


def _ends_early() -> InvalidModelFile:
    return InvalidModelFile("The archive ends too early.")


class Source(NamedTuple):
    """What becomes a member: bytes, an open file, or the path of one that is opened when it is its turn."""

    name: str
    size: int
    content: Union[bytes, io.FileIO, Path]


class TarStream:
    """An archive that is made while it is read. `size` in bytes. One reader; `close` closes all its files."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._pieces = self._make()
        self._rest = b""
        self.size = sum(BLOCK + source.size + -source.size % BLOCK for source in sources) + 2 * BLOCK

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def __enter__(self) -> TarStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, all for a negative one; nothing at the end. Raises StoreError."""
        if size < 0:
            rest, self._rest = self._rest, b""
            return rest + b"".join(self._pieces)
        if not self._rest:
            self._rest = next(self._pieces, b"")
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def close(self) -> None:
        self._pieces.close()
        for source in self._sources:
            if isinstance(source.content, io.FileIO):
                source.content.close()

    def _make(self) -> Generator[bytes, None, None]:
        for source in self._sources:
            yield _header(source)
            if isinstance(source.content, bytes):
                yield source.content
            else:
                yield from _content(source)
            if padding := -source.size % BLOCK:
                yield bytes(padding)
        yield bytes(2 * BLOCK)


def _header(source: Source) -> bytes:
    info = tarfile.TarInfo(source.name)
    info.size, info.mode = source.size, 0o644
    return info.tobuf(tarfile.GNU_FORMAT)


def _content(source: Source) -> Iterator[bytes]:
    """Raises StoreError: the file is another one than when its size was read, or cannot be read."""
    left = source.size
    try:
        file = source.content if isinstance(source.content, io.FileIO) else io.FileIO(str(source.content))
        with file:
            while left and (piece := file.read(min(PIECE, left))):
                left -= len(piece)
                yield piece
            if left or file.read(1):
                raise StoreError(f"{source.name} changed while it was read; try again.")
    except OSError as error:
        raise StoreError(f"{source.name} cannot be read: {os.strerror(error.errno or 0)}.") from error
