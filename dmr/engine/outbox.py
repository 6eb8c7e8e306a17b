"""A request's messages on their way to a client that may be slow."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from typing import Union

import msgspec

from dmr.types import TokenLogprob
from dmr.wire import EngineCompleted, EngineMessage, EngineOutput, WireError, pack

KERNEL_BUFFER = 32 << 10  # bytes of one connection that the kernel is asked to take; from there on outputs are joined
NOTHING = memoryview(b"")


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
    """The messages of one request, sent by the thread that makes them: to wake another costs more than to send.

    However slow the client is, that thread never waits, and no more is held than the client's own answer. What could
    not be sent at once is sent from the event loop.
    """

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        """On the event loop. Nothing is sent before `open`."""
        self._loop = asyncio.get_running_loop()
        # A descriptor of our own: the transport may close its at any time, and another connection could get its number.
        self._socket = socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno()))
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER)
        self._lock = threading.Lock()  # of all that follows
        self._is_open = False
        self._is_closed = False
        self._unsent = NOTHING
        self._held = HeldMessages()
        self._has_ended = False
        self.is_sent = asyncio.Event()  # the last message is on its way; set on the event loop

    def open(self, first: EngineMessage) -> None:
        """Send the first message, and what has come since. On the event loop."""
        with self._lock:
            self._is_open = True
            self._send([first, *self._held.take()])

    def put(self, messages: list[EngineMessage]) -> None:
        """Send what one step gave, or keep it until the client has taken what came before. Any thread; never waits."""
        with self._lock:
            if self._is_closed:
                return
            self._has_ended = self._has_ended or isinstance(messages[-1], (EngineCompleted, WireError))
            if self._is_open and not self._unsent:
                self._send(messages)
            else:
                for message in messages:
                    self._held.add(message)

    def close(self) -> None:
        """Nobody wants what is left. On the event loop."""
        with self._lock:
            self._is_closed = True
            self._loop.remove_writer(self._socket)
            self._socket.close()

    @property
    def num_held_bytes(self) -> int:
        """Of what is packed and not sent."""
        return len(self._unsent)

    @property
    def num_held_messages(self) -> int:
        return len(self._held)

    def _send(self, messages: list[EngineMessage]) -> None:
        """With the lock, and nothing unsent."""
        self._push(pack(messages[0]) if len(messages) == 1 else b"".join(map(pack, messages)))
        if not (self._unsent or self._has_ended):
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process is about to end
            if self._unsent:
                self._loop.call_soon_threadsafe(self._wait_for_room)
            else:
                self._loop.call_soon_threadsafe(self.is_sent.set)

    def _push(self, data: bytes | memoryview) -> None:
        """Send what goes of it, and keep the rest."""
        try:
            num_sent = self._socket.send(data)
        except BlockingIOError:
            num_sent = 0
        except OSError:  # the client has left, which is noticed elsewhere
            num_sent = len(data)
        self._unsent = memoryview(data)[num_sent:] if num_sent < len(data) else NOTHING

    def _wait_for_room(self) -> None:
        with self._lock:
            if not self._is_closed:
                self._loop.add_writer(self._socket, self._go_on)

    def _go_on(self) -> None:
        """There is room again."""
        with self._lock:
            self._push(self._unsent)
            if self._unsent:
                return
            self._loop.remove_writer(self._socket)
            if self._held:
                self._send(self._held.take())
            elif self._has_ended:
                self.is_sent.set()
