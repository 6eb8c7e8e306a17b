"""Model files that arrive as a stream of bytes."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO

from dmr.errors import InvalidModelFile, InvalidRequest, StoreError

COPY_CHUNK = 1 << 20


@contextlib.contextmanager
def uploaded_file(source: BinaryIO, size: int | None, store_root: Path) -> Iterator[Path]:
    """The bytes as a file beside the store's blobs, gone afterwards unless somebody has moved it.

    Raises:
        InvalidRequest: not as many bytes came as were announced.
        InvalidModelFile: as the block does, but of the file that was sent, whose name here says nothing to its sender.
        StoreError
    """
    folder = store_root / "blobs" / "sha256"  # where the store sweeps what a crash has left
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix="upload-", suffix=".incomplete", delete=False) as file:
            path = Path(file.name)
            try:
                _copy(source, file, size)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise StoreError(f"The model cannot be written to the store: {error}.") from error
    try:
        yield path
    except InvalidModelFile as error:
        raise InvalidModelFile(error.message.replace(str(path), "What was sent")) from error
    finally:
        path.unlink(missing_ok=True)


def _copy(source: BinaryIO, target: IO[bytes], size: int | None) -> None:
    copied = 0
    while chunk := source.read(COPY_CHUNK):
        target.write(chunk)
        copied += len(chunk)
    if size is not None and copied != size:
        raise InvalidRequest(f"The upload broke off: {copied} of {size} bytes arrived.")
