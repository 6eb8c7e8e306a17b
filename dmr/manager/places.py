"""So many may work at the same time, each in a thread; the others wait, and may be told not to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dmr.store.registry.transport import Cancelled, TransferCancelled

INTERVAL = 0.2  # seconds between two looks whether it is still wanted


class Places:
    def __init__(self, number: int) -> None:
        self._free = threading.Semaphore(number)

    @contextmanager
    def one(self, cancelled: Cancelled) -> Iterator[None]:
        """Hold a place, after waiting for it. Raises TransferCancelled."""
        while not self._free.acquire(timeout=INTERVAL):
            if cancelled():
                raise TransferCancelled
        try:
            yield
        finally:
            self._free.release()
