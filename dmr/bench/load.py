"""A client that puts load on a server and notes when each piece of text arrived.

It shares a machine with the server that it measures, so it has to be cheap: one callback for each read of a socket, and
a JSON decoder that looks at no more fields than are needed. Every request has a connection of its own.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Union
from urllib.parse import urlsplit

import msgspec

from dmr.bench.http_response import NotHttp, ResponseReader
from dmr.errors import InvalidRequest

DEFAULT_TIMEOUT = 600.0  # seconds for a whole request
MAX_EVENT_BYTES = 16 * 1024 * 1024


class Outcome(msgspec.Struct):
    """What became of one request. Times are seconds of `time.perf_counter`.

    Numbers of tokens are what the server says, 0 where it says nothing: it does not when a request fails or is
    cancelled. The text of a request for embeddings is empty.
    """

    began: float
    ended: float = 0.0
    arrivals: list[float] = []  # one for each chunk that carries text
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0  # of the prompt's, those that were not computed
    num_completion_tokens: int = 0
    text: str = ""
    error: Union[str, None] = None  # None: it came to its end, or was cancelled as asked
    cancelled: bool = False

    @property
    def ttft(self) -> float | None:
        """Seconds until the first text; None: there was none."""
        return self.arrivals[0] - self.began if self.arrivals else None

    @property
    def inter_token_latencies(self) -> list[float]:
        """Seconds between each chunk of text and the next."""
        return [later - earlier for earlier, later in zip(self.arrivals, self.arrivals[1:], strict=False)]


class _Delta(msgspec.Struct):
    content: Union[str, None] = None
    reasoning_content: Union[str, None] = None


class _Choice(msgspec.Struct):
    text: Union[str, None] = None
    delta: Union[_Delta, None] = None

    def all_text(self) -> str:
        if self.delta is None:
            return self.text or ""
        return (self.delta.reasoning_content or "") + (self.delta.content or "")


class _PromptDetails(msgspec.Struct):
    cached_tokens: Union[int, None] = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: Union[_PromptDetails, None] = None


class _Timings(msgspec.Struct):
    cache_n: int = 0  # where servers of an older kind say what their usage does not


class _Answer(msgspec.Struct):
    """One chunk of a streamed answer, or a whole one."""

    choices: list[_Choice] = []
    usage: Union[_Usage, None] = None
    timings: Union[_Timings, None] = None
    error: Any = None


class _Embeddings(msgspec.Struct):
    usage: Union[_Usage, None] = None


class _Failed(Exception):
    """Why a request did not come to its end."""


_answer_decoder = msgspec.json.Decoder(_Answer)
_embeddings_decoder = msgspec.json.Decoder(_Embeddings)


class LoadClient:
    """One server. Calls never fail: what went wrong is the `error` of their outcome."""

    def __init__(
        self, url: str, headers: Mapping[str, str] | None = None, *, timeout: float | None = DEFAULT_TIMEOUT
    ) -> None:
        """`url`: http://HOST:PORT, with a path in front of all others if need be. `timeout`: seconds for a request.

        Raises:
            InvalidRequest: the URL cannot be used.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise InvalidRequest(f"{url!r} is not the address of a server.") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidRequest(f"{url!r} is not the address of a server: expected http://HOST:PORT.")
        self._url = url
        self._host = parts.hostname
        self._port = port or (443 if parts.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._prefix = parts.path.rstrip("/")
        self._timeout = timeout
        given = {"Host": parts.netloc, "Content-Type": "application/json", "Connection": "close", **(headers or {})}
        self._head = "".join(f"{name}: {value}\r\n" for name, value in given.items())

    async def complete(
        self, body: Mapping[str, Any], *, path: str = "/v1/completions", cancel_after: float | None = None
    ) -> Outcome:
        """One streamed answer, of completions or of chat. `cancel_after`: seconds until the connection is closed."""
        wishes = {**body, "stream": True, "stream_options": {"include_usage": True}}
        outcome = Outcome(time.perf_counter())
        await self._bounded(self._stream(path, wishes, outcome), outcome, cancel_after)
        return outcome

    async def embed(self, body: Mapping[str, Any], path: str = "/v1/embeddings") -> Outcome:
        """One request for vectors; they are read and dropped."""
        outcome = Outcome(time.perf_counter())
        await self._bounded(self._whole(path, body, outcome), outcome, None)
        return outcome

    async def _bounded(self, exchange: Coroutine[Any, Any, None], outcome: Outcome, cancel_after: float | None) -> None:
        is_cancel = cancel_after is not None and (self._timeout is None or cancel_after < self._timeout)
        try:
            await asyncio.wait_for(exchange, cancel_after if is_cancel else self._timeout)
        except asyncio.TimeoutError:
            if is_cancel:
                outcome.cancelled = True
            else:
                outcome.error = f"The answer took longer than {self._timeout:g} s."
        except _Failed as failure:
            outcome.error = str(failure)
        finally:
            outcome.ended = time.perf_counter()

    async def _stream(self, path: str, body: Mapping[str, Any], outcome: Outcome) -> None:
        events = _Events(outcome)
        try:
            await self._exchange(path, body, events.feed)
        finally:
            outcome.text = "".join(events.texts)
        if not events.is_done:
            raise _Failed("The connection was closed before the answer was complete.")

    async def _whole(self, path: str, body: Mapping[str, Any], outcome: Outcome) -> None:
        pieces: list[bytes] = []
        await self._exchange(path, body, pieces.append)
        try:
            answer = _embeddings_decoder.decode(b"".join(pieces))
        except msgspec.DecodeError as error:
            raise _Failed(f"The answer cannot be understood: {error}") from None
        if answer.usage is not None:
            outcome.num_prompt_tokens = answer.usage.prompt_tokens

    async def _exchange(self, path: str, body: Mapping[str, Any], feed: Callable[[bytes], object]) -> None:
        """Send a request and hand the body of its answer to `feed`, piece by piece. Raises _Failed."""
        data = msgspec.json.encode(body)
        head = f"POST {self._prefix}{path} HTTP/1.1\r\n{self._head}Content-Length: {len(data)}\r\n\r\n"
        try:
            answer = _Answering(head.encode("latin-1") + data, feed)
            transport, _ = await asyncio.get_running_loop().create_connection(
                lambda: answer, self._host, self._port, ssl=self._tls
            )
            try:
                await answer.done
            finally:
                # At once, and whatever is still under way: an answer that is given up must end now.
                transport.abort()
        except NotHttp as error:
            raise _Failed(f"The server at {self._url} cannot be understood: {error}.") from None
        except OSError as error:
            raise _Failed(f"The connection to {self._url} failed: {error.strerror or error}.") from None
        except UnicodeError:
            raise _Failed(f"{self._url} is not the address of a server, or a header cannot be sent.") from None


class _Answering(asyncio.Protocol):
    """One connection. What arrives is taken apart in the very callback that brings it: no task has to wake up for it.

    `done` fails with _Failed, NotHttp or OSError.
    """

    def __init__(self, request: bytes, feed: Callable[[bytes], object]) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._feed = feed
        self._response = ResponseReader()
        self._refusal = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self.done.done():
            return
        try:
            piece = self._response.feed(data)
            if self._response.status >= 300:
                self._refusal += piece
            elif piece:
                self._feed(piece)
        except (NotHttp, _Failed) as error:
            self.done.set_exception(error)
            return
        if self._response.is_complete:
            self._end(None)

    def eof_received(self) -> None:
        self._response.end()
        self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc)

    def _end(self, error: Exception | None) -> None:
        if self.done.done():
            return
        if error is None and self._response.status >= 300:
            error = _Failed(f"{self._response.status}: {_message_of(self._refusal)}")
        elif error is None and not self._response.is_complete:
            error = _Failed("The connection was closed before the answer was complete.")
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)


