"""One connection for all the answers that a process streams: what a step gives them is one message."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterable

from dmr.engine.patient_socket import PatientSocket
from dmr.errors import InternalError
from dmr.wire import EngineMessage, HeldMessages, WireError, pack

BUFFER = 256 << 10  # bytes that the kernel is asked to take: there may be hundreds of answers

logger = logging.getLogger("dmr.engine")


class Channel:
    """However slow the other process is, no more is held than its answers, and nobody waits."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        """On the event loop."""
        self._lock = threading.Lock()  # of all that follows
        self._socket = PatientSocket(writer, self._lock, self._on_sent, BUFFER)
        self._is_closed = False
        self._new: list[tuple[int, EngineMessage]] = []  # since the last `flush`
        self._held: dict[int, HeldMessages] = {}  # while there is no room

    def greet(self) -> None:
        """Tell the other side that it may be used."""
        with self._lock:
            self._socket.send(pack([]))

    def put(self, number: int, messages: list[EngineMessage]) -> None:
        """What one step gave the request of that number. Any thread; never waits."""
        with self._lock:
            if not self._is_closed:
                self._new += [(number, message) for message in messages]

    def flush(self) -> None:
        """Send what has come, or keep it until there is room. Any thread; never waits."""
        if not self._new:
            return
        with self._lock:
            new, self._new = self._new, []
            if self._is_closed:
                return
            if not self._socket.unsent:
                self._socket.send(_packed(new))
                return
            for number, message in new:
                self._held.setdefault(number, HeldMessages()).add(message)

    def close(self) -> None:
        """Nobody wants what is left. On the event loop."""
        with self._lock:
            self._is_closed = True
            self._held.clear()
            self._socket.close()

    def _on_sent(self) -> None:
        held, self._held = self._held, {}
        if held:
            self._socket.send(
                _each_packed((number, message) for number, messages in held.items() for message in messages.take())
            )


def _packed(messages: list[tuple[int, EngineMessage]]) -> bytes:
    try:
        return pack(messages)
    except Exception:
        return _each_packed(messages)  # one that cannot be told is no other's failure


def _each_packed(messages: Iterable[tuple[int, EngineMessage]]) -> bytes:
    frames = []
    for number, message in messages:
        try:
            frames.append(pack([(number, message)]))
        except Exception:
            logger.exception("what a step gave could not be told")
            frames.append(pack([(number, WireError.of(InternalError("The engine failed.")))]))
    return b"".join(frames)
