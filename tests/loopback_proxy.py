"""A proxy on loopback that leads to one server, whatever host is asked for."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class LoopbackProxy:
    """`lines` are the first lines of the requests, `headers` what stood below them."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.lines: list[str] = []
        self.headers: list[str] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._lead, args=(client,), daemon=True).start()

    def _lead(self, client: socket.socket) -> None:
        host, _, port = self._target.rpartition(":")
        with client, socket.create_connection((host, int(port))) as server, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(1 << 16)
            line, _, rest = head.partition(b"\r\n")
            self.lines.append(line.decode())
            self.headers.append(rest.decode())
            if line.startswith(b"CONNECT "):
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                server.sendall(_for_the_server(line) + b"\r\nConnection: close\r\n" + rest)
            back = threading.Thread(target=_copy, args=(server, client), daemon=True)
            back.start()
            _copy(client, server)
            back.join(10)


def _for_the_server(line: bytes) -> bytes:
    """`GET http://host/path` is `GET /path` there."""
    method, url, version = line.split()
    return b" ".join((method, b"/" + url.split(b"/", 3)[3], version))


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextmanager
def leading_to(target: str) -> Iterator[LoopbackProxy]:
    proxy = LoopbackProxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
