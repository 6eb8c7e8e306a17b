"""Answers that are moved to one connection: the engine's end over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack

import msgspec
import pytest
from unit.engine.scripted_runner import answer_to, text_of
from unit.engine.test_worker_server import Worker, collect, text, worker

from dmr.engine import channel as channel_module
from dmr.engine.channel import Channel
from dmr.engine.outbox import Outbox
from dmr.types import FinishReason, SamplingParams, Timings, Usage
from dmr.wire import (
    Connection,
    EngineCompleted,
    EngineMessage,
    EngineMove,
    EngineMoved,
    EngineOpenChannel,
    EngineOutput,
    EngineRequest,
    EngineStarted,
    WireError,
    engine_channel_decoder,
    engine_message_decoder,
    engine_moving_decoder,
)

__all__ = ["worker"]  # the fixture

Moved = tuple[list[EngineMessage], bool]  # messages of a request's own connection, and whether the rest was moved


class Client:
    """A process with a channel, and requests that it moves there."""

    def __init__(self, made: Worker, name: str = "ours") -> None:
        self._path = made.path
        self._open = ExitStack()
        self.channel = self.connect()
        self.channel.send(EngineOpenChannel(name))
        self._frames = self.channel.frames(engine_channel_decoder)
        self.name = name
        self.got: dict[int, list[EngineMessage]] = {}

    def connect(self) -> Connection:
        connection = Connection(self._path, 5.0)
        self._open.callback(connection.close)
        return connection

    def close(self) -> None:
        self._open.close()

    def is_greeted(self) -> bool:
        return next(self._frames) == []

    def ask(self, *prompt: int, max_tokens: int, num_choices: int = 1) -> Connection:
        connection = self.connect()
        connection.send(EngineRequest((prompt,), SamplingParams(), num_choices, max_tokens))
        return connection

    def move(self, connection: Connection, number: int, name: str | None = None) -> Moved:
        """Read what comes before the move; all of it, if it is not moved."""
        connection.send(EngineMove(name or self.name, number))
        before: list[EngineMessage] = []
        for message in connection.frames(engine_moving_decoder):
            assert message is not None, "nothing more comes"
            if isinstance(message, EngineMoved):
                return before, True
            before.append(message)
            if isinstance(message, (EngineCompleted, WireError)):
                return before, False
        raise AssertionError

    def rest_of(self, number: int) -> list[EngineMessage]:
        while not isinstance((self.got.get(number) or [None])[-1], (EngineCompleted, WireError)):
            messages = next(self._frames)
            assert messages is not None, "nothing more comes"
            for other, message in messages:
                self.got.setdefault(other, []).append(message)
        return self.got[number]


@pytest.fixture
def client(worker: Worker) -> Iterator[Client]:
    worker.delay = 0.001
    made = Client(worker)
    assert made.is_greeted()
    yield made
    made.close()


def test_a_moved_answer_goes_on_where_it_was(worker: Worker, client: Client) -> None:
    before, has_moved = client.move(client.ask(5, 6, max_tokens=300), 7)
    assert has_moved
    assert text(before) != text_of(answer_to([5, 6], 300))
    rest = client.rest_of(7)
    assert text(before + rest) == text_of(answer_to([5, 6], 300))
    assert isinstance(rest[-1], EngineCompleted)
    assert rest[-1].usage.num_completion_tokens == 300
    worker.wait_until_idle()


def test_what_a_step_gives_comes_together(client: Client) -> None:
    begun = [(number, client.ask(number, max_tokens=200)) for number in (1, 2, 3, 4)]
    told = {number: client.move(connection, number)[0] for number, connection in begun}
    most = 0
    for _ in range(50):
        messages = next(client._frames)
        assert messages is not None
        most = max(most, len({number for number, _ in messages}))
        for number, message in messages:
            client.got.setdefault(number, []).append(message)
    assert most == 4
    for number in told:
        assert text(told[number] + client.rest_of(number)) == text_of(answer_to([number], 200))


def test_an_answer_that_is_over_is_not_moved(client: Client) -> None:
    connection = client.ask(3, max_tokens=2)
    heard = collect(iter(connection.frames(engine_message_decoder)))
    assert text(heard) == text_of(answer_to([3], 2))


@pytest.mark.parametrize("name", ["nobodys", ""])
def test_an_unknown_channel_moves_nothing(client: Client, name: str) -> None:
    messages, has_moved = client.move(client.ask(3, max_tokens=100), 1, name or "\0")
    assert not has_moved
    assert text(messages) == text_of(answer_to([3], 100))


def test_a_name_belongs_to_one(worker: Worker, client: Client) -> None:
    other = Connection(worker.path, 5.0)
    other.send(EngineOpenChannel(client.name))
    error = next(other.frames(engine_message_decoder))
    assert isinstance(error, WireError)
    assert error.code == "invalid_request"
    other.close()
    assert client.move(client.ask(3, max_tokens=100), 1)[1], "the first is no longer known"
    client.rest_of(1)


def test_who_closes_a_moved_requests_own_connection_aborts_it(worker: Worker, client: Client) -> None:
    connection = client.ask(1, max_tokens=450)
    assert client.move(connection, 1)[1]
    connection.close()
    worker.wait_until_idle()
    assert worker.bench.runner.num_steps < 450


def test_who_leaves_altogether_is_forgotten(worker: Worker, client: Client) -> None:
    for number in (1, 2):
        assert client.move(client.ask(number, max_tokens=450), number)[1]
    client.close()
    worker.wait_until_idle()
    deadline = time.monotonic() + 5
    while worker.server._channels:
        assert time.monotonic() < deadline, "a channel was left behind"
        time.sleep(0.005)


@pytest.mark.parametrize("rude", [b"\0\0\0\x01\xc1", b"\xff\xff\xff\xff", struct.pack(">I", 3) + b"abc"])
def test_anything_but_the_wish_to_move_counts_as_leaving(worker: Worker, client: Client, rude: bytes) -> None:
    connection = client.ask(1, max_tokens=450)
    next(connection.frames(engine_message_decoder))
    connection._socket.sendall(rude)
    worker.wait_until_idle()
    assert worker.bench.runner.num_steps < 450


def test_one_wish_is_enough(worker: Worker, client: Client) -> None:
    connection = client.ask(1, max_tokens=450)
    before, _ = client.move(connection, 1)
    connection.send(EngineMove(client.name, 2))  # one too many: the other side does not know what it wants
    worker.wait_until_idle()
    assert 2 not in client.got
    assert before


@pytest.fixture
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "BUFFER", 1)  # the kernel takes a few KB all the same


@pytest.mark.usefixtures("small_buffers")
def test_a_process_that_reads_nothing_holds_up_nobody_and_loses_nothing(worker: Worker) -> None:
    slow = Client(worker)
    assert slow.is_greeted()
    worker.delay = 0.001
    begun = [(number, slow.ask(number, max_tokens=450, num_choices=1)) for number in (1, 2)]
    told = {number: slow.move(connection, number)[0] for number, connection in begun}
    worker.delay = 0.0
    assert text(collect(worker.generate(9, max_tokens=400))) == text_of(answer_to([9], 400))
    worker.wait_until_idle()
    for number in told:
        rest = slow.rest_of(number)
        assert text(told[number] + rest) == text_of(answer_to([number], 450))
        assert sum(each.num_tokens for each in told[number] + rest if isinstance(each, EngineOutput)) == 450
    slow.close()


class Stalled:
    """An answer's own connection, with so much on it that nothing more goes; and a channel to move it to."""

    @classmethod
    async def make(cls) -> Stalled:
        self = cls()
        ours, self.theirs = socket.socketpair()
        self.theirs.setblocking(False)
        _, self._writer = await asyncio.open_connection(sock=ours)
        channel_ours, self.channel_theirs = socket.socketpair()
        _, self._channel_writer = await asyncio.open_connection(sock=channel_ours)
        self.channel = Channel(self._channel_writer)
        self.box = Outbox(self._writer)
        self.box.open(EngineStarted(1))
        self.num_said = 0
        return self

    def say(self) -> None:
        self.box.put([EngineOutput(0, "x" * 50)])
        self.num_said += 1

    async def read(self) -> list[object]:
        data = b""
        for _ in range(50):
            await asyncio.sleep(0.002)
            with contextlib.suppress(BlockingIOError):
                while piece := self.theirs.recv(1 << 16):
                    data += piece
        told = []
        while data:
            end = 4 + struct.unpack_from(">I", data)[0]
            told.append(engine_moving_decoder.decode(data[4:end]))
            data = data[end:]
        return told

    def close(self) -> None:
        self.box.close()
        self.channel.close()
        for each in (self._writer, self._channel_writer):
            each.close()
        self.theirs.close()
        self.channel_theirs.close()