class _Events:
    """Takes the bytes of an event stream apart and notes in an outcome what they say."""

    def __init__(self, outcome: Outcome) -> None:
        self.is_done = False
        self.texts: list[str] = []
        self._outcome = outcome
        self._rest = b""

    def feed(self, piece: bytes) -> None:
        """Raises _Failed: the stream says so, or makes no sense."""
        now = time.perf_counter()
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > MAX_EVENT_BYTES:
            raise _Failed("An event of the stream is too long.")
        for line in lines:
            if line.startswith(b"data:"):
                self._take(line[5:].strip(), now)
            elif line.startswith(b"error:"):  # some servers give it a line of its own kind
                raise _Failed(_message_of(line[6:]))

    def _take(self, data: bytes, now: float) -> None:
        if data == b"[DONE]":
            self.is_done = True
            return
        try:
            chunk = _answer_decoder.decode(data)
        except msgspec.DecodeError as error:
            raise _Failed(f"An event of the stream cannot be understood: {error}") from None
        if chunk.error is not None:
            raise _Failed(_message_of(data))
        text = "".join([choice.all_text() for choice in chunk.choices])
        if text:
            self._outcome.arrivals.append(now)
            self.texts.append(text)
        if chunk.usage is not None:
            self._count(chunk.usage, chunk.timings)

    def _count(self, usage: _Usage, timings: _Timings | None) -> None:
        self._outcome.num_prompt_tokens = usage.prompt_tokens
        self._outcome.num_completion_tokens = usage.completion_tokens
        details = usage.prompt_tokens_details
        if details is not None and details.cached_tokens is not None:
            self._outcome.num_cached_tokens = details.cached_tokens
        elif timings is not None:
            self._outcome.num_cached_tokens = timings.cache_n


def _message_of(data: bytes) -> str:
    """The message in any of the shapes of errors: {"error": {"message"}}, {"error": text}, {"message"}, plain text."""
    text = data.decode("utf-8", "replace").strip()
    try:
        body = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return text[:500] or "the server gave no reason"
    error = body.get("error", body) if isinstance(body, dict) else body
    message = error.get("message") if isinstance(error, dict) else error
    return message if isinstance(message, str) and message else text[:500]
