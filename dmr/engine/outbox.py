"""A request's messages on their way to a client that may be slow."""

from __future__ import annotations

import asyncio
import threading

from dmr.engine.channel import Channel
from dmr.engine.patient_socket import PatientSocket
from dmr.wire import EngineMessage, EngineMoved, HeldMessages, is_last, pack

BUNDLE = 64  # messages that are sent together to who makes nothing of an answer before its end


class Outbox:
    """However slow the client is, no more is held than its own answer, and nobody waits."""

    def __init__(self, writer: asyncio.StreamWriter, *, is_whole: bool = False) -> None:
        """On the event loop. Nothing is sent before `open`.

        `is_whole`: nobody waits for a single message, so each does not wake the client.
        """
        self._bundle: list[EngineMessage] | None = [] if is_whole else None  # what is not sent yet
        self._lock = threading.Lock()  # of all that follows
        self._socket = PatientSocket(writer, self._lock, self._on_sent)
        self._is_open = False
        self._is_closed = False
        self._held = HeldMessages()
        self._has_ended = False
        self._moves_to: tuple[Channel, int] | None = None
        self._has_moved = False
        self.is_sent = asyncio.Event()  # there is nothing more to do for it; set on the event loop

    def open(self, first: EngineMessage) -> None:
        """Send the first message, and what has come since. On the event loop."""
        with self._lock:
            self._is_open = True
            self._send([first, *self._held.take()])

    def put(self, messages: list[EngineMessage]) -> None:
        """Send what one step gave, or keep it until the client has taken what came before. Any thread; never waits.

        What has moved goes with the channel's next `flush`.
        """
        with self._lock:
            if self._is_closed:
                return
            self._has_ended = self._has_ended or is_last(messages[-1])
            if self._bundle is not None:
                self._bundle += messages
                if len(self._bundle) < BUNDLE and not self._has_ended:
                    return
                messages, self._bundle = self._bundle, []
            if self._has_moved:
                self._pass_on(messages)
            elif self._is_open and not self._socket.unsent:
                self._send(messages)
            else:
                for message in messages:
                    self._held.add(message)

    def move(self, channel: Channel, number: int) -> None:
        """Say the rest there, under that number. EngineMoved is the last message here. On the event loop."""
        with self._lock:
            if self._is_closed or self._has_ended or self._moves_to is not None:
                return
            self._moves_to = channel, number
            if not self._socket.unsent:
                self._move()

    def close(self) -> None:
        """Nobody wants what is left. On the event loop."""
        with self._lock:
            self._is_closed = True
            self._socket.close()

    @property
    def num_held_bytes(self) -> int:
        """Of what is packed and not sent."""
        return len(self._socket.unsent)

    @property
    def num_held_messages(self) -> int:
        return len(self._held)

    def _send(self, messages: list[EngineMessage]) -> None:
        """With nothing unsent."""
        self._socket.send(pack(messages[0]) if len(messages) == 1 else b"".join(map(pack, messages)))
        if self._has_ended and not self._socket.unsent:
            self._socket.call_soon(self.is_sent.set)

    def _move(self) -> None:
        """With nothing unsent or held."""
        self._has_moved = True
        self._socket.send(pack(EngineMoved()))

    def _pass_on(self, messages: list[EngineMessage]) -> None:
        assert self._moves_to is not None
        channel, number = self._moves_to
        channel.put(number, messages)
        if self._has_ended and not self._socket.unsent:  # else the other side does not know yet that it has moved
            self._socket.call_soon(self.is_sent.set)

    def _on_sent(self) -> None:
        if len(self._held):
            self._send(self._held.take())
        if self._socket.unsent:
            return
        if self._has_ended:
            self.is_sent.set()
        elif self._moves_to is not None and not self._has_moved:
            self._move()
