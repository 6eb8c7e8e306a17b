"""One request to an engine beyond this machine: sent, and its answer read as it comes."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from dmr.config import UpstreamEngine
from dmr.errors import DeadlineExceeded, DmrError, UpstreamFailed

PIECE = 1 << 16  # bytes, at most, that are passed on together

_FAILURES = (OSError, http.client.HTTPException, ValueError)  # ValueError: a TLS socket that was shut meanwhile


class UpstreamCall:
    """A connection of its own for each: closing it is the abort, and nothing of an earlier answer can be left in it.

    Redirects are not followed: no answer decides where requests go. Raises (from any method): UpstreamFailed,
    DeadlineExceeded.
    """

    status = 0
    headers: Mapping[str, str] = {}  # by small names, as far as the answer has come
    was_connected = False

    def __init__(
        self, engine: UpstreamEngine, key: str = "", trusts: Callable[[], ssl.SSLContext] = ssl.create_default_context
    ) -> None:
        """`trusts`: whose certificates are believed, asked for where the address is https."""
        self._engine = engine
        self._key = key
        self._lock = threading.Lock()  # of the socket's life
        self._socket: socket.socket | None = None
        self._is_aborted = False
        self._response: http.client.HTTPResponse | None = None
        self._num_left: int | None = None  # bytes of the answer that are still to come; None = nobody has said
        parts = urlsplit(engine.root)
        self._prefix = parts.path
        self._connection = _connection(parts.scheme, str(parts.hostname), parts.port, engine.connect_timeout, trusts)

    def send(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None) -> None:
        """Send it and wait for the head of the answer. `path`: below the engine's root, with its query."""
        sent = {**headers, "Accept-Encoding": "identity", "Connection": "close"}
        if self._key:
            sent["Authorization"] = f"Bearer {self._key}"
        self._connect()
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                # It may have answered, with a refusal, before it has read everything.
                self._connection.request(method, self._prefix + path, body, sent)
            self._response = self._connection.getresponse()
        except _FAILURES as error:
            self.close()
            raise self._failure(error, "did not answer") from error
        self.status = self._response.status
        self._num_left = self._response.length
        self.headers = {name.lower(): value for name, value in self._response.getheaders()}

    def read(self) -> bytes:
        """What has come, as soon as there is any; b"" at the end."""
        assert self._response is not None, "nothing was sent"
        if self._num_left == 0:
            return b""
        try:
            piece = self._response.read1(min(PIECE, self._num_left or PIECE))
            if self._num_left is not None:  # http.client takes an end that comes too early for the end
                if not piece:
                    raise http.client.IncompleteRead(b"", self._num_left)
                self._num_left -= len(piece)
        except _FAILURES as error:
            raise self._failure(error, "ended its answer early") from error
        return piece

    def read_all(self, limit: int) -> bytes:
        """All of it; UpstreamFailed if it is more than `limit` bytes."""
        data = bytearray()
        while piece := self.read():
            data += piece
            if len(data) > limit:
                raise UpstreamFailed(f"The engine '{self._engine.name}' answered more than {limit} bytes.")
        return bytes(data)

    def abort(self) -> None:
        """From any thread: whoever sends or reads gets an error at once."""
        with self._lock:
            self._is_aborted = True
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    # Not the TLS socket's own: that takes away from a reader what it reads with.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        with self._lock:
            self._socket = None
            if self._response is not None:
                self._response.close()
            self._connection.close()

    def _connect(self) -> None:
        try:
            self._connection.connect()
        except _FAILURES as error:
            self._connection.close()
            raise self._failure(error, "cannot be reached") from error
        connected: socket.socket = self._connection.sock
        connected.settimeout(self._engine.timeout)
        self.was_connected = True
        with self._lock:
            self._socket = connected
            if not self._is_aborted:
                return
        self.close()
        raise UpstreamFailed(f"The request to the engine '{self._engine.name}' was given up.")

    def _failure(self, error: Exception, what: str) -> DmrError:
        name = self._engine.name
        if isinstance(error, TimeoutError):
            seconds = self._engine.connect_timeout if what == "cannot be reached" else self._engine.timeout
            return DeadlineExceeded(f"The engine '{name}' {what}: nothing came for {seconds:g} seconds.")
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
        return UpstreamFailed(f"The engine '{name}' {what}: {reason}.")


def _connection(
    scheme: str, host: str, port: int | None, timeout: float, trusts: Callable[[], ssl.SSLContext]
) -> http.client.HTTPConnection:
    if scheme == "https":
        return http.client.HTTPSConnection(host, port, timeout=timeout, context=trusts())
    return http.client.HTTPConnection(host, port, timeout=timeout)
