"""Connections whose request has not come yet, or not all of it, and for which no thread waits. On one thread."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from gunicorn.workers.gthread import TConn  # type: ignore[import-untyped]

Then = Callable[[TConn], None]


class _Awaited(NamedTuple):
    until: float
    come: Then
    late: Then


class Awaiting:
    """Its poller calls back with the file that is readable."""

    def __init__(self, poller: selectors.BaseSelector) -> None:
        self._poller = poller
        self._awaited: dict[TConn, _Awaited] = {}
        self._by_socket: dict[socket.socket, TConn] = {}

    def bytes_of(self, conn: TConn, num_bytes: int, seconds: float, come: Then, late: Then) -> None:
        """`come` is called when so many can be read, or its other end sends no more; `late` if neither is in time."""
        conn.sock.setblocking(False)
        _wake_at(conn, num_bytes)
        self._awaited[conn] = _Awaited(time.monotonic() + seconds, come, late)
        self._by_socket[conn.sock] = conn
        self._poller.register(conn.sock, selectors.EVENT_READ, self._on_readable)

    def hurry(self, until: float) -> None:
        """Nobody is waited for any longer than that."""
        self._awaited = {conn: each._replace(until=min(until, each.until)) for conn, each in self._awaited.items()}

    def look(self, now: float) -> None:
        for conn, awaited in list(self._awaited.items()):
            if now >= awaited.until:
                self._forget(conn)
                awaited.late(conn)

    def _on_readable(self, connection: socket.socket) -> None:
        conn = self._by_socket.get(connection)
        if conn is not None:  # it was not late a moment ago
            self._forget(conn).come(conn)

    def _forget(self, conn: TConn) -> _Awaited:
        del self._by_socket[conn.sock]
        with suppress(OSError, KeyError, ValueError):
            self._poller.unregister(conn.sock)
        _wake_at(conn, 1)
        return self._awaited.pop(conn)


def _wake_at(conn: TConn, num_bytes: int) -> None:
    with suppress(OSError):  # it has gone already
        conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, num_bytes)
