"""Connections that are to be closed, until their other ends have: nothing waits for them.

To close one at once could cost its client the end of the answer, if the client is still sending (RFC 9112, 9.6).
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable
from contextlib import suppress

LINGER = 2.0  # seconds that the other end has
MAX_DRAINED = 64 << 10  # bytes that are still read


class _Closing:
    def __init__(self, connection: socket.socket, until: float) -> None:
        self.connection = connection
        self.until = until
        self.num_left = MAX_DRAINED


class Lingering:
    """On one thread, whose poller calls back with the file that is readable."""

    def __init__(self, poller: selectors.BaseSelector, on_closed: Callable[[], None]) -> None:
        self._poller = poller
        self._on_closed = on_closed
        self._closing: dict[socket.socket, _Closing] = {}  # oldest first

    def close(self, connection: socket.socket) -> None:
        """Send no more, and close it when the other end has, or has had its time. It is not registered anywhere."""
        closing = _Closing(connection, time.monotonic() + LINGER)
        try:
            connection.setblocking(False)
            connection.shutdown(socket.SHUT_WR)
        except OSError:  # it has gone already
            self._end(closing)
            return
        if not self._drain(closing):
            self._closing[connection] = closing
            self._poller.register(connection, selectors.EVENT_READ, self._on_readable)

    def cut_late(self, now: float) -> None:
        for closing in list(self._closing.values()):
            if now < closing.until:
                return
            self._end(closing)

    def _on_readable(self, connection: socket.socket) -> None:
        closing = self._closing.get(connection)
        if closing is not None:  # it was not cut a moment ago
            self._drain(closing)

    def _drain(self, closing: _Closing) -> bool:
        """Whether that was the end of it."""
        try:
            data = closing.connection.recv(4096)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        closing.num_left -= len(data)
        if data and closing.num_left > 0:
            return False
        self._end(closing)
        return True

    def _end(self, closing: _Closing) -> None:
        if self._closing.pop(closing.connection, None) is not None:
            with suppress(OSError, KeyError, ValueError):
                self._poller.unregister(closing.connection)
        with suppress(OSError):
            closing.connection.close()
        self._on_closed()
