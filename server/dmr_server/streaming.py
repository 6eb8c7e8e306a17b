"""One thread that sends all the streams of a process.

A stream has a thread of its own until it begins and after it has ended. In between that would be woken for each token,
and threads that wake at the same time cost more than what they do: so they sleep, and this one does their work.

What an engine says to a stream comes on a connection of the stream's own at first. When it turns out to be a long one
and there are others, it is moved to the channel that all streams of that engine share: then what a step of the engine
gave is taken at once.
"""

from __future__ import annotations

import logging
import math
import os
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, cast

from dmr.service.answer import Channel, Channels

log = logging.getLogger("dmr.server")

NOTHING = memoryview(b"")
TURN = 0.002  # seconds at least between two pieces of a stream: nobody reads 500 a second, and each costs a packet
MOVE_AFTER = 16  # pieces of a stream: to move one takes as long as to take some ten of them
LOOK_INTERVAL = 0.5  # seconds between two looks at all clients and silences
READABLE, WRITABLE = select.POLLIN, select.POLLOUT  # epoll has the same numbers


class Stream(Protocol):
    """What is to be sent. None of its methods waits."""

    has_ended: bool

    @property
    def has_moved(self) -> bool:
        """There is more to take when the channel says so, and no longer when `fileno` is readable."""

    def fileno(self) -> int:
        """Readable when there is more to take."""

    def move(self, channels: Channels, owner: object) -> Channel | None:
        """Ask for the rest on a channel, which is called ready with `owner`; None: there is none just now."""

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
        self.sink = connection.fileno()
        self.is_chunked = is_chunked
        self.unsent = NOTHING
        self.stalled_since = 0.0
        self.sent_at = 0.0  # when its last piece went; the first is never held up
        self.is_held = False  # until its turn comes
        self.num_pieces = 0
        self.channel: Channel | None = None  # that it has asked to be moved to
        self.has_moved = False
        self.is_over = threading.Event()


