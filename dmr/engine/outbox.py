"""A request's messages on their way to a client that may be slow."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Union

import msgspec

from dmr.types import TokenLogprob
from dmr.wire import EngineCompleted, EngineMessage, EngineOutput, WireError, pack

KERNEL_BUFFER = 32 << 10  # bytes of one connection that the kernel is asked to take
HELD_FROM = 16 << 10  # bytes that may wait beside the kernel's; from there on outputs are joined


class _Growing:
    """Outputs of one choice that become one."""

    def __init__(self, first: EngineOutput) -> None:
        self._last = first
        self._texts = [first.text]
        self._logprobs: list[TokenLogprob] = list(first.logprobs)
        self._num_tokens = first.num_tokens

    def add(self, output: EngineOutput) -> None:
        self._last = output
        self._texts.append(output.text)
        self._logprobs += output.logprobs
        self._num_tokens += output.num_tokens

    def joined(self) -> EngineOutput:
        return msgspec.structs.replace(
            self._last, text="".join(self._texts), logprobs=tuple(self._logprobs), num_tokens=self._num_tokens
        )


class HeldMessages:
    """Messages that cannot be sent yet: what is said of one choice is one message, whatever number of tokens it has."""

    def __init__(self) -> None:
        self._messages: list[Union[EngineMessage, _Growing]] = []
        self._growing: dict[int, _Growing] = {}  # of them, those that more may come to, by index of the choice

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, message: EngineMessage) -> None:
        if not isinstance(message, EngineOutput):
            self._messages.append(message)
            return
        growing = self._growing.get(message.index)
        if growing is None:
            growing = self._growing[message.index] = _Growing(message)
            self._messages.append(growing)
        else:
            growing.add(message)

    def take(self) -> list[EngineMessage]:
        """All of them, in order; none is left."""
        taken = [each.joined() if isinstance(each, _Growing) else each for each in self._messages]
        self._messages, self._growing = [], {}
        return taken


class Outbox:
    """Belongs to the event loop. However slow its client is, it holds no more than the client's own answer."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._transport = writer.transport
        self._transport.set_write_buffer_limits(high=HELD_FROM)
        connection: socket.socket = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER)
        self._held = HeldMessages()
        self._flushing: asyncio.Task[None] | None = None
        self._has_ended = False
        self.is_sent = asyncio.Event()  # the last message is on its way

    def put(self, messages: list[EngineMessage]) -> None:
        """Send what one step gave, or keep it until the client has taken what came before."""
        self._has_ended = self._has_ended or isinstance(messages[-1], (EngineCompleted, WireError))
        if self._flushing is None and self._transport.get_write_buffer_size() <= HELD_FROM:
            self._send(messages)
            return
        for message in messages:
            self._held.add(message)
        if self._flushing is None:
            self._flushing = asyncio.ensure_future(self._flush())

    def close(self) -> None:
        """Nobody wants what is left."""
        if self._flushing is not None:
            self._flushing.cancel()

    def _send(self, messages: list[EngineMessage]) -> None:
        self._transport.write(pack(messages[0]) if len(messages) == 1 else b"".join(map(pack, messages)))
        if self._has_ended and not self._held:
            self.is_sent.set()

    async def _flush(self) -> None:
        with contextlib.suppress(ConnectionError):  # it has left, which is noticed elsewhere
            while self._held:
                await self._writer.drain()
                self._send(self._held.take())
        self._flushing = None
