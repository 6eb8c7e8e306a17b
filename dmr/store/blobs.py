"""Content-addressed files. A blob gets its name only after its bytes were hashed and are on the disk.

Writing has two halves: `stage` does the long work beside the blobs, `commit` is a rename. Whoever must write several
blobs and an index stages without a lock and commits under it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Callable
from io import FileIO
from pathlib import Path

import msgspec

from dmr.errors import InvalidModelFile, StoreError
from dmr.store.digest import Digest, digest_of, hex_of
from dmr.store.disk import create_temporary, rename_durably, store_errors, temporary_path
from dmr.store.gguf_cursor import open_regular_file

Progress = Callable[[int, int], None]  # (bytes done, bytes in all)

BUFFER_BYTES = 4 << 20
_FICLONE = 0x40049409  # linux/fs.h: share the source's extents; both files stay independent


class StagedBlob(msgspec.Struct, frozen=True):
    """Checked bytes that wait for their name. `temporary` is None if the store has them, intact."""

    digest: Digest
    size: int
    temporary: Path | None


class BlobStore:
    """The folder `blobs/sha256` under `root`. Methods raise StoreError when the disk does not obey."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "blobs" / "sha256"

    def path_of(self, digest: Digest) -> Path:
        return self.folder / hex_of(digest)

    def has(self, digest: Digest) -> bool:
        return self.path_of(digest).is_file()

    def open(self, digest: Digest) -> FileIO:
        with store_errors(f"open the blob {digest}"):
            return self.path_of(digest).open("rb", buffering=0)

    def hold(self, digest: Digest) -> FileIO:
        """Open a blob and tell other processes that it is in use, until the file is closed or this process ends.

        Raises:
            StoreError: it is missing.
        """
        file = self.open(digest)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return file

    def is_held(self, digest: Digest) -> bool:
        """Whether somebody holds a blob, in whatever process."""
        try:
            with self.path_of(digest).open("rb", buffering=0) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def put_file(self, path: Path, expected: Digest | None = None, move: bool = False) -> Digest:
        """Store a file's bytes; with `move` the file is gone afterwards. Raises as `stage_file`."""
        staged = self.stage_file(path, expected, move)
        try:
            self.commit(staged)
        finally:
            self.discard(staged)
        if move:
            self.remove_source(path, staged.digest)
        return staged.digest

    def put_bytes(self, data: bytes) -> Digest:
        staged = self.stage_bytes(data)
        try:
            self.commit(staged)
        finally:
            self.discard(staged)
        return staged.digest

    def stage_file(
        self, path: Path, expected: Digest | None = None, move: bool = False, progress: Progress | None = None
    ) -> StagedBlob:
        """Hash a file and bring its bytes onto the store's disk. `path` itself stays, whatever `move` says.

        `move` allows the blob to be the very file, under a second name, if the file has no other.

        Raises:
            InvalidModelFile: the file cannot be read, or changes meanwhile.
            StoreError: its digest is not `expected`, or the store cannot be written.
        """
        with open_regular_file(path) as source:
            size = os.fstat(source.fileno()).st_size
            staged = self._find_same(source, size, progress) or self._stage(path, source, size, move, progress)
        if expected is None or staged.digest == expected:
            return staged
        self.discard(staged)
        raise StoreError(f"{path} has the digest {staged.digest}, but {expected} was expected.")

    def stage_bytes(self, data: bytes) -> StagedBlob:
        digest = digest_of(data)
        if self.is_intact(digest):
            return StagedBlob(digest, len(data), None)
        with store_errors("write a blob"):
            descriptor, temporary = create_temporary(self.folder)
            staged = StagedBlob(digest, len(data), temporary)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            except BaseException:
                self.discard(staged)
                raise
        return staged

    def commit(self, staged: StagedBlob) -> None:
        """Give staged bytes their name, in place of a damaged blob if there is one.

        Raises:
            StoreError: the blob that was found while staging has been deleted since, or the disk does not obey.
        """
        if staged.temporary is None:
            if not self.has(staged.digest):
                raise StoreError(f"The blob {staged.digest} was removed by another process meanwhile; try again.")
            return
        with store_errors(f"name the blob {staged.digest}"):
            rename_durably(staged.temporary, self.path_of(staged.digest))

    def discard(self, staged: StagedBlob) -> None:
        """Forget staged bytes that have no name yet; harmless after `commit`."""
        if staged.temporary is not None:
            with contextlib.suppress(OSError):
                staged.temporary.unlink()

    def remove_source(self, path: Path, digest: Digest) -> None:
        """The end of a move: remove the file that became this blob, unless it is the blob."""
        with store_errors(f"remove {path}"):
            if path.resolve() != self.path_of(digest).resolve():
                path.unlink(missing_ok=True)

    def delete(self, digest: Digest) -> None:
        with store_errors(f"delete the blob {digest}"):
            self.path_of(digest).unlink(missing_ok=True)

    def is_intact(self, digest: Digest) -> bool:
        """Hash a blob again. False if it is missing or damaged."""
        try:
            with self.path_of(digest).open("rb", buffering=0) as file:
                return _copy(file, None, os.fstat(file.fileno()).st_size, None) == digest
        except (OSError, InvalidModelFile):
            return False

    def _find_same(self, source: FileIO, size: int, progress: Progress | None) -> StagedBlob | None:
        """Hash first where a blob of the same size makes it likely that nothing need be copied."""
        try:
            with os.scandir(self.folder) as entries:
                likely = any(entry.stat().st_size == size for entry in entries if len(entry.name) == 64)
        except OSError:
            likely = False
        if not likely:
            return None
        digest = _copy(source, None, size, progress)
        source.seek(0)
        return StagedBlob(digest, size, None) if self.is_intact(digest) else None

    def _stage(self, path: Path, source: FileIO, size: int, move: bool, progress: Progress | None) -> StagedBlob:
        with store_errors(f"take in {path}"):
            if move and (temporary := self._link(path, source)):
                return self._hash_staged(temporary, source, size, progress)
            descriptor, temporary = create_temporary(self.folder)
            try:
                with os.fdopen(descriptor, "r+b", buffering=0) as target:
                    return StagedBlob(_fill(source, target, size, progress), size, temporary)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise

    def _link(self, path: Path, source: FileIO) -> Path | None:
        """A second name for the file, unless a third one would let somebody write into the blob."""
        opened = os.fstat(source.fileno())
        if path.is_symlink() or opened.st_nlink != 1:
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(self.folder)
        try:
            os.link(path, temporary)
        except OSError:  # another file system, or one without links
            return None
        if os.path.samestat(temporary.stat(), opened):
            return temporary
        temporary.unlink()
        return None

    def _hash_staged(self, temporary: Path, source: FileIO, size: int, progress: Progress | None) -> StagedBlob:
        try:
            digest = _copy(source, None, size, progress)
            os.fsync(source.fileno())
            with contextlib.suppress(OSError):
                temporary.chmod(0o644)
            return StagedBlob(digest, size, temporary)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def hash_file(path: Path, progress: Progress | None = None) -> tuple[Digest, int]:
    """Digest and size in bytes of a file. Raises InvalidModelFile: it cannot be read, or changes meanwhile."""
    with open_regular_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        return _copy(file, None, size, progress), size


