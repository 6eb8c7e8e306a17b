"""Brings blobs from elsewhere into the store: resumed where it broke off, named only after the digest was checked."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from io import FileIO
from pathlib import Path

import urllib3

from dmr.errors import RegistryError, StoreError
from dmr.store.blobs import BlobStore
from dmr.store.digest import Digest, hex_of
from dmr.store.disk import rename_durably, store_errors
from dmr.store.registry.transport import MAX_ATTEMPTS, RETRY_AFTER, Transport

PIECE = 1 << 20  # bytes, at most: what comes slowly is written, and told, as it comes
MIN_PROGRESS = 1 << 16  # bytes of one attempt that make up for those that failed before
LOCK_INTERVAL = 0.2  # seconds
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")

Open = Callable[[int], AbstractContextManager[urllib3.BaseHTTPResponse]]  # from an offset on
Report = Callable[[int], None]  # bytes that are there


def incomplete_path(blobs: BlobStore, digest: Digest) -> Path:
    """Where a blob grows; upstream's name for it too."""
    return blobs.folder / f"{hex_of(digest)}.incomplete"


def is_whole(blobs: BlobStore, digest: Digest, size: int) -> bool:
    """Whether the store has a blob, with as many bytes as it should have."""
    try:
        return blobs.path_of(digest).stat().st_size == size
    except OSError:
        return False


def num_bytes_left(blobs: BlobStore, digest: Digest, size: int) -> int:
    """What is still to come of a blob."""
    try:
        return max(0, size - incomplete_path(blobs, digest).stat().st_size)
    except OSError:
        return size


def download_blob(
    blobs: BlobStore, digest: Digest, size: int, open_at: Open, transport: Transport, report: Report
) -> None:
    """Fetch one blob unless the store has it. Of several downloaders one works; the others wait and tell of its work.

    Raises:
        RegistryError: the source ends early again and again, or sends other bytes than announced.
        StoreError: the disk does not obey.
        TransferCancelled: what has come so far stays for the next time.
    """
    if is_whole(blobs, digest, size):
        report(size)
        return
    path = incomplete_path(blobs, digest)
    with store_errors(f"write the blob {digest}"):
        blobs.folder.mkdir(parents=True, exist_ok=True)
        with _open_alone(path, transport, report) as file:
            if is_whole(blobs, digest, size):  # somebody was faster, and the file that is held is a new one
                path.unlink()
                report(size)
                return
            _fill(file, digest, size, open_at, transport, report)
            os.fsync(file.fileno())
            rename_durably(path, blobs.path_of(digest))


def _open_alone(path: Path, transport: Transport, report: Report) -> FileIO:
    """The growing file, held alone. Whoever held it before may have renamed or removed it: then there is a new one."""
    while True:
        file = FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+")
        try:
            while not _try_lock(file):
                transport.check_cancelled()
                report(os.fstat(file.fileno()).st_size)
                time.sleep(LOCK_INTERVAL)
            if _is_at(path, file):
                return file
        except BaseException:
            file.close()
            raise
        file.close()


def _is_at(path: Path, file: FileIO) -> bool:
    """Whether that is still the file's name: whoever was faster gives it another at any moment."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _try_lock(file: FileIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _fill(file: FileIO, digest: Digest, size: int, open_at: Open, transport: Transport, report: Report) -> None:
    hasher = _hash_of(file, size, transport)
    has_leftovers = file.tell() > 0
    _check_space(file, size - file.tell())
    hasher = _receive_all(file, hasher, digest, size, open_at, transport, report)
    if has_leftovers and not _is(hasher, digest):
        # What was there from another time may be damaged: a machine that lost its power can leave holes.
        hasher = _receive_all(file, _restart(file), digest, size, open_at, transport, report)
    if not _is(hasher, digest):
        _restart(file)
        raise RegistryError(f"What came for {digest} has another digest; it was thrown away.")
    report(size)


def _receive_all(
    file: FileIO,
    hasher: hashlib._Hash,
    digest: Digest,
    size: int,
    open_at: Open,
    transport: Transport,
    report: Report,
) -> hashlib._Hash:
    """Fetch from where the file ends to `size`, however often that breaks off; returns the hash of all of it."""
    failures = restarts = 0
    while file.tell() < size:
        report(file.tell())
        before = file.tell()
        problem: object = "it ended too early"
        try:
            with open_at(before) as response:
                is_rest = before > 0 and _continues(response, before, size)
                if before and not is_rest:
                    hasher = _restart(file)
                    restarts += 1
                if restarts > MAX_ATTEMPTS:
                    raise RegistryError(f"The download of {digest} had to be begun anew {restarts} times.")
                if is_rest or response.status == 200:  # else nothing usable came: ask for all of it
                    _receive(response, file, hasher, size, transport, report)
        except urllib3.exceptions.HTTPError as error:
            problem = error
        if file.tell() < size:
            failures = 0 if file.tell() - before >= MIN_PROGRESS else failures + 1
            if failures >= MAX_ATTEMPTS:
                done = file.tell()
                raise RegistryError(
                    f"The download of {digest} broke off {failures} times, at {done} of {size} bytes: {problem}.",
                    retry_after=RETRY_AFTER,
                )
            transport.pause(failures + 1)
    return hasher


def _is(hasher: hashlib._Hash, digest: Digest) -> bool:
    return f"sha256:{hasher.hexdigest()}" == digest


def _hash_of(file: FileIO, size: int, transport: Transport) -> hashlib._Hash:
    """The hash of what is there already; the file then stands at its end. More than there should be is dropped."""
    if os.fstat(file.fileno()).st_size > size:
        file.truncate(0)
    hasher = hashlib.sha256()
    file.seek(0)
    while piece := file.read(PIECE):
        transport.check_cancelled()
        hasher.update(piece)
    return hasher


def _restart(file: FileIO) -> hashlib._Hash:
    file.seek(0)
    file.truncate(0)
    return hashlib.sha256()


def _continues(response: urllib3.BaseHTTPResponse, offset: int, size: int) -> bool:
    """Whether the answer really is the rest: servers may ignore a range, or mean another one."""
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    if response.status != 206 or found is None:
        return False
    return int(found[1]) == offset and found[3] in ("*", str(size))


def _receive(
    response: urllib3.BaseHTTPResponse,
    file: FileIO,
    hasher: hashlib._Hash,
    size: int,
    transport: Transport,
    report: Report,
) -> None:
    while piece := response.read1(PIECE, decode_content=False):
        transport.check_cancelled()
        if file.tell() + len(piece) > size:
            _restart(file)
            raise RegistryError(f"More than the {size} announced bytes came; they were thrown away.")
        _write_all(file, piece)
        hasher.update(piece)
        report(file.tell())


def _write_all(file: FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _check_space(file: FileIO, missing: int) -> None:
    space = os.fstatvfs(file.fileno())
    if space.f_bavail * space.f_frsize < missing:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def check_size(size: int) -> None:
    """Raises StoreError for a size that no model file can have."""
    if not 0 <= size < 1 << 50:
        raise StoreError(f"A file of {size} bytes is announced, which cannot be.")
