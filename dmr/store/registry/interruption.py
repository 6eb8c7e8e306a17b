"""Ends reads that wait for a network: nobody should wait for a silent server when the transfer is wanted no more."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import urllib3

INTERVAL = 0.25  # seconds between two looks


class Interruption:
    """One thread for all bodies that are being read; none while there are none. Any thread."""

    def __init__(self, is_unwanted: Callable[[], bool]) -> None:
        self._is_unwanted = is_unwanted
        self._lock = threading.Lock()
        self._open: set[urllib3.BaseHTTPResponse] = set()
        self._thread: threading.Thread | None = None

    def watch(self, response: urllib3.BaseHTTPResponse) -> None:
        with self._lock:
            self._open.add(response)
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, name="interruption", daemon=True)
                self._thread.start()

    def forget(self, response: urllib3.BaseHTTPResponse) -> None:
        with self._lock:
            self._open.discard(response)

    def _look(self) -> None:
        pause = threading.Event()
        while True:
            pause.wait(INTERVAL)
            with self._lock:
                if not self._open:
                    self._thread = None
                    return
                if self._is_unwanted():
                    for response in self._open:
                        # Whoever reads it sees its end.
                        with contextlib.suppress(OSError, ValueError):
                            response.shutdown()
