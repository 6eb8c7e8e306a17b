"""Clients that read slowly, or not at all."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path

import pytest
from unit.engine.scripted_runner import answer_to, choose, text_of
from unit.engine.test_worker_server import Worker, collect, text, worker

from dmr.engine import outbox, patient_socket
from dmr.types import FinishReason, SamplingParams, Timings, TokenLogprob, TokenProbability, Usage
from dmr.wire import (
    Connection,
    EngineCompleted,
    EngineEcho,
    EngineMessage,
    EngineOutput,
    EngineRequest,
    EngineStarted,
    HeldMessages,
    WireError,
    engine_message_decoder,
    pack,
)
from dmr.wire.held_messages import LEAST_JOINED

__all__ = ["worker"]  # the fixture

COMPLETED = EngineCompleted(Usage(1, 0, 2), Timings())


def probable(token: int) -> TokenLogprob:
    return TokenLogprob(TokenProbability(token, b"t", -0.5))


def held(*messages: EngineMessage) -> list[EngineMessage]:
    kept = HeldMessages()
    for message in messages:
        kept.add(message)
    assert len(kept) > 0
    taken = kept.take()
    assert (len(kept), kept.take()) == (0, [])
    return taken


def test_the_outputs_of_a_choice_become_one() -> None:
    end = EngineOutput(0, "c", (probable(3),), FinishReason.STOP, "stop", 2, True, (7, 8))
    assert held(EngineOutput(0, "a", (probable(1),)), EngineOutput(0, "b", (), num_tokens=3), end, COMPLETED) == [
        EngineOutput(0, "abc", (probable(1), probable(3)), FinishReason.STOP, "stop", 6, True, (7, 8)),
        COMPLETED,
    ]


def test_choices_stay_apart_and_behind_their_echo() -> None:
    echoes = [EngineEcho(0, "p", (None, probable(9))), EngineEcho(1, "q")]
    outputs = [EngineOutput(i % 2, f"{i}") for i in range(6)]
    error = WireError("internal_error", "Oh.")
    assert held(*echoes, *outputs, error) == [
        *echoes,
        EngineOutput(0, "024", num_tokens=3),
        EngineOutput(1, "135", num_tokens=3),
        error,
    ]


def test_one_output_stays_as_it_is() -> None:
    assert held(EngineOutput(3, "x")) == [EngineOutput(3, "x")]


@pytest.fixture
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patient_socket, "KERNEL_BUFFER", 1)  # the kernel takes a few KB all the same


def ask(made: Worker, max_tokens: int, num_choices: int = 1) -> Connection:
    connection = Connection(made.path, 5.0)
    connection.send(EngineRequest(((1,),), SamplingParams(), num_choices, max_tokens))
    return connection


def read(connection: Connection) -> list[EngineMessage]:
    messages: list[EngineMessage] = []
    for message in connection.frames(engine_message_decoder):
        assert message is not None
        messages.append(message)
        if isinstance(message, (EngineCompleted, WireError)):
            break
    connection.close()
    return messages


def until_computed(made: Worker) -> None:
    """Until the engine has nothing more to do; the connection need not be done."""
    deadline = time.monotonic() + 10
    while made.steps.num_sequences or not made.server._outboxes:
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.usefixtures("small_buffers")
def test_who_reads_late_gets_the_whole_answer_in_few_messages(worker: Worker) -> None:
    late = ask(worker, 400, num_choices=2)
    until_computed(worker)  # the engine does not wait for it
    (box,) = worker.server._outboxes.values()
    assert 1 < box.num_held_messages <= LEAST_JOINED + 2, "what cannot be sent is not joined"
    assert box.num_held_bytes < 2000
    _, *outputs, last = read(late)
    assert len(outputs) < 400
    assert isinstance(last, EngineCompleted)
    for index in range(2):
        told = [message for message in outputs if isinstance(message, EngineOutput) and message.index == index]
        assert text(told) == text_of(answer_to([1], 400))
        assert sum(message.num_tokens for message in told) == 400
        assert told[-1].finish_reason is FinishReason.LENGTH
    worker.wait_until_idle()


@pytest.mark.usefixtures("small_buffers")
def test_who_reads_in_between_gets_it_in_order(worker: Worker) -> None:
    worker.delay = 0.001
    slow = ask(worker, 400)
    messages = []
    for message in slow.frames(engine_message_decoder):
        messages.append(message)
        time.sleep(0.01)  # ten tokens come in this time
        if isinstance(message, EngineCompleted):
            break
    slow.close()
    assert text([message for message in messages if message is not None]) == text_of(answer_to([1], 400))
    worker.wait_until_idle()


@pytest.mark.usefixtures("small_buffers")
def test_who_leaves_unread_messages_is_forgotten(worker: Worker) -> None:
    worker.delay = 0.001
    gone = ask(worker, 400)
    deadline = time.monotonic() + 10
    while not any(box.num_held_messages for box in worker.server._outboxes.values()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    gone.close()
    worker.wait_until_idle()
    assert worker.bench.runner.num_steps < 400
    assert not worker.loop_errors


@pytest.mark.usefixtures("small_buffers")
def test_a_slow_client_holds_up_nobody(worker: Worker) -> None:
    slow = ask(worker, 490)
    began = time.monotonic()
    assert text(collect(worker.generate(5, max_tokens=200))) == text_of(answer_to([5], 200))
    assert time.monotonic() - began < 5.0
    assert text(read(slow)) == text_of(answer_to([1], 490))


def test_who_reads_at_once_waits_for_nothing(tmp_path: Path) -> None:
    """Nothing is joined, and the last message says that all is sent."""

    async def scene() -> None:
        ours, theirs = socket.socketpair()
        _, writer = await asyncio.open_connection(sock=ours)
        reader, their_writer = await asyncio.open_connection(sock=theirs)
        box = outbox.Outbox(writer)
        messages: list[EngineMessage] = [EngineOutput(0, "a"), EngineOutput(0, "b")]
        box.put([EngineOutput(0, "early")])  # it follows the first all the same
        box.open(EngineStarted(3))
        box.put(messages)
        await asyncio.sleep(0)
        assert not box.is_sent.is_set()
        box.put([COMPLETED])
        await asyncio.wait_for(box.is_sent.wait(), 5)
        expected = b"".join(map(pack, [EngineStarted(3), EngineOutput(0, "early"), *messages, COMPLETED]))
        assert await asyncio.wait_for(reader.readexactly(len(expected)), 5) == expected
        box.close()
        for each in (writer, their_writer):
            each.close()

    asyncio.run(scene())


def num_pieces(made: Worker, *, is_whole: bool) -> int:
    """In how many pieces an answer of 200 tokens comes."""
    with Connection(made.path, 5.0)._socket as client:
        client.sendall(pack(EngineRequest(((1,),), SamplingParams(), max_tokens=200, is_whole=is_whole)))
        pieces = []
        while piece := client.recv(1 << 16):
            pieces.append(piece)
    told, data = [], b"".join(pieces)
    while data:
        end = 4 + int.from_bytes(data[:4], "big")
        told.append(engine_message_decoder.decode(data[4:end]))
        data = data[end:]
    assert text(told) == text_of(answer_to([1], 200))
    assert all(message.num_tokens == 1 for message in told if isinstance(message, EngineOutput))
    assert isinstance(told[-1], EngineCompleted)
    return len(pieces)


def test_an_answer_that_is_wanted_whole_does_not_wake_its_client_for_each_token(worker: Worker) -> None:
    worker.delay = 0.002
    assert num_pieces(worker, is_whole=True) <= 5
    assert num_pieces(worker, is_whole=False) > 50


def test_a_failure_is_told_at_once_where_an_answer_is_wanted_whole(worker: Worker) -> None:
    worker.delay = 0.002
    connection = Connection(worker.path, 5.0)
    connection.send(EngineRequest(((1,),), SamplingParams(), max_tokens=400, is_whole=True))
    worker.bench.runner.choose = lambda sequence: choose(sequence, error="no token")
    first, *_, last = read(connection)
    assert first == EngineStarted(1)
    assert isinstance(last, WireError)
