"""A client of the server's HTTP API. Every failure is a `DmrError` whose message is one line a user can act on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import msgspec
import urllib3
from urllib3.response import BaseHTTPResponse

from dmr.cli.address import Address
from dmr.cli.replies import Chunk, DiskUsage, Model, Runner, TokenList, Unloaded
from dmr.cli.sse import read_events
from dmr.cli.upload import Upload
from dmr.errors import DmrError, InvalidReference, ModelNotFound, Unavailable

T = TypeVar("T")

CHAT_PATH = "/engines/v1/chat/completions"
COMPLETIONS_PATH = "/engines/v1/completions"
TOKENIZE_PATH = "/engines/v1/tokenize"
# Seconds of silence. Once it has accepted a request the server says something every 15 s; before, it may load a model.
_CONNECT_TIMEOUT = 5.0
_READ_TIMEOUT = 60.0
_SLOW_READ_TIMEOUT = 900.0
_MAX_ERROR_BYTES = 64 * 1024


class ServerNotRunning(Unavailable):
    """Nothing accepts connections at the server's address."""

    code = "server_not_running"


class ServerError(DmrError):
    """The server refused, or its answer cannot be understood. `status` is 0 if there was no whole answer."""

    code = "server_error"

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class ServerApi:
    """One server. Calls raise `ServerNotRunning` or `ServerError`."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._prefix = urlsplit(address.url).path
        self._pool = urllib3.connection_from_url(address.url, retries=False, blocksize=1024 * 1024)

    def close(self) -> None:
        """Close every connection."""
        self._pool.close()

    def get(self, path: str, kind: type[T]) -> T:
        return self._decode(self._call("GET", path), kind)

    def is_running(self) -> bool:
        """Whether anything accepts connections there; raises `ServerError` if it is something else than this server."""
        try:
            self.get("/health", dict[str, Any])
        except ServerNotRunning:
            return False
        return True

    def backends(self) -> dict[str, str]:
        """Each engine's status; none if the server is too old to tell."""
        self.get("/health", dict[str, Any])
        try:
            return self.get("/engines/status", dict[str, str])
        except ServerError as error:
            if error.status != 404:
                raise
            return {}

    def list_models(self, kind: type[T]) -> list[T]:
        return self.get("/models", list[kind])  # type: ignore[valid-type]

    def get_model(self, name: str, kind: type[T]) -> T:
        """One model; raises `ModelNotFound`."""
        with _missing_model(name):
            return self.get(_model_path(name), kind)

    def remove_model(self, name: str, *, force: bool) -> list[dict[str, str]]:
        """Remove a tag or a model; what was done, in order. Raises `ModelNotFound`."""
        with _missing_model(name):
            data = self._call("DELETE", _model_path(name) + ("?force=true" if force else ""))
        return self._decode(data, list[dict[str, str]])

    def import_model(self, name: str, upload: Upload) -> Model:
        """Send a GGUF file, streamed."""
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(upload.size)}
        path = f"/models/import?reference={quote(name, safe='')}"
        return self._decode(self._call("POST", path, body=upload, headers=headers, slow=True), Model)

    def running_models(self) -> list[Runner]:
        return self.get("/engines/ps", list[Runner])

    def unload(self, models: list[str], *, everything: bool) -> int:
        """Unload idle models; how many were."""
        data = self._call("POST", "/engines/unload", body=_json({"all": everything, "models": models}), slow=True)
        return self._decode(data, Unloaded).unloaded_runners

    def disk_usage(self) -> DiskUsage:
        return self.get("/engines/df", DiskUsage)

    def preload(self, model: str) -> None:
        """Load a model; returns when it is loaded."""
        # A server that does not know the header answers with one token.
        request = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
        self._call("POST", CHAT_PATH, body=_json(request), headers={"X-Preload-Only": "true"}, slow=True)

    def tokenize(self, model: str, text: str) -> tuple[int, ...]:
        """The tokens of a text, read as plain text. Loads the model."""
        request = {"model": model, "content": text, "parse_special": False}
        return self._decode(self._call("POST", TOKENIZE_PATH, body=_json(request), slow=True), TokenList).tokens

    @contextlib.contextmanager
    def chat(self, request: Mapping[str, Any]) -> Iterator[Iterator[Chunk]]:
        """The chunks of a streamed chat answer; leaving the block closes the connection, which stops the answer."""
        body = _json({**request, "stream": True, "stream_options": {"include_usage": True}})
        response = self._open("POST", CHAT_PATH, body, {}, _SLOW_READ_TIMEOUT)
        try:
            yield self._chunks(response)
        finally:
            response.close()

    def _chunks(self, response: BaseHTTPResponse) -> Iterator[Chunk]:
        # stream(n) waits for n bytes unless the body is chunked
        pieces = response.stream(64 * 1024 if getattr(response, "chunked", False) else 1)
        with self._failures():
            for data in read_events(pieces):
                if data == b"[DONE]":
                    return
                chunk = self._decode(data, Chunk)
                if chunk.error is not None:
                    raise ServerError(_message_of({"error": chunk.error}) or "The answer failed.")
                yield chunk
        raise ServerError("The server closed the connection before the answer was complete.")

    def _call(
        self, method: str, path: str, *, body: Any = None, headers: Mapping[str, str] | None = None, slow: bool = False
    ) -> bytes:
        response = self._open(method, path, body, headers or {}, _SLOW_READ_TIMEOUT if slow else _READ_TIMEOUT)
        try:
            with self._failures():
                return response.read()
        finally:
            response.close()

    def _open(
        self, method: str, path: str, body: Any, headers: Mapping[str, str], read_timeout: float
    ) -> BaseHTTPResponse:
        if isinstance(body, bytes):
            headers = {"Content-Type": "application/json", **headers}
        with self._failures():
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
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError):
            raise ServerNotRunning(self._absent()) from None
        except urllib3.exceptions.TimeoutError:
            raise ServerError(f"The server at {self.address.url} has stopped answering.") from None
        except urllib3.exceptions.ProtocolError:
            raise ServerError("The server closed the connection before the answer was complete.") from None
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            raise ServerError(f"The server at {self.address.url} cannot be understood: {error}") from None

    def _absent(self) -> str:
        advice = "Start it with `dmr serve`." if self.address.is_local else "Check MODEL_RUNNER_HOST."
        return f"No server answers at {self.address.url}. {advice}"

    def _decode(self, data: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(data, type=kind)
        except msgspec.DecodeError as error:
            raise ServerError(f"The answer of {self.address.url} is not a model runner's: {error}") from None


@contextlib.contextmanager
def _missing_model(name: str) -> Iterator[None]:
    try:
        yield
    except ServerError as error:
        if error.status != 404:
            raise
        missing = ModelNotFound(name)
        missing.message = f"no such model: {name}"
        raise missing from None


def _model_path(name: str) -> str:
    if not name or name in (".", ".."):  # would address another route
        raise InvalidReference(f"{name!r} is not the name of a model.")
    return "/models/" + quote(name, safe=":@")


def _json(value: Any) -> bytes:
    return msgspec.json.encode(value)


def _error_text(status: int, data: bytes) -> str:
    text = data.decode("utf-8", "replace").strip()
    if text[:1] == "{":
        with contextlib.suppress(ValueError):
            text = _message_of(json.loads(text))
    if not text or text[:1] in "<{":
        return f"The server answered with status {status}."
    return text


def _message_of(body: Any) -> str:
    """The message in any of the error shapes that servers use: {"error": {"message"}}, {"error": text}, {"message"}."""
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, dict):
        error = error.get("message", "")
    return error if isinstance(error, str) else ""