class Streamer:
    """Its thread starts with the first stream, so a process may fork before."""

    def __init__(self, write_timeout: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`write_timeout`: seconds after which a client that takes nothing is cut off."""
        self._write_timeout = write_timeout
        self._clock = clock
        self._lock = threading.Lock()
        self._poller: _Poller | None = None
        self._bell = (-1, -1)  # a pipe that wakes the thread
        self._new: deque[_Sending] = deque()
        # What follows belongs to the thread.
        self._held: deque[_Sending] = deque()  # until their turn comes; those that have sent first are nearly first
        self._sendings: set[_Sending] = set()
        # Files are numbered anew as soon as they are closed, so only those stand here that are looked at just now.
        self._listening: dict[int, _Sending] = {}  # for more, by the source
        self._waiting: dict[int, _Sending] = {}  # for room, by the connection
        self._channels = Channels()
        self._open_channels: dict[int, Channel] = {}
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
            if self._poller is None:
                self._bell = os.pipe()
                os.set_blocking(self._bell[0], False)
                self._poller = _Poller()
                self._poller.register(self._bell[0], READABLE)
                threading.Thread(target=self._run, args=(self._poller,), name="streams", daemon=True).start()

    def _run(self, poller: _Poller) -> None:
        while True:
            ready = poller.wait(self._let_in(poller, self._clock()))
            now = self._clock()
            for file, _ in ready:
                sending = self._listening.get(file)
                if sending is not None:
                    self._take_turn(poller, sending, now)
                elif file in self._open_channels:
                    self._receive(poller, self._open_channels[file], now)
                else:
                    self._serve_other(poller, file)
            if now - self._looked >= LOOK_INTERVAL:
                self._looked = now
                for sending in list(self._sendings):
                    self._guarded(poller, sending, self._look)

    def _take_turn(self, poller: _Poller, sending: _Sending, now: float) -> None:
        """Something has come for it."""
        if sending.sent_at + TURN <= now:
            self._guarded(poller, sending, self._send_more)
        else:
            self._stop_listening(poller, sending)
            sending.is_held = True
            self._held.append(sending)

    def _receive(self, poller: _Poller, channel: Channel, now: float) -> None:
        for owner in channel.receive():
            sending = cast(_Sending, owner)
            # Of all others it stays where it is until they take it.
            if sending.has_moved and not sending.unsent and not sending.is_held:
                self._take_turn(poller, sending, now)
        if channel.is_broken:
            del self._open_channels[channel.fileno()]
            poller.unregister(channel.fileno())
            self._channels.forget(channel)
            channel.close()

    def _let_in(self, poller: _Poller, now: float) -> float:
        """A stream whose next piece comes right after its last is not listened to for a little; seconds till a turn."""
        while self._held:
            sending = self._held[0]
            rest = sending.sent_at + TURN - now
            if rest > 0:
                return min(rest, LOOK_INTERVAL)
            self._held.popleft()
            sending.is_held = False
            self._guarded(poller, sending, self._listen)
        return LOOK_INTERVAL

    def _serve_other(self, poller: _Poller, file: int) -> None:
        if file == self._bell[0]:
            self._take_in(poller)
        elif file in self._waiting:
            self._guarded(poller, self._waiting[file], self._push_rest)

    def _take_in(self, poller: _Poller) -> None:
        with suppress(BlockingIOError):
            os.read(self._bell[0], 1 << 12)
        while self._new:
            sending = self._new.popleft()
            self._sendings.add(sending)
            # What has come already makes nothing readable any more.
            self._guarded(poller, sending, self._begin)

    def _listen(self, poller: _Poller, sending: _Sending) -> None:
        if sending.has_moved:
            self._send_more(poller, sending)  # the channel does not tell again what it has told
            return
        poller.register(sending.source, READABLE)
        self._listening[sending.source] = sending

    def _stop_listening(self, poller: _Poller, sending: _Sending) -> None:
        """Harmless when it is not listened to: its source may be closed then, and its number another's."""
        if self._listening.get(sending.source) is sending:
            del self._listening[sending.source]
            poller.unregister(sending.source)

    def _wait_for_room(self, poller: _Poller, sending: _Sending) -> None:
        poller.register(sending.sink, WRITABLE)
        self._waiting[sending.sink] = sending

    def _stop_waiting(self, poller: _Poller, sending: _Sending) -> None:
        """Harmless when there is room."""
        if self._waiting.get(sending.sink) is sending:
            del self._waiting[sending.sink]
            poller.unregister(sending.sink)

    def _guarded(self, poller: _Poller, sending: _Sending, act: Callable[[_Poller, _Sending], None]) -> None:
        """A defect in one stream is no other's."""
        if sending not in self._sendings:  # it was ended a moment ago
            return
        try:
            act(poller, sending)
        except OSError:  # the client has left
            self._end(poller, sending, cut=True)
        except Exception:
            log.exception("a stream could not be sent")
            self._end(poller, sending, cut=True)

    def _begin(self, poller: _Poller, sending: _Sending) -> None:
        self._listen(poller, sending)
        self._send_more(poller, sending)

    def _send_more(self, poller: _Poller, sending: _Sending) -> None:
        self._put(poller, sending, sending.stream.take())
        sending.num_pieces += 1
        if sending.channel is None:
            if sending.num_pieces % MOVE_AFTER == 0 and len(self._sendings) > 1 and not sending.stream.has_ended:
                self._move(poller, sending)
        elif not sending.has_moved and sending.stream.has_moved:
            sending.has_moved = True
            self._stop_listening(poller, sending)

    def _move(self, poller: _Poller, sending: _Sending) -> None:
        channel = sending.stream.move(self._channels, sending)
        if channel is None:
            return
        if channel.fileno() not in self._open_channels:
            self._open_channels[channel.fileno()] = channel
            poller.register(channel.fileno(), READABLE)
        if channel.is_ready:
            sending.channel = channel

    def _push_rest(self, poller: _Poller, sending: _Sending) -> None:
        """There may be room again."""
        if self._push(sending, sending.unsent):
            sending.stalled_since = self._clock()
        if sending.unsent:
            return
        self._stop_waiting(poller, sending)
        if sending.stream.has_ended:
            self._end(poller, sending)
        else:
            self._listen(poller, sending)

    def _look(self, poller: _Poller, sending: _Sending) -> None:
        if sending.is_held:  # there is no silence
            return
        if sending.unsent:
            # It is tried: a connection is called writable only when a third of its buffer is empty.
            self._push_rest(poller, sending)
            if sending.unsent and self._clock() - sending.stalled_since >= self._write_timeout:
                log.info("a client took nothing for %g seconds and was cut off", self._write_timeout)
                self._end(poller, sending, cut=True)
            return
        data = sending.stream.look()
        if sending.stream.has_ended:
            self._end(poller, sending, cut=True)
        else:
            self._put(poller, sending, data)

    def _put(self, poller: _Poller, sending: _Sending, data: bytes) -> None:
        """Send as much as goes; the rest waits, and the stream with it."""
        if data:
            self._push(sending, b"%X\r\n%b\r\n" % (len(data), data) if sending.is_chunked else data)
        if sending.unsent:
            sending.stalled_since = self._clock()
            self._stop_listening(poller, sending)
            self._wait_for_room(poller, sending)
        elif sending.stream.has_ended:
            self._end(poller, sending)

    def _push(self, sending: _Sending, data: bytes | memoryview) -> bool:
        """Write what goes of it and keep the rest; whether any of it went."""
        try:
            num_sent = sending.connection.send(data, socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            num_sent = 0
        sending.unsent = memoryview(data)[num_sent:] if num_sent < len(data) else NOTHING
        sending.sent_at = self._clock()
        return num_sent > 0

    def _end(self, poller: _Poller, sending: _Sending, *, cut: bool = False) -> None:
        """`cut`: nothing more can be said to this client; whoever writes to it is told so and does not wait."""
        self._stop_listening(poller, sending)
        self._stop_waiting(poller, sending)
        self._sendings.discard(sending)
        if sending.channel is not None:
            sending.channel.leave(sending)
        if cut:
            with suppress(OSError):
                sending.connection.shutdown(socket.SHUT_RDWR)
        sending.is_over.set()


class _Poller:
    """epoll where there is one, else poll: `selectors` would take longer for each token than the kernel does."""

    def __init__(self) -> None:
        self._is_fast = hasattr(select, "epoll")
        self._files: Any = select.epoll() if self._is_fast else select.poll()

    def register(self, file: int, events: int) -> None:
        self._files.register(file, events)

    def unregister(self, file: int) -> None:
        """Harmless when it is not registered, or closed."""
        with suppress(KeyError, ValueError, OSError):
            self._files.unregister(file)

    def wait(self, timeout: float) -> list[tuple[int, int]]:
        """`timeout`: seconds. Files and what they are ready for."""
        found: list[tuple[int, int]] = self._files.poll(timeout if self._is_fast else math.ceil(1000 * timeout))
        return found


def can_be_sent(environ: dict[str, Any]) -> socket.socket | None:
    """The connection of a request, if bytes may be written to it beside the server; None = only the server can."""
    connection = environ.get("gunicorn.socket")
    plain = isinstance(connection, socket.socket) and not isinstance(connection, ssl.SSLSocket)
    return connection if plain and environ.get("SERVER_PROTOCOL") in ("HTTP/1.0", "HTTP/1.1") else None
