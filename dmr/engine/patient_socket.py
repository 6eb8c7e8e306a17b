"""A connection to somebody who may be slow, on which messages are sent by the thread that makes them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Callable

KERNEL_BUFFER = 32 << 10  # bytes of one connection that the kernel is asked to take
NOTHING = memoryview(b"")


class PatientSocket:
    """To wake another thread costs more than to send, so whoever has something sends it, and never waits.

    What could not be sent at once is sent from the event loop. All of it is called with the owner's lock.
    """

    def __init__(
        self, writer: asyncio.StreamWriter, lock: threading.Lock, on_sent: Callable[[], None], buffer: int = 0
    ) -> None:
        """On the event loop. `on_sent` is called there, with the lock, when what had to wait has been sent.

        `buffer`: bytes that the kernel is asked to take; 0 = `KERNEL_BUFFER`.
        """
        self._loop = asyncio.get_running_loop()
        # A descriptor of our own: the transport may close its at any time, and another connection could get its number.
        self._socket = socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno()))
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer or KERNEL_BUFFER)
        self._lock = lock
        self._on_sent = on_sent
        self._is_closed = False
        self.unsent = NOTHING

    def send(self, data: bytes) -> None:
        """Only while nothing is unsent."""
        self._push(data)
        if self.unsent:
            self.call_soon(self._wait_for_room)

    def call_soon(self, function: Callable[[], None]) -> None:
        """On the event loop. Any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process is about to end
            self._loop.call_soon_threadsafe(function)

    def close(self) -> None:
        """On the event loop. Nobody wants what is left."""
        self._is_closed = True
        self._loop.remove_writer(self._socket)
        self._socket.close()

    def _push(self, data: bytes | memoryview) -> None:
        """Send what goes of it, and keep the rest."""
        try:
            num_sent = self._socket.send(data)
        except BlockingIOError:
            num_sent = 0
        except OSError:  # the other side has left, which is noticed elsewhere
            num_sent = len(data)
            with contextlib.suppress(OSError):  # if it has not, it must not wait for what is lost
                self._socket.shutdown(socket.SHUT_RDWR)
        self.unsent = memoryview(data)[num_sent:] if num_sent < len(data) else NOTHING

    def _wait_for_room(self) -> None:
        with self._lock:
            if not self._is_closed:
                self._loop.add_writer(self._socket, self._go_on)

    def _go_on(self) -> None:
        """There is room again."""
        with self._lock:
            if self._is_closed:
                return
            self._push(self.unsent)
            if not self.unsent:
                self._loop.remove_writer(self._socket)
                self._on_sent()
