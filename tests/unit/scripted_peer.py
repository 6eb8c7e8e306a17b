"""The other side of a Unix socket: takes one message on each connection and plays what it was told to."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from dmr.wire import pack

Step = msgspec.Struct | bytes | float  # a message, raw bytes, or seconds of silence


class ScriptedPeer:
    """Connections play the queued scripts in order; without one they only listen until the other side leaves."""

    def __init__(self, path: Path, decoder: msgspec.msgpack.Decoder[Any]) -> None:
        self.path = str(path)
        self.requests: list[Any] = []
        self.num_closed_by_client = 0
        self._scripts: deque[tuple[tuple[Step, ...], bool]] = deque()
        self._decoder = decoder
        self._changed = threading.Condition()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def plays(self, *steps: Step, then_dies: bool = False) -> None:
        """What the next connection answers. Afterwards it waits for the client to leave, or leaves first."""
        self._scripts.append((steps, then_dies))

    def wait_for_closed(self, number: int = 1) -> None:
        """Wait until so many connections were closed by the client."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.num_closed_by_client >= number, timeout=5)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        Path(self.path).unlink(missing_ok=True)
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive(), "a connection was left open"

    def _start(self, target: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._start(self._serve, self._listener.accept()[0])

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(ConnectionError):
            self.requests.append(self._decoder.decode(_read_frame(connection)))
            steps, then_dies = self._scripts.popleft() if self._scripts else ((), False)
            with contextlib.suppress(ConnectionError):  # the client has left already
                for step in steps:
                    if isinstance(step, float):
                        time.sleep(step)
                    else:
                        connection.sendall(step if isinstance(step, bytes) else pack(step))
            if not then_dies:
                with contextlib.suppress(ConnectionError):
                    connection.recv(1)
                with self._changed:
                    self.num_closed_by_client += 1
                    self._changed.notify_all()


@contextlib.contextmanager
def scripted_peer(path: Path, decoder: msgspec.msgpack.Decoder[Any]) -> Iterator[ScriptedPeer]:
    peer = ScriptedPeer(path, decoder)
    try:
        yield peer
    finally:
        peer.close()


def _read_frame(connection: socket.socket) -> bytes:
    data = b""
    while len(data) < 4 or len(data) < 4 + struct.unpack(">I", data[:4])[0]:
        more = connection.recv(1 << 16)
        if not more:
            raise ConnectionError
        data += more
    return data[4:]
