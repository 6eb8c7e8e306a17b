"""The time to the first token of one request, as its client sees it."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

from dmr.bench.load import LoadClient


class KeptConnection:
    """A client that does as little as one can, so that it is hardly in the figures."""

    def __init__(self, url: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        self._host = host
        self._socket = socket.create_connection((host, int(port)), timeout=30.0)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def first_token(self, path: str, body: dict[str, Any]) -> float:
        """Seconds until the first frame that has one has come."""
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Length: {len(data)}\r\n\r\n"
        began = time.perf_counter()
        self._socket.sendall(head.encode() + data)
        answer, ttft = b"", 0.0
        while not answer.endswith(b"\r\n0\r\n\r\n"):
            piece = self._socket.recv(1 << 16)
            now = time.perf_counter()
            answer += piece
            if not piece or not answer.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(answer.decode() or "the connection was closed")
            if not ttft and any(map(is_text, answer.splitlines())):
                ttft = now - began
        if not ttft:
            raise RuntimeError(answer.decode())
        return ttft


def is_text(line: bytes) -> bool:
    """Whether a line of a stream has a part of the answer; a chat's first frame only names the role."""
    if not line.startswith(b"data: {"):
        return False
    (choice,) = json.loads(line.removeprefix(b"data: "))["choices"] or [{}]
    return bool(choice.get("text") or choice.get("delta", {}).get("content"))


async def first_token(url: str, path: str, body: dict[str, Any]) -> float:
    outcome = await LoadClient(url).complete(body, path=path)
    if outcome.error is not None or outcome.ttft is None:
        raise RuntimeError(outcome.error or "no text came")
    return outcome.ttft