def test_an_answer_that_cannot_be_sent_on_is_moved_behind_what_waits() -> None:
    async def scene() -> None:
        stalled = await Stalled.make()
        while not stalled.box.num_held_messages:
            stalled.say()
        stalled.box.move(stalled.channel, 7)
        stalled.say()
        first, *outputs, last = await stalled.read()
        assert first == EngineStarted(1)
        assert isinstance(last, EngineMoved)
        assert sum(each.num_tokens for each in outputs if isinstance(each, EngineOutput)) == stalled.num_said
        stalled.say()
        stalled.channel.flush()
        assert b"x" * 50 in stalled.channel_theirs.recv(1 << 16)
        stalled.close()

    asyncio.run(scene())


def test_an_answer_that_ends_while_it_is_moved_is_not_over_before_the_other_side_knows() -> None:
    async def scene() -> None:
        stalled = await Stalled.make()
        while not stalled.box.num_held_bytes:
            stalled.say()
        stalled.box._held.take()  # as if the connection were full to the last byte
        stalled.box._socket.unsent = memoryview(b"")
        stalled.box.move(stalled.channel, 7)
        assert stalled.box.num_held_bytes, "there was room"
        stalled.box.put([EngineCompleted(Usage(1, 0, 1), Timings())])
        await asyncio.sleep(0.01)
        assert not stalled.box.is_sent.is_set()
        told = await stalled.read()
        assert isinstance(told[-1], EngineMoved)
        assert stalled.box.is_sent.is_set()
        stalled.close()

    asyncio.run(scene())


def test_what_cannot_be_told_is_no_others_failure() -> None:
    async def scene() -> bytes:
        ours, theirs = socket.socketpair()
        _, writer = await asyncio.open_connection(sock=ours)
        reader, their_writer = await asyncio.open_connection(sock=theirs)
        channel = Channel(writer)
        channel.put(1, [EngineOutput(0, "good")])
        channel.put(2, [EngineOutput(0, "\ud800")])
        channel.put(3, [EngineOutput(0, "too", finish_reason=FinishReason.STOP)])
        channel.flush()
        channel.close()
        writer.close()
        data = await asyncio.wait_for(reader.read(), 5)
        their_writer.close()
        return data

    data, told = asyncio.run(scene()), {}
    while data:
        end = 4 + struct.unpack_from(">I", data)[0]
        told.update(msgspec.msgpack.decode(data[4:end], type=list[tuple[int, EngineMessage]]))
        data = data[end:]
    assert told[1] == EngineOutput(0, "good")
    assert isinstance(told[2], WireError)
    assert told[3] == EngineOutput(0, "too", finish_reason=FinishReason.STOP)
