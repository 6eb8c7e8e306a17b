"""Files that clients bring before they make a model of them, in a folder of their own beside the blobs.

They belong to no model yet, so whoever sweeps the blobs, ours or upstream's, must not see them; and what is never used
can be removed here without a look at any model.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import time
from pathlib import Path
from typing import BinaryIO

from dmr.errors import InvalidRequest
from dmr.store.blobs import BlobStore, StagedBlob
from dmr.store.digest import Digest, hex_of
from dmr.store.disk import create_temporary, rename_durably, store_errors, sweep, temporary_path

GRACE_SECONDS = 24 * 3600.0  # the other files of a model may take long to come
PIECE = 1 << 20  # bytes
_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")


def read_digest(text: str) -> Digest:
    """A digest as clients write it: the hex digits in any case, and perhaps `-` for `:`. Raises InvalidRequest."""
    found = _DIGEST.fullmatch(text)
    if found is None:
        raise InvalidRequest("invalid digest format", param="digest")
    return Digest(f"sha256:{found[1].lower()}")


class Uploads:
    """The folder `uploads/sha256` under `root`. Any number of threads and processes. Methods raise StoreError."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "uploads" / "sha256"

    def path_of(self, digest: Digest) -> Path:
        return self.folder / hex_of(digest)

    def has(self, digest: Digest) -> bool:
        """Somebody wants to use it, so its removal is put off."""
        try:
            os.utime(self.path_of(digest))
        except OSError:
            return False
        return True

    def receive(self, source: BinaryIO, size: int | None, digest: Digest) -> None:
        """Take bytes in; the file is there only if they have the digest. `size` in bytes, if it is known.

        Raises:
            InvalidRequest: they have another, or another number of bytes came. Whatever reading raises goes through.
        """
        self.sweep()
        with store_errors(f"take in {digest}"):
            descriptor, temporary = create_temporary(self.folder)
            try:
                with os.fdopen(descriptor, "wb", buffering=0) as target:
                    found, num_bytes = _fill(source, target.fileno(), size)
                    if found != digest or size not in (None, num_bytes):
                        raise InvalidRequest(f'digest mismatch, expected "{digest}", got "{found}"', param="digest")
                    os.fsync(target.fileno())
                rename_durably(temporary, self.path_of(digest))
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise

    def stage(self, blobs: BlobStore, digest: Digest, size: int, cleanup: contextlib.ExitStack) -> StagedBlob:
        """A second name for an upload, beside the blobs; it was checked when it came. `cleanup` takes it away."""
        path = self.path_of(digest)
        with store_errors(f"take in {digest}"):
            blobs.folder.mkdir(parents=True, exist_ok=True)
            temporary = temporary_path(blobs.folder)
            try:
                os.link(path, temporary)
                staged = StagedBlob(digest, size, temporary)
            except OSError:  # a file system without links
                staged = blobs.stage_file(path, expected=digest)
        cleanup.callback(blobs.discard, staged)
        return staged

    def remove(self, digest: Digest) -> None:
        with contextlib.suppress(OSError):
            self.path_of(digest).unlink()

    def sweep(self, age: float = GRACE_SECONDS) -> None:
        """Remove what nobody has wanted for `age` seconds, and what was never finished."""
        sweep(self.folder)
        with contextlib.suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if len(entry.name) == 64 and time.time() - entry.stat().st_mtime > age:
                        Path(entry.path).unlink()


def _fill(source: BinaryIO, target: int, size: int | None) -> tuple[str, int]:
    """Digest and number of the bytes that were copied."""
    if size is not None:
        _check_free_space(target, size)
    hasher, num_bytes = hashlib.sha256(), 0
    while piece := source.read(PIECE):
        hasher.update(piece)
        num_bytes += len(piece)
        view = memoryview(piece)
        while view:
            view = view[os.write(target, view) :]
    return f"sha256:{hasher.hexdigest()}", num_bytes


def _check_free_space(target: int, size: int) -> None:
    space = os.fstatvfs(target)
    if space.f_bavail * space.f_frsize < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
