"""A server that answers every connection with given pieces of bytes, whatever is asked; it notes what was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


class Peer:
    """`pieces`: bytes to send, and seconds to wait. The connection is closed behind the last one."""

    def __init__(self, pieces: Sequence[bytes | float]) -> None:
        self.url = ""
        self.head = ""
        self.body: dict[str, Any] = {}
        self.saw_the_client_leave = False
        self._pieces = pieces

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.head = (await reader.readuntil(b"\r\n\r\n")).decode()
        fields = dict(line.split(": ", 1) for line in self.head.split("\r\n")[1:] if line)
        self.body = json.loads(await reader.readexactly(int(fields["Content-Length"])))
        for piece in self._pieces:
            if isinstance(piece, bytes):
                writer.write(piece)
                await asyncio.sleep(0.005)
            elif await _left(reader, piece):
                self.saw_the_client_leave = True
                break
        writer.close()


async def _left(reader: asyncio.StreamReader, seconds: float) -> bool:
    try:
        return await asyncio.wait_for(reader.read(1), seconds) == b""
    except asyncio.TimeoutError:
        return False
    except ConnectionError:
        return True


def against(peer: Peer, use: Callable[[], Awaitable[T]]) -> T:
    """Run `use` while the peer listens at `peer.url`."""

    async def run() -> T:
        server = await asyncio.start_server(peer.answer, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        peer.url = f"http://{host}:{port}"
        try:
            result = await use()
            await asyncio.sleep(0.02)  # what the client did reaches the peer
            return result
        finally:
            server.close()
            await server.wait_closed()

    return asyncio.run(run())


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(value: dict[str, Any]) -> bytes:
    return chunk(b"data: " + json.dumps(value).encode() + b"\n\n")


def text(words: str) -> bytes:
    return event({"choices": [{"index": 0, "text": words, "finish_reason": None}], "usage": None})


USAGE = event(
    {
        "choices": [],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 5}},
    }
)
DONE = chunk(b"data: [DONE]\n\n")
