"""One thread that sends all the streams of a process.

A stream has a thread of its own until it begins and after it has ended. In between that would be woken for each token,
and threads that wake at the same time cost more than what they do: so they sleep, and this one does their work.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

log = logging.getLogger("dmr.server")

NOTHING = memoryview(b"")
TURN = 0.002  # seconds at least between two pieces of a stream: nobody reads 500 a second, and each costs a packet
LOOK_INTERVAL = 0.5  # seconds between two looks at all clients and silences


class Stream(Protocol):
    """What is to be sent. None of its methods waits."""

    has_ended: bool

    def fileno(self) -> int:
        """Readable when there is more to take."""

    def take(self) -> bytes:
        """What there is by now."""

    def look(self) -> bytes:
        """Called now and then: what a long silence asks for. Sets `has_ended` when nobody listens any more."""


class _Sending:
    """A stream on its way to one client. `unsent` is what the client's connection had no room for."""

    def __init__(self, stream: Stream, connection: socket.socket, is_chunked: bool) -> None:
        self.stream = stream
        self.connection = connection
        self.source = stream.fileno()  # kept: it is closed when the stream has ended
        self.is_chunked = is_chunked
        self.unsent = NOTHING
        self.stalled_since = 0.0
        self.sent_at = 0.0  # when its last piece went; the first is never held up
        self.is_over = threading.Event()