def _fill(source: FileIO, target: FileIO, size: int, progress: Progress | None) -> Digest:
    """Copy by sharing extents where the file system can, else byte by byte; synced when this returns."""
    if _clone(source, target):
        digest = _copy(target, None, size, progress)
    else:
        _check_free_space(target, size)
        digest = _copy(source, target, size, progress)
    os.fsync(target.fileno())
    return digest


def _clone(source: FileIO, target: FileIO) -> bool:
    try:
        fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
    except OSError:
        return False
    return True


def _check_free_space(target: FileIO, size: int) -> None:
    space = os.fstatvfs(target.fileno())
    if space.f_bavail * space.f_frsize < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _copy(source: FileIO, target: FileIO | None, size: int, progress: Progress | None) -> Digest:
    """Hash `size` bytes from the start of `source`, and write them to `target` if there is one."""
    hasher, buffer, done = hashlib.sha256(), memoryview(bytearray(BUFFER_BYTES)), 0
    source.seek(0)
    while num_read := source.readinto(buffer):
        chunk = buffer[:num_read]
        hasher.update(chunk)
        if target is not None:
            _write_all(target, chunk)
        done += num_read
        if done > size:
            break
        if progress is not None:
            progress(done, size)
    if done != size:
        raise InvalidModelFile("The file changed while it was read; import it again.")
    return Digest(f"sha256:{hasher.hexdigest()}")


def _write_all(target: FileIO, data: memoryview) -> None:
    while data:
        data = data[target.write(data) :]
