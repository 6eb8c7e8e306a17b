"""Streams that nobody reads to their end, and connections that are kept and not used."""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Callable

from .counts import Figures
from .crowd import measure_crowd
from .requests import streamed
from .side import Side

NUM_TOKENS = 192  # of a stream that is read slowly; with their probabilities more than the connection holds
MOST_HELD = 4096  # bytes that an idle client's side of the connection takes, about
SEGMENT = 536  # bytes; by their size the server's side chooses how much it holds
SIP = 64  # bytes that an idle client reads at a time
TRICKLE_INTERVAL = 5.0  # seconds between two sips
OPEN_TIMEOUT = 30.0
REST_TIMEOUT = 60.0  # seconds in which a server has computed what is left


class IdleClients:
    """A context manager, which closes all of them."""

    def __init__(self) -> None:
        self._connections: list[socket.socket] = []
        self._next_sip = 0.0

    def __enter__(self) -> IdleClients:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._connections:
            connection.close()

    @property
    def num_open(self) -> int:
        return len(self._connections)

    def open_streams(self, side: Side, count: int, seed: str) -> None:
        for number in range(count):
            request = streamed(side.model, f"{seed} idle {number}", 8, NUM_TOKENS, key=f"idle-{number}", logprobs=5)
            self._open(side.port, request)

    def open_kept(self, side: Side, count: int) -> None:
        """Each has had one answer, and the server knows of no reason to close it."""
        for _ in range(count):
            self._open(side.port, b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            connection = self._connections[-1]
            connection.settimeout(OPEN_TIMEOUT)
            connection.recv(1 << 16)
            connection.setblocking(False)

    def sip(self, now: float) -> None:
        """Take a little now and then, so that the server has no reason to cut them off; forget those that it did."""
        if now < self._next_sip:
            return
        self._next_sip = now + TRICKLE_INTERVAL
        self._connections = [connection for connection in self._connections if _is_open(connection)]

    def _open(self, port: int, request: bytes) -> None:
        connection = socket.socket()
        self._connections.append(connection)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MOST_HELD)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
        connection.settimeout(OPEN_TIMEOUT)
        connection.connect(("127.0.0.1", port))
        connection.sendall(request)
        connection.setblocking(False)

    def rest(self, side: Side, timeout: float) -> bool:
        """Until the server has computed what it can without them; False: it computes on."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            self.sip(time.monotonic())
            if side.wait_at_rest(1.0):
                return True
        return False


def _is_open(connection: socket.socket) -> bool:
    try:
        return connection.recv(SIP) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def measure_idle(side: Side, num_busy: int, num_idle: int, seconds: float, seed: str) -> Figures:
    """Throughput of a few streams: alone, beside idle streams, alone again, beside kept connections."""

    def rate(name: str, meanwhile: Callable[[float], None] = lambda now: None) -> float:
        figures, reasons = measure_crowd(side, num_busy, seconds / 4, f"{seed} {name}", meanwhile)
        if reasons:
            raise SystemExit(f"{side.name}, {name}: {reasons}")
        return figures["tokens/s"]

    alone = [rate("alone")]
    with IdleClients() as idle:
        idle.open_streams(side, num_idle, seed)
        idle.rest(side, REST_TIMEOUT)
        streams = {"open": idle.num_open, "rate": rate("streams", idle.sip), "left": idle.num_open}
    side.wait_at_rest(REST_TIMEOUT)
    alone.append(rate("alone again"))
    with IdleClients() as idle:
        idle.open_kept(side, num_idle)
        kept = {"open": idle.num_open, "rate": rate("kept", idle.sip), "left": idle.num_open}
    reference = statistics.mean(alone)
    return {
        "alone tokens/s": reference,
        "beside idle streams tokens/s": streams["rate"],
        "beside idle streams, ratio": streams["rate"] / reference,
        "idle streams at the end": streams["left"],
        "beside kept connections tokens/s": kept["rate"],
        "beside kept connections, ratio": kept["rate"] / reference,
        "kept connections at the end": kept["left"],
    }
