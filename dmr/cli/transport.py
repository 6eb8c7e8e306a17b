"""HTTP to one server. Every failure is a `DmrError` whose message is one line a user can act on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
import urllib3
from urllib3.response import BaseHTTPResponse

from dmr.cli.address import Address
from dmr.cli.tls import Tls
from dmr.cli.unix_socket import SCHEME, unix_pool
from dmr.errors import DmrError, Unavailable

T = TypeVar("T")

# Seconds of silence. Once it has accepted a request the server says something every 15 s; before, it may load a model.
_CONNECT_TIMEOUT = 5.0
_READ_TIMEOUT = 60.0
_SLOW_READ_TIMEOUT = 900.0
_MAX_ERROR_BYTES = 64 * 1024
_PIECE = 64 * 1024  # bytes


class ServerNotRunning(Unavailable):
    """Nothing accepts connections at the server's address."""

    code = "server_not_running"


class ServerError(DmrError):
    """The server refused, or its answer cannot be understood. `status` is 0 if there was no whole answer."""

    code = "server_error"

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class ConnectionLost(ServerError):
    """There was a connection, but no whole answer: the same request may succeed."""

    code = "connection_lost"


class Pieces:
    """The bytes of an answer in the order they come. `size` of them, None when the server does not tell."""

    def __init__(self, pieces: Iterable[bytes], size: int | None) -> None:
        self.size = size
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._pieces)


class Transport:
    """One server. Calls raise `ServerNotRunning` or `ServerError`."""

    def __init__(self, address: Address, tls: Tls | None = None) -> None:
        self.address = address
        self.headers = {"User-Agent": "dmr"}  # of every request
        parts = urlsplit(address.url)
        self._prefix = "" if parts.scheme == SCHEME else parts.path
        options = tls.pool_options(is_local=address.is_local) if tls and parts.scheme == "https" else {}
        if tls and tls.skip_verify:  # it was asked for
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        options |= {"retries": False, "blocksize": 1024 * 1024}
        if parts.scheme == SCHEME:
            self._pool = unix_pool(parts.path, **options)
        else:
            self._pool = urllib3.connection_from_url(address.url, **options)

    def close(self) -> None:
        """Close every connection."""
        self._pool.close()

    def get(self, path: str, kind: type[T]) -> T:
        return self.decode(self.call("GET", path), kind)

    @contextlib.contextmanager
    def stream(
        self, method: str, path: str, *, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Iterator[Pieces]:
        """An answer as it comes; leaving the block closes the connection."""
        response = self._open(method, path, body, headers or {}, _SLOW_READ_TIMEOUT)
        length = response.headers.get("Content-Length", "")
        try:
            yield Pieces(self._pieces(response), int(length) if length.isdigit() else None)
        finally:
            response.close()

    @contextlib.contextmanager
    def follow(self, path: str, headers: Mapping[str, str] | None = None) -> Iterator[Pieces]:
        """An answer that may be silent for as long as nothing happens."""
        response = self._open("GET", path, None, headers or {}, None)
        try:
            yield Pieces(self._pieces(response), None)
        finally:
            response.close()

    def _pieces(self, response: BaseHTTPResponse) -> Iterator[bytes]:
        with self.failures():
            if getattr(response, "chunked", False):
                yield from response.stream(_PIECE)
                return
            # stream(n) would wait for n bytes, and read1() does at the end for what nobody sends
            while getattr(response, "length_remaining", None) != 0 and (piece := response.read1(_PIECE)):
                yield piece

    def call(
        self, method: str, path: str, *, body: Any = None, headers: Mapping[str, str] | None = None, slow: bool = False
    ) -> bytes:
        """The whole answer. `body` is JSON as bytes, or a file-like object whose size is in `headers`."""
        response = self._open(method, path, body, headers or {}, _SLOW_READ_TIMEOUT if slow else _READ_TIMEOUT)
        try:
            with self.failures():
                return response.read()
        finally:
            response.close()

    def _open(
        self, method: str, path: str, body: Any, headers: Mapping[str, str], read_timeout: float | None
    ) -> BaseHTTPResponse:
        headers = {**self.headers, **headers}
        if isinstance(body, bytes):
            headers = {"Content-Type": "application/json", **headers}
        with self.failures():
            response = self._pool.request(
                method,
                self._prefix + path,
                body=body,
                headers=headers,
                timeout=urllib3.Timeout(connect=_CONNECT_TIMEOUT, read=read_timeout),
                preload_content=False,
                redirect=False,
            )
            if 200 <= response.status < 300:
                return response
            try:
                data = response.read(_MAX_ERROR_BYTES)
            finally:
                response.close()
        raise ServerError(_error_text(response.status, data), status=response.status)

    @contextlib.contextmanager
    def failures(self) -> Iterator[None]:
        """Errors of the HTTP client inside the block become ours."""
        try:
            yield
        except (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError):
            raise ServerNotRunning(self._absent()) from None
        except urllib3.exceptions.TimeoutError:
            raise ConnectionLost(f"The server at {self.address.url} has stopped answering.") from None
        except urllib3.exceptions.ProtocolError:
            raise ConnectionLost("The server closed the connection before the answer was complete.") from None
        except urllib3.exceptions.SSLError as error:
            raise ServerError(
                f"The certificate of {self.address.url} is not accepted: {error}. "
                "--tls-ca or MODEL_RUNNER_TLS_CA_CERT names the file of an authority to trust."
            ) from None
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            raise ServerError(f"The server at {self.address.url} cannot be understood: {error}") from None

    def _absent(self) -> str:
        advice = "Start it with `dmr serve`." if self.address.is_local else "Check MODEL_RUNNER_HOST."
        return f"No server answers at {self.address.url}. {advice}"

    def decode(self, data: bytes, kind: type[T]) -> T:
        """JSON of the server's; raises `ServerError` if it is something else."""
        try:
            return msgspec.json.decode(data, type=kind)
        except msgspec.DecodeError as error:
            raise ServerError(f"The answer of {self.address.url} is not a model runner's: {error}") from None


def _error_text(status: int, data: bytes) -> str:
    text = data.decode("utf-8", "replace").strip()
    if text[:1] == "{":
        with contextlib.suppress(ValueError):
            text = message_of(json.loads(text))
    if not text or text[:1] in "<{":
        return f"The server answered with status {status}."
    return text


def message_of(body: Any) -> str:
    """The message in any of the error shapes that servers use: {"error": {"message"}}, {"error": text}, {"message"}."""
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, dict):
        error = error.get("message", "")
    return error if isinstance(error, str) else ""
