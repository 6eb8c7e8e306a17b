"""One writer at a time, across threads and processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from dmr.errors import Unavailable
from dmr.store.disk import store_errors

POLL_SECONDS = 0.01


@contextlib.contextmanager
def exclusive_lock(path: Path, timeout: float) -> Iterator[None]:
    """Hold the lock file at `path`, made if missing; the kernel lets go of it when its holder dies.

    Raises:
        Unavailable: somebody else still holds it after `timeout` seconds.
        StoreError: the folder cannot be written.
    """
    with store_errors(f"lock {path.parent}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        with store_errors(f"lock {path.parent}"):
            _acquire(descriptor, time.monotonic() + timeout)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise Unavailable("Another process is changing the model store; try again in a moment.") from None
        time.sleep(POLL_SECONDS)
