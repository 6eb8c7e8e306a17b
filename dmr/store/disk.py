"""Durable writes: after any crash a file is whole, either the old one or the new one."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from dmr.errors import StoreError

STALE_SECONDS = 7 * 24 * 3600.0  # upstream sweeps its unfinished downloads at this age

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
}


@contextlib.contextmanager
def store_errors(what: str) -> Iterator[None]:
    """Turn an OSError into a StoreError that says `what` could not be done and why."""
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0) or error.strerror or str(error)
        raise StoreError(f"The store cannot {what}: {reason}.") from error


def create_temporary(folder: Path) -> tuple[int, Path]:
    """A new empty file in `folder`, made if missing, as (descriptor, path). `sweep` removes those left behind."""
    folder.mkdir(parents=True, exist_ok=True)
    path = temporary_path(folder)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644), path


def temporary_path(folder: Path) -> Path:
    return folder / f"tmp-{secrets.token_hex(8)}.incomplete"


def sweep(folder: Path, age: float = STALE_SECONDS) -> None:
    """Remove unfinished files that nobody touched for `age` seconds: their writers are dead."""
    for path in folder.glob("*.incomplete"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_ctime > age:
                path.unlink()


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by a file with this content, on the disk when this returns. Raises OSError."""
    descriptor, temporary = create_temporary(path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        rename_durably(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def rename_durably(source: Path, target: Path) -> None:
    """Rename within one folder; `source` was synced by whoever wrote it. Raises OSError."""
    os.replace(source, target)  # noqa: PTH105  # the one place where anything appears in the store
    descriptor = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
