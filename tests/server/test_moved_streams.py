"""Streams that share a connection to their engine: a real engine's server, streams of its answers, and clients."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from server.test_streaming import PlainEncoder
from unit.engine.scripted_runner import answer_to, text_of
from unit.engine.test_worker_server import Worker, worker

from dmr.client import EngineClient
from dmr.service.answer import Answer, Flow
from dmr.types import Completed, Event, Finished, SamplingParams, Started, TextDelta, Tick
from dmr.wire import EngineCompleted, EngineMessage, EngineOutput, EngineRequest, EngineStarted, WireError
from dmr_server import streaming
from dmr_server.dialect import Client, EventStream
from dmr_server.streaming import LOOK_INTERVAL, Streamer

__all__ = ["worker"]  # the fixture


class BroadEncoder(PlainEncoder):
    """So much that no buffer holds it."""

    def encode(self, event: Event) -> bytes:
        return super().encode(event) + b" " * (500 if isinstance(event, TextDelta) else 0)


class Stream:
    """One streamed answer, read by a client or not."""

    def __init__(self, made: Worker, streamer: Streamer, prompt: int, max_tokens: int, *, is_broad: bool) -> None:
        self.unread: deque[Event] = deque()
        encoder = BroadEncoder() if is_broad else PlainEncoder()
        self.expected = text_of(answer_to([prompt], max_tokens)).encode() + b"[Finished][Completed]"
        flow = Flow()
        flow.reader = self
        self.readiness = flow.readiness
        request = EngineRequest(((prompt,),), SamplingParams(), max_tokens=max_tokens)
        self._messages = EngineClient(made.path).generate(request, flow.readiness)
        self.ours, self.client = socket.socketpair()
        self.client.settimeout(10.0)
        answer = Answer(self._events(), flow)
        environ = {"gunicorn.socket": self.ours, "SERVER_PROTOCOL": "HTTP/1.0"}
        self._body = EventStream([next(answer)], answer, encoder, Client(environ), streamer=streamer)
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def read_all(self) -> bytes:
        data = b""
        while not data.endswith((b"[Completed]", b"[error]")) and (more := self.client.recv(1 << 16)):
            data += more
        return data

    def until_moved(self) -> None:
        deadline = time.monotonic() + 10
        while not self.readiness.has_moved:
            assert time.monotonic() < deadline, "it is not moved"
            time.sleep(0.002)

    def join(self) -> None:
        self.thread.join(10)
        assert not self.thread.is_alive(), "the server's thread is held"

    def close(self) -> None:
        self.ours.close()
        self.client.close()

    def read(self, message: EngineMessage) -> list[Event]:
        if isinstance(message, WireError):
            raise message.to_error()
        if isinstance(message, EngineStarted):
            return [Started(message.num_prompt_tokens)]
        if isinstance(message, EngineCompleted):
            return [Completed(message.usage)]
        assert isinstance(message, EngineOutput)
        events: list[Event] = [TextDelta(0, message.text)]
        return [*events, Finished(0, message.finish_reason)] if message.finish_reason else events

    def _serve(self) -> None:
        """What the HTTP server does with a body."""
        for _ in self._body:
            pass
        self._body.close()

    def _events(self) -> Generator[Event, None, None]:
        with contextlib.closing(self._messages) as messages:
            for message in messages:
                yield from [Tick()] if message is None else self.read(message)


@pytest.fixture
def streams(worker: Worker) -> Iterator[Any]:
    worker.delay = 0.001
    with contextlib.ExitStack() as stack:
        streamer = Streamer(write_timeout=0.6)

        def make(prompt: int, max_tokens: int = 450, *, is_broad: bool = False) -> Stream:
            stream = Stream(worker, streamer, prompt, max_tokens, is_broad=is_broad)
            stack.callback(stream.join)
            stack.callback(stream.close)
            return stream

        yield make
    break_channels(worker)  # a streamer lives as long as its process
    deadline = time.monotonic() + 5
    while worker.server._channels:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def break_channels(made: Worker) -> None:
    """As when the engine dies."""
    for channel in list(made.server._channels.values()):
        channel._socket._socket.shutdown(socket.SHUT_RDWR)


def test_several_long_streams_share_a_connection_and_are_whole(worker: Worker, streams: Any) -> None:
    made = [streams(prompt, 150) for prompt in range(1, 9)]  # more than run at the same time
    for stream in made:
        assert stream.read_all() == stream.expected
    assert sum(stream.readiness.has_moved for stream in made) >= 7
    assert len(worker.server._channels) == 1


def test_a_stream_that_is_alone_stays_where_it_is(worker: Worker, streams: Any) -> None:
    stream = streams(1, 100)
    assert stream.read_all() == stream.expected
    assert not worker.server._channels


def test_a_short_stream_stays_where_it_is(worker: Worker, streams: Any) -> None:
    made = [streams(prompt, streaming.MOVE_AFTER - 2) for prompt in (1, 2, 3)]
    for stream in made:
        assert stream.read_all() == stream.expected
    assert not worker.server._channels


def test_a_moved_client_that_leaves_frees_the_engine(worker: Worker, streams: Any) -> None:
    worker.delay = 0.004
    gone, other = streams(1), streams(2, 200)
    gone.until_moved()
    began = time.monotonic()
    gone.client.close()
    gone.join()
    assert time.monotonic() - began < LOOK_INTERVAL + 0.5
    assert other.read_all() == other.expected


def test_a_moved_client_that_reads_late_gets_everything(worker: Worker, streams: Any) -> None:
    late, other = streams(1, is_broad=True), streams(2, 100)
    late.until_moved()
    late.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    data = b""
    while not data.endswith(b"[Completed]"):
        data += late.client.recv(4_000)
        time.sleep(0.03)  # longer in all than it may take nothing
    assert data.replace(b" ", b"") == late.expected
    assert other.read_all() == other.expected


def test_a_moved_client_that_takes_nothing_is_cut_off(worker: Worker, streams: Any) -> None:
    stuck, other = streams(1, is_broad=True), streams(2)
    stuck.until_moved()
    stuck.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    assert other.read_all() == other.expected
    stuck.join()
    with pytest.raises(OSError):
        stuck.ours.sendall(b"x")


def test_an_engine_that_breaks_off_ends_all_its_moved_streams(worker: Worker, streams: Any) -> None:
    made = [streams(prompt) for prompt in (1, 2, 3)]
    for stream in made:
        stream.until_moved()
    break_channels(worker)
    for stream in made:
        data = stream.read_all()
        assert data.endswith(b"[error]")
        assert stream.expected.startswith(data[: -len(b"[error]")])
    after = [streams(prompt, 100) for prompt in (4, 5)]  # on a new channel
    for stream in after:
        assert stream.read_all() == stream.expected
