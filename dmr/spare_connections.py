"""Connections that are open before they are needed: to open one wakes the other process, which takes time."""

from __future__ import annotations

import threading
from collections import OrderedDict

from dmr.wire import Connection

MAX_PLACES = 8  # that have one; the places of engines that have gone are forgotten with time


class SpareConnections:
    """One for each place at most. Any thread."""

    def __init__(self, timeout: float, max_places: int = MAX_PLACES) -> None:
        """`timeout`: of the connections. `max_places` 0: none is kept, each is opened when it is needed."""
        self._timeout = timeout
        self._max_places = max_places
        self._lock = threading.Lock()
        self._spares: OrderedDict[str, Connection] = OrderedDict()  # by path; what was used longest ago goes first

    def open(self, path: str) -> Connection:
        """The spare one, or else a new one. Raises OSError when nobody listens."""
        return self.take(path) or Connection(path, self._timeout)

    def take(self, path: str) -> Connection | None:
        """The spare one, if there is one and its other end has not gone since."""
        with self._lock:
            connection = self._spares.pop(path, None)
        if connection is None or connection.is_open:
            return connection
        connection.close()
        return None

    def refill(self, path: str) -> None:
        """Open one for whoever comes next. Harmless when nobody listens there any more."""
        if path in self._spares or not self._max_places:
            return
        try:
            connection = Connection(path, self._timeout)
        except OSError:
            return
        with self._lock:
            left_over = [self._spares.pop(path, None)]
            self._spares[path] = connection
            while len(self._spares) > self._max_places:
                left_over.append(self._spares.popitem(last=False)[1])
        for other in left_over:
            if other is not None:
                other.close()

    def close(self) -> None:
        with self._lock:
            for connection in self._spares.values():
                connection.close()
            self._spares.clear()
