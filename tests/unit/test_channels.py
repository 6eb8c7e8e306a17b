"""The frontends' end of channels, with a scripted engine."""

from __future__ import annotations

import select
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from unit.scripted_peer import ScriptedPeer

from dmr.channels import Channel, Channels
from dmr.errors import EngineCrashed
from dmr.types import Timings, Usage
from dmr.wire import (
    EngineCompleted,
    EngineMessage,
    EngineOpenChannel,
    EngineOutput,
    WireError,
    engine_query_decoder,
)
from dmr.wire.held_messages import LEAST_JOINED


def frame(*messages: tuple[int, EngineMessage]) -> bytes:
    data = msgspec.msgpack.encode(messages)
    return len(data).to_bytes(4, "big") + data


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[ScriptedPeer]:
    peer = ScriptedPeer(tmp_path / "engine.sock", engine_query_decoder)
    yield peer
    peer.close()


def receive(channel: Channel) -> list[Any]:
    assert select.select([channel.fileno()], [], [], 5)[0], "nothing comes"
    return channel.receive()


def test_each_owner_gets_what_is_its_own(engine: ScriptedPeer) -> None:
    output = [EngineOutput(0, text) for text in "abcd"]
    later = frame((1, output[1]), (2, output[2]), (9, output[3]))
    engine.plays(frame(), 0.05, frame((2, output[0])), 0.05, later)
    channel = Channels().to(engine.path)
    assert channel is not None
    assert not channel.is_ready
    assert receive(channel) == []
    assert channel.is_ready
    first, second = channel.enter("first"), channel.enter("second")
    assert receive(channel) == ["second"]
    assert second.take() == [output[0]]
    assert receive(channel) == ["first", "second"]
    assert (first.take(), second.take(), second.take()) == ([output[1]], [output[2]], [])
    channel.close()
    assert engine.requests == [EngineOpenChannel(channel.name)]


def test_what_is_not_taken_is_joined_in_the_end(engine: ScriptedPeer) -> None:
    engine.plays(frame(), *[frame(*[(1, EngineOutput(0, "a"))] * 100) for _ in range(9)])
    channel = Channel(engine.path)
    inbox = channel.enter(object())
    for _ in range(100):
        if not select.select([channel.fileno()], [], [], 0.3)[0]:
            break
        channel.receive()
    messages = inbox.take()
    assert len(messages) <= LEAST_JOINED + 2
    assert sum(message.num_tokens for message in messages if isinstance(message, EngineOutput)) == 900
    channel.close()


def test_who_has_left_gets_nothing(engine: ScriptedPeer) -> None:
    engine.plays(0.05, frame((1, EngineOutput(0, "a")), (2, EngineOutput(0, "b"))))
    channel = Channel(engine.path)
    channel.enter("first"), channel.enter("second")
    channel.leave("first")
    channel.leave("unknown")
    assert receive(channel) == ["second"]
    channel.close()


@pytest.mark.parametrize("how", ["death", "nonsense", "refusal"])
def test_an_engine_that_fails_is_told_to_everybody(engine: ScriptedPeer, how: str) -> None:
    steps: dict[str, list[Any]] = {
        "death": [frame(), 0.05],
        "nonsense": [frame(), 0.05, b"\0\0\0\x01\xc1"],
        "refusal": [WireError("invalid_request", "No.")],
    }
    engine.plays(*steps[how], then_dies=how == "death")
    channels = Channels()
    channel = channels.to(engine.path)
    assert channel is not None
    inboxes = [channel.enter("first"), channel.enter("second")]
    inboxes[0].add(EngineOutput(0, "before"))
    while not channel.is_broken:
        owners = receive(channel)
    assert owners == ["first", "second"]
    first, second = (inbox.take() for inbox in inboxes)
    assert first[0] == EngineOutput(0, "before")
    for (last,) in (first[1:], second):
        assert isinstance(last, WireError)
        assert how != "death" or isinstance(last.to_error(), EngineCrashed)
    channel.close()
    engine.plays(frame())
    again = channels.to(engine.path)
    assert again is not None
    assert again.name != channel.name
    again.close()


def test_who_has_all_of_its_answer_is_not_told_that_the_engine_is_gone(engine: ScriptedPeer) -> None:
    end = EngineCompleted(Usage(1, 0, 1), Timings())
    engine.plays(frame(), 0.05, frame((1, EngineOutput(0, "a")), (1, end)), 0.05, then_dies=True)
    channels = Channels()
    channel = channels.to(engine.path)
    assert channel is not None
    late, other = channel.enter("late"), channel.enter("other")
    while not channel.is_broken:
        owners = receive(channel)
    assert owners == ["other"]
    assert late.take() == [EngineOutput(0, "a"), end]
    assert [type(message) for message in other.take()] == [WireError]
    channels.forget(channel)
    channel.close()
    assert not channels._channels


def test_what_waits_is_given_token_by_token(engine: ScriptedPeer) -> None:
    engine.plays(frame(), frame((1, EngineOutput(0, "a")), (1, EngineOutput(0, "b"))))
    channel = Channel(engine.path)
    inbox = channel.enter(object())
    while not (owners := receive(channel)):
        pass
    assert len(owners) == 1
    assert inbox.take() == [EngineOutput(0, "a"), EngineOutput(0, "b")]
    channel.close()


def test_there_is_one_for_each_engine(engine: ScriptedPeer, tmp_path: Path) -> None:
    channels = Channels()
    assert channels.to(str(tmp_path / "nobody.sock")) is None
    channel = channels.to(engine.path)
    assert channel is channels.to(engine.path)
    assert channel is not None
    channel.close()
