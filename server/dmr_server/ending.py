"""Whether this worker process is about to end: streams that would never end by themselves end then."""

from __future__ import annotations

import time

_POLL_INTERVAL = 0.05  # seconds
_begun = False  # no lock, no event: it is set by a signal handler, which may interrupt anybody


def begin() -> None:
    global _begun
    _begun = True


def has_begun() -> bool:
    return _begun


def wait(seconds: float) -> None:
    """Wait so long, or until the end begins."""
    deadline = time.monotonic() + seconds
    while not _begun and (rest := deadline - time.monotonic()) > 0:
        time.sleep(min(rest, _POLL_INTERVAL))
