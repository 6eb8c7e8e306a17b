"""A client that can offer more than a server on the same machine can take.

One thread, one epoll and about ten calls of the system for each request; what an answer says is looked at when it has
ended. Every request has a connection of its own, on which it is the only one.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from collections.abc import Callable

CONNECT_TIMEOUT = 15.0  # seconds in which a connection must have been opened
READ_SIZE = 1 << 16
NOT_OPENED = "not opened"
SILENT = "no end"


class Exchange:
    """One request and what came of it. Times are seconds of `time.perf_counter`; 0 = it has not happened."""

    __slots__ = ("began", "connection", "data", "ended", "error", "is_open", "request", "then")

    def __init__(self, connection: socket.socket, request: bytes, then: Callable[[Exchange], object]) -> None:
        self.connection = connection
        self.request = request
        self.then = then
        self.began = time.perf_counter()
        self.ended = 0.0  # when the last byte came, or it was given up
        self.is_open = False  # there is a connection, and the request is on its way
        self.data = bytearray()
        self.error = ""  # empty: the server has closed the connection after what it had to say

    @property
    def seconds(self) -> float:
        return self.ended - self.began


class Client:
    """Its owner calls `turn` again and again; whatever `then` is given is called in there."""

    def __init__(self, port: int, timeout: float, connect_timeout: float = CONNECT_TIMEOUT) -> None:
        """`timeout`: seconds that a whole exchange may take."""
        self._address = ("127.0.0.1", port)
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._epoll = select.epoll()
        self._exchanges: dict[int, Exchange] = {}  # oldest first, by the number of their file
        self._next_look = 0.0

    @property
    def num_open(self) -> int:
        return len(self._exchanges)

    def send(self, request: bytes, then: Callable[[Exchange], object]) -> None:
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        exchange = Exchange(connection, request, then)
        self._exchanges[connection.fileno()] = exchange
        self._epoll.register(connection.fileno(), select.EPOLLOUT)
        code = connection.connect_ex(self._address)
        if code == 0:
            self._push(exchange)
        elif code != errno.EINPROGRESS:
            self._end(exchange, NOT_OPENED)

    def turn(self, until: float) -> None:
        """Take what comes, and wait until then for something to come."""
        now = time.perf_counter()
        for number, events in self._epoll.poll(max(0.0, until - now), 256):
            exchange = self._exchanges.get(number)
            if exchange is None:
                continue
            if exchange.is_open:
                self._pull(exchange)
            elif events & (select.EPOLLERR | select.EPOLLHUP):
                self._end(exchange, NOT_OPENED)
            else:
                self._push(exchange)
        if now >= self._next_look:
            self._next_look = now + 0.5
            self._give_up_late(now)

    def drain(self, deadline: float) -> None:
        """Until all that is open has ended; what has not by then is given up."""
        while self._exchanges and time.perf_counter() < deadline:
            self.turn(min(deadline, time.perf_counter() + 0.5))
        for exchange in list(self._exchanges.values()):
            self._end(exchange, SILENT)

    def close(self) -> None:
        """Nothing is told of what was open."""
        for exchange in self._exchanges.values():
            exchange.connection.close()
        self._exchanges.clear()
        self._epoll.close()

    def _push(self, exchange: Exchange) -> None:
        """Requests are far smaller than what a fresh connection takes at once."""
        try:
            exchange.connection.send(exchange.request)
        except BlockingIOError:
            return
        except OSError:
            self._end(exchange, NOT_OPENED)
            return
        exchange.is_open = True
        self._epoll.modify(exchange.connection.fileno(), select.EPOLLIN)

    def _pull(self, exchange: Exchange) -> None:
        try:
            data = exchange.connection.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(exchange, error.strerror or "broken")
            return
        if data:
            exchange.data += data
            exchange.ended = time.perf_counter()
        else:
            self._end(exchange, "")

    def _give_up_late(self, now: float) -> None:
        for exchange in list(self._exchanges.values()):
            age = now - exchange.began
            if age < min(self._connect_timeout, self._timeout):
                return
            if not exchange.is_open:
                self._end(exchange, NOT_OPENED)
            elif age >= self._timeout:
                self._end(exchange, SILENT)

    def _end(self, exchange: Exchange, error: str) -> None:
        del self._exchanges[exchange.connection.fileno()]
        exchange.connection.close()
        exchange.error = error
        if error or not exchange.ended:
            exchange.ended = time.perf_counter()
        exchange.then(exchange)
