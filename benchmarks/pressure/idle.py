"""Streams that nobody reads to their end, and connections that are kept and not used."""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from .counts import Figures
from .crowd import measure_crowd
from .requests import post
from .side import Side

# A stream that is read slowly is more than the buffers of its connection hold, so that its server has to keep it.
NUM_TOKENS = 144
NUM_LOGPROBS = 20  # of each token: above a kilobyte
MOST_HELD = 4096  # bytes of the client's buffer, about
SEGMENT = 536  # bytes; by their size the server's side chooses its buffer
SIP = 1024  # bytes that an idle client reads at a time
SIP_INTERVAL = 5.0  # seconds
OPEN_TIMEOUT = 30.0
ESTABLISHED = "01"  # in /proc/net/tcp
REST_TIMEOUT = 60.0  # seconds in which a server should have computed what is left


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

    def open_streams(self, side: Side, count: int, seed: str) -> None:
        for number in range(count):
            self._open(side.port, _talkative(side.model, f"{seed} {number}", f"idle-{number}"))

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
        self._next_sip = now + SIP_INTERVAL
        self._connections = [connection for connection in self._connections if _is_open(connection)]

    def num_held(self) -> int:
        """How many the server has open: one that has said all to a stream has closed its end."""
        ports = {connection.getsockname()[1] for connection in self._connections}
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
        states = {int(line.split()[2].partition(":")[2], 16): line.split()[3] for line in lines}
        return sum(states.get(port) == ESTABLISHED for port in ports)

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


def _talkative(model: str, text: str, key: str) -> bytes:
    asked = {"max_tokens": NUM_TOKENS, "temperature": 0, "ignore_eos": True, "stream": True}
    body = {"model": model, "messages": [{"role": "user", "content": text}], **asked}
    return post("/v1/chat/completions", {**body, "logprobs": True, "top_logprobs": NUM_LOGPROBS}, key)


def _is_open(connection: socket.socket) -> bool:
    try:
        return connection.recv(SIP) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def measure_idle(side: Side, num_busy: int, num_idle: int, seconds: float, seed: str) -> Figures:
    """Throughput of a few streams: alone, beside idle streams, alone again, beside kept connections.

    A server that does not come to rest is measured as it is; the cores that idle streams take tell so.
    """

    def rate(name: str, meanwhile: Callable[[float], None] = lambda now: None) -> float:
        figures, reasons = measure_crowd(side, num_busy, seconds / 4, f"{seed} {name}", meanwhile)
        if reasons:
            raise SystemExit(f"{side.name}, {name}: {reasons}")
        return figures["tokens/s"]

    alone = [rate("alone")]
    with IdleClients() as idle:
        idle.open_streams(side, num_idle, seed)
        idle.rest(side, REST_TIMEOUT)
        cores = side.cores(1.0)
        streams = {"rate": rate("streams", idle.sip), "left": idle.num_held()}
    side.wait_at_rest(REST_TIMEOUT)
    alone.append(rate("alone again"))
    with IdleClients() as idle:
        idle.open_kept(side, num_idle)
        kept = {"rate": rate("kept", idle.sip), "left": idle.num_held()}
    reference = statistics.mean(alone)
    return {
        "alone tokens/s": reference,
        "beside idle streams tokens/s": streams["rate"],
        "beside idle streams, ratio": streams["rate"] / reference,
        "cores, for idle streams alone": cores,
        "idle streams at the end": streams["left"],
        "beside kept connections tokens/s": kept["rate"],
        "beside kept connections, ratio": kept["rate"] / reference,
        "kept connections at the end": kept["left"],
    }