class Streamer:
    """Its thread starts with the first stream, so a process may fork before."""

    def __init__(self, write_timeout: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`write_timeout`: seconds after which a client that takes nothing is cut off."""
        self._write_timeout = write_timeout
        self._clock = clock
        self._lock = threading.Lock()
        self._selector: selectors.BaseSelector | None = None
        self._bell = (-1, -1)  # a pipe that wakes the thread
        self._held: deque[_Sending] = deque()  # until their turn comes; those that have sent first are nearly first
        self._new: deque[_Sending] = deque()
        self._sendings: set[_Sending] = set()
        self._looked = 0.0

    def send(self, stream: Stream, connection: socket.socket, is_chunked: bool) -> None:
        """Send a stream to its end, or until the client has left or takes nothing; its connection is cut then."""
        sending = _Sending(stream, connection, is_chunked)
        self._new.append(sending)
        self._start()
        os.write(self._bell[1], b"\0")
        sending.is_over.wait()

    def _start(self) -> None:
        with self._lock:
            if self._selector is None:
                self._bell = os.pipe()
                os.set_blocking(self._bell[0], False)
                self._selector = selectors.DefaultSelector()
                self._selector.register(self._bell[0], selectors.EVENT_READ)
                threading.Thread(target=self._run, args=(self._selector,), name="streams", daemon=True).start()

    def _run(self, selector: selectors.BaseSelector) -> None:
        while True:
            for key, _ in self._ready(selector):
                if key.data is not None:
                    self._guarded(selector, key.data, self._go_on)
                else:
                    self._take_in(selector)
            if self._clock() - self._looked >= LOOK_INTERVAL:
                self._looked = self._clock()
                for sending in list(self._sendings):
                    self._guarded(selector, sending, self._look)

    def _ready(self, selector: selectors.BaseSelector) -> list[tuple[selectors.SelectorKey, int]]:
        """What there is to do. A stream whose next piece comes right after its last is not listened to for a little."""
        now = self._clock()
        while self._held and self._held[0].sent_at + TURN <= now:
            sending = self._held.popleft()
            if sending in self._sendings:
                selector.register(sending.source, selectors.EVENT_READ, sending)
        rest = self._held[0].sent_at + TURN - now if self._held else LOOK_INTERVAL
        due: list[tuple[selectors.SelectorKey, int]] = []
        for entry in selector.select(min(rest, LOOK_INTERVAL)):
            sending = entry[0].data
            if sending is None or sending.unsent or sending.sent_at + TURN <= self._clock():
                due.append(entry)
            else:
                selector.unregister(sending.source)
                self._held.append(sending)
        return due

    def _take_in(self, selector: selectors.BaseSelector) -> None:
        with suppress(BlockingIOError):
            os.read(self._bell[0], 1 << 12)
        while self._new:
            sending = self._new.popleft()
            self._sendings.add(sending)
            # What has come already makes nothing readable any more.
            self._guarded(selector, sending, self._begin)

    def _guarded(
        self,
        selector: selectors.BaseSelector,
        sending: _Sending,
        act: Callable[[selectors.BaseSelector, _Sending], None],
    ) -> None:
        """A defect in one stream is no other's."""
        if sending not in self._sendings:  # it was ended a moment ago
            return
        try:
            act(selector, sending)
        except OSError:  # the client has left
            self._end(selector, sending, cut=True)
        except Exception:
            log.exception("a stream could not be sent")
            self._end(selector, sending, cut=True)

    def _begin(self, selector: selectors.BaseSelector, sending: _Sending) -> None:
        selector.register(sending.source, selectors.EVENT_READ, sending)
        self._put(selector, sending, sending.stream.take())

    def _go_on(self, selector: selectors.BaseSelector, sending: _Sending) -> None:
        if not sending.unsent:
            self._put(selector, sending, sending.stream.take())
            return
        if self._push(sending, sending.unsent):
            sending.stalled_since = self._clock()
        if sending.unsent:
            return
        if sending.stream.has_ended:
            self._end(selector, sending)
            return
        selector.unregister(sending.connection)
        selector.register(sending.source, selectors.EVENT_READ, sending)

    def _look(self, selector: selectors.BaseSelector, sending: _Sending) -> None:
        if sending in self._held:  # there is no silence
            return
        if sending.unsent:
            # It is tried: a connection is called writable only when a third of its buffer is empty.
            self._go_on(selector, sending)
            if sending.unsent and self._clock() - sending.stalled_since >= self._write_timeout:
                log.info("a client took nothing for %g seconds and was cut off", self._write_timeout)
                self._end(selector, sending, cut=True)
            return
        data = sending.stream.look()
        if sending.stream.has_ended:
            self._end(selector, sending, cut=True)
        else:
            self._put(selector, sending, data)

    def _put(self, selector: selectors.BaseSelector, sending: _Sending, data: bytes) -> None:
        """Send as much as goes; the rest waits, and the stream with it."""
        if data:
            self._push(sending, b"%X\r\n%b\r\n" % (len(data), data) if sending.is_chunked else data)
        if sending.unsent:
            sending.stalled_since = self._clock()
            selector.unregister(sending.source)
            selector.register(sending.connection, selectors.EVENT_WRITE, sending)
        elif sending.stream.has_ended:
            self._end(selector, sending)

    def _push(self, sending: _Sending, data: bytes | memoryview) -> bool:
        """Write what goes of it and keep the rest; whether any of it went."""
        try:
            num_sent = sending.connection.send(data, socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            num_sent = 0
        sending.unsent = memoryview(data)[num_sent:] if num_sent < len(data) else NOTHING
        sending.sent_at = self._clock()
        return num_sent > 0

    def _end(self, selector: selectors.BaseSelector, sending: _Sending, *, cut: bool = False) -> None:
        """`cut`: nothing more can be said to this client; whoever writes to it is told so and does not wait."""
        for registered in (sending.source, sending.connection):
            with suppress(KeyError, ValueError, OSError):
                selector.unregister(registered)
        self._sendings.discard(sending)
        if cut:
            with suppress(OSError):
                sending.connection.shutdown(socket.SHUT_RDWR)
        sending.is_over.set()


def can_be_sent(environ: dict[str, Any]) -> socket.socket | None:
    """The connection of a request, if bytes may be written to it beside the server; None = only the server can."""
    connection = environ.get("gunicorn.socket")
    plain = isinstance(connection, socket.socket) and not isinstance(connection, ssl.SSLSocket)
    return connection if plain and environ.get("SERVER_PROTOCOL") in ("HTTP/1.0", "HTTP/1.1") else None
