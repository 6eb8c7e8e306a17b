from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmr import wire
from dmr.config import EngineSettings
from dmr.errors import (
    ContextLengthExceeded,
    DmrError,
    EngineCrashed,
    InternalError,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    PayloadTooLarge,
)
from dmr.types import (
    FinishReason,
    ModelConfig,
    ModelRecord,
    SamplingParams,
    Timings,
    TokenLogprob,
    TokenProbability,
    Usage,
)
from dmr.wire import (
    AcquireLease,
    Connection,
    EngineCompleted,
    EngineInfo,
    EngineMessage,
    EngineOutput,
    EngineReady,
    EngineRequest,
    EngineSpec,
    EngineStarted,
    EngineStatus,
    LoadProgress,
    ManagerCommand,
    ManagerReply,
    Ping,
    WireError,
    engine_message_decoder,
    engine_query_decoder,
    engine_spec_decoder,
    engine_status_decoder,
    frames,
    manager_command_decoder,
    manager_reply_decoder,
    pack,
    read_frame,
    until_closed,
)

TEXTS = st.text(max_size=20)
NUMBERS = st.integers(-(2**63), 2**63 - 1)
COUNTS = st.integers(0, 2**40)
FLOATS = st.floats(allow_nan=False)
BOOLS = st.booleans()
CONVERSATIONS = [
    (EngineRequest, engine_query_decoder),
    (EngineSpec, engine_spec_decoder),
    *((kind, engine_message_decoder) for kind in EngineMessage.__args__),
    *((kind, engine_status_decoder) for kind in EngineStatus.__args__),
    *((kind, manager_command_decoder) for kind in ManagerCommand.__args__),
    *((kind, manager_reply_decoder) for kind in ManagerReply.__args__),
]


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a type that messages are made of."""
    info = msgspec.inspect.type_info(kind)
    return _values(info)


def _values(info: Any) -> st.SearchStrategy[Any]:
    inspect = msgspec.inspect
    simple: dict[type, st.SearchStrategy[Any]] = {
        inspect.StrType: TEXTS,
        inspect.IntType: NUMBERS,
        inspect.FloatType: FLOATS,
        inspect.BoolType: BOOLS,
        inspect.BytesType: st.binary(max_size=8),
        inspect.NoneType: st.none(),
    }
    if type(info) in simple:
        return simple[type(info)]
    if isinstance(info, inspect.UnionType):
        return st.one_of(*map(_values, info.types))
    if isinstance(info, inspect.VarTupleType):
        return st.lists(_values(info.item_type), max_size=3).map(tuple)
    if isinstance(info, inspect.TupleType):
        return st.tuples(*map(_values, info.item_types))
    if isinstance(
        info, (inspect.DictType, inspect.MappingType) if hasattr(inspect, "MappingType") else inspect.DictType
    ):
        return st.dictionaries(_values(info.key_type), _values(info.value_type), max_size=3)
    if isinstance(info, inspect.EnumType):
        return st.sampled_from(list(info.cls))
    if isinstance(info, inspect.LiteralType):
        return st.sampled_from(info.values)
    if isinstance(info, inspect.AnyType):  # JSON
        return st.sampled_from([None, True, 5, 0.5, "text", ["a"]])
    if isinstance(info, inspect.FrozenSetType):
        return st.frozensets(_values(info.item_type), max_size=3)
    assert isinstance(info, inspect.StructType), info
    return st.builds(info.cls, **{field.name: _values(field.type) for field in info.fields})


@contextlib.contextmanager
def conversation(timeout: float = 5.0) -> Iterator[tuple[Connection, socket.socket]]:
    """A connection, and the other side's end of it."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("")  # a name that the kernel chooses
        listener.listen()
        connection = Connection(listener.getsockname(), timeout)
        other, _ = listener.accept()
        with other, contextlib.closing(connection):
            yield connection, other


async def read_bytes(data: bytes, decoder: Any, ends: bool = True) -> Any:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    if ends:
        reader.feed_eof()
    return await asyncio.wait_for(read_frame(reader, decoder), 5.0)


# --- every message ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "decoder"), CONVERSATIONS, ids=lambda value: getattr(value, "__name__", ""))
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_message_comes_out_as_it_went_in(kind: Any, decoder: Any, data: st.DataObject) -> None:
    message = data.draw(values(kind))
    assert asyncio.run(read_bytes(pack(message), decoder)) == message
    with conversation() as (connection, other):
        other.sendall(pack(message))
        assert next(connection.frames(decoder)) == message


def test_the_biggest_messages() -> None:
    request = EngineRequest(("x" * 3_000_000, tuple(range(200_000))), SamplingParams())
    assert asyncio.run(read_bytes(pack(request), engine_query_decoder)) == request


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("No.", param="top_k"),
        Overloaded("Later.", retry_after=3.5),
        ModelNotFound("ai/x"),
        ContextLengthExceeded(9, 8),
        InternalError("Oh."),
    ],
)
def test_an_error_keeps_its_kind_and_words(error: DmrError) -> None:
    (copy,) = [asyncio.run(read_bytes(pack(WireError.of(error)), engine_message_decoder)).to_error()]
    assert type(copy) is type(error)
    attributes = ("message", "code", "param", "retry_after", "details")
    assert [getattr(copy, name) for name in attributes] == [getattr(error, name) for name in attributes]
    assert str(copy) == str(error)


# --- frames in pieces ------------------------------------------------------------------------------------------------

MESSAGES: list[EngineMessage] = [
    EngineStarted(3),
    EngineOutput(0, "hé", (TokenLogprob(TokenProbability(1, b"h", -0.5)),)),
    EngineOutput(0, "", finish_reason=FinishReason.STOP, stop_sequence="X"),
    EngineCompleted(Usage(3, 0, 2), Timings()),
]
STREAM = b"".join(map(pack, MESSAGES))


def test_frames_may_be_split_at_every_byte() -> None:
    for cut in range(len(STREAM) + 1):
        with conversation() as (connection, other):
            other.sendall(STREAM[:cut])
            frames = connection.frames(engine_message_decoder)
            early = sum(len(b"".join(map(pack, MESSAGES[: i + 1]))) <= cut for i in range(len(MESSAGES)))
            heard = [next(frames) for _ in range(early)]
            other.sendall(STREAM[cut:])
            heard += [next(frames) for _ in range(len(MESSAGES) - early)]
            assert heard == MESSAGES


def test_frames_may_come_byte_by_byte() -> None:
    with conversation() as (connection, other):

        def trickle() -> None:
            for byte in STREAM:
                other.sendall(bytes([byte]))

        thread = threading.Thread(target=trickle)
        thread.start()
        frames = connection.frames(engine_message_decoder)
        assert [next(frames) for _ in MESSAGES] == MESSAGES
        thread.join()


@pytest.mark.parametrize("cut", [0, 1, 3, 4, 5, len(pack(MESSAGES[0])) - 1])
def test_an_end_in_the_middle_is_a_crash(cut: int) -> None:
    with conversation() as (connection, other):
        other.sendall(pack(MESSAGES[0])[:cut])
        other.close()
        with pytest.raises(EngineCrashed, match="died") as caught:
            next(connection.frames(engine_message_decoder))
        assert caught.value.retry_after
    assert asyncio.run(read_bytes(pack(MESSAGES[0])[:cut], engine_message_decoder)) is None


def test_what_came_before_the_end_is_heard() -> None:
    with conversation() as (connection, other):
        other.sendall(STREAM + b"\0\0")
        other.close()
        frames = connection.frames(engine_message_decoder)
        assert [next(frames) for _ in MESSAGES] == MESSAGES
        with pytest.raises(EngineCrashed):
            next(frames)


def test_silence_brings_ticks_and_loses_nothing() -> None:
    with conversation(timeout=0.02) as (connection, other):
        frames = connection.frames(engine_message_decoder)
        assert [next(frames), next(frames)] == [None, None]
        other.sendall(STREAM[:7])
        assert next(frames) is None
        other.sendall(STREAM[7:])
        assert [next(frames) for _ in MESSAGES] == MESSAGES
        assert next(frames) is None


def test_who_does_not_wait_takes_what_is_there() -> None:
    with conversation() as (connection, other):
        other.sendall(pack(MESSAGES[0]))
        assert next(connection.frames(engine_message_decoder)) == MESSAGES[0]
        connection.dont_wait()
        for _ in range(3):
            began = time.monotonic()
            assert connection.take(engine_message_decoder) == []
            assert time.monotonic() - began < 1.0
        assert not select.select([connection], [], [], 0)[0]
        other.sendall(pack(MESSAGES[1]))
        assert connection.take(engine_message_decoder) == [MESSAGES[1]]
        other.sendall(STREAM + STREAM[:7])
        assert select.select([connection], [], [], 1)[0]
        assert connection.take(engine_message_decoder) == MESSAGES
        assert connection.take(engine_message_decoder) == []
        other.sendall(STREAM[7:])
        other.close()
        assert connection.take(engine_message_decoder) == MESSAGES
        with pytest.raises(EngineCrashed):
            connection.take(engine_message_decoder)


def test_what_was_read_before_is_taken_before_the_others_end_is_seen() -> None:
    with conversation() as (connection, other):
        other.sendall(STREAM)
        other.close()
        assert next(connection.frames(engine_message_decoder)) == MESSAGES[0]
        connection.dont_wait()
        assert connection.take(engine_message_decoder) == MESSAGES[1:]
        with pytest.raises(EngineCrashed):
            connection.take(engine_message_decoder)


def test_who_does_not_wait_gets_what_is_more_than_one_read() -> None:
    with conversation() as (connection, other):
        connection.dont_wait()
        sending = threading.Thread(target=lambda: other.sendall(pack(EngineOutput(0, "x" * 1_000_000)) * 2))
        sending.start()
        heard = 0
        while heard < 2 and select.select([connection], [], [], 10)[0]:
            heard += len(connection.take(engine_message_decoder))
        sending.join()
        assert heard == 2


@pytest.mark.parametrize("data", [b"\0\0\0\1\xc1", b"\0\0\0\1\x05", b"\xff\xff\xff\xff\0"])
def test_who_does_not_wait_is_told_of_what_is_no_message(data: bytes) -> None:
    with conversation() as (connection, other):
        connection.dont_wait()
        other.sendall(data)
        with pytest.raises(InternalError):
            connection.take(engine_message_decoder)


# --- what is no message ----------------------------------------------------------------------------------------------


def frame(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


GARBAGE = {
    "empty": frame(b""),
    "no msgpack": frame(b"\xc1\xc1"),
    "cut off": frame(pack(MESSAGES[1])[4:-3]),
    "more than one": frame(pack(MESSAGES[0])[4:] * 2),
    "wrong tag": frame(msgspec.msgpack.encode(["nonsense", 1])),
    "wrong type": frame(msgspec.msgpack.encode(["started", "three"])),
    "not a list": frame(msgspec.msgpack.encode({"a": 1})),
    "bad text": frame(b"\x93\xa6output\x00\xa2\xff\xfe"),
    "too large": struct.pack(">I", frames.MAX_FRAME_BYTES + 1),
    "text protocol": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 10,
    "very deep": frame(b"\x91" * 100_000 + b"\x01"),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_is_a_clean_error_at_once(garbage: bytes) -> None:
    with conversation(timeout=0.5) as (connection, other):
        other.sendall(garbage)
        with pytest.raises(InternalError):
            next(connection.frames(engine_message_decoder))
    with pytest.raises(InternalError):
        asyncio.run(read_bytes(garbage, engine_message_decoder, ends=False))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_random_bytes_never_raise_anything_else(data: bytes) -> None:
    for decoder in (engine_message_decoder, manager_command_decoder, engine_spec_decoder, engine_query_decoder):
        with contextlib.suppress(InternalError):
            asyncio.run(read_bytes(frame(data), decoder))


def test_a_message_over_the_limit_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_FRAME_BYTES", 1000)
    assert pack(AcquireLease("x" * 900))
    with pytest.raises(PayloadTooLarge, match="1000"):
        pack(AcquireLease("x" * 1000))


def test_half_a_character_cannot_be_sent() -> None:
    with pytest.raises(InvalidRequest, match="Unicode"):
        pack(AcquireLease("\ud83d"))


@pytest.mark.parametrize("sampling", [SamplingParams(seed=10**30), SamplingParams(top_k=-(2**70))])
def test_numbers_beyond_64_bits_cannot_be_sent(sampling: SamplingParams) -> None:
    with pytest.raises(InvalidRequest, match="64 bits"):
        pack(EngineRequest(("a",), sampling))


# --- the other side does not listen ----------------------------------------------------------------------------------


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        Connection(str(tmp_path / "absent.sock"), 1.0)


def test_a_side_that_takes_nothing_does_not_hold_us_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "SEND_TIMEOUT", 0.1)
    with conversation() as (connection, _):
        began = time.monotonic()
        with pytest.raises(OSError):
            connection.send(AcquireLease("x" * 10_000_000))
        assert time.monotonic() - began < 2.0


def test_a_side_that_is_gone() -> None:
    with conversation() as (connection, other):
        other.close()
        with pytest.raises(OSError):
            connection.send(Ping())
        with pytest.raises(EngineCrashed):
            next(connection.frames(engine_message_decoder))


@pytest.mark.parametrize("how", ["closes", "speaks", "leaves without reading"])
def test_leaving_is_noticed(how: str) -> None:
    async def scene() -> None:
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        leaving = asyncio.ensure_future(until_closed(reader))
        await asyncio.sleep(0.01)
        assert not leaving.done()
        if how == "speaks":
            theirs.sendall(b"x")
        if how == "leaves without reading":
            writer.write(b"an answer")
            await writer.drain()
            await asyncio.sleep(0.01)
        if how != "speaks":
            theirs.close()
        await asyncio.wait_for(leaving, 5.0)
        writer.close()
        theirs.close()

    asyncio.run(scene())


def test_specs_carry_every_setting() -> None:
    spec = EngineSpec("a", ("b", "c"), None, "d", EngineSettings(context_size=7, max_queue=9), "debug")
    assert asyncio.run(read_bytes(pack(spec), engine_spec_decoder)) == spec
    info = EngineInfo("a", 5, "t", "", "</s>", True)
    assert asyncio.run(read_bytes(pack(EngineReady(info)), engine_status_decoder)) == EngineReady(info)
    assert asyncio.run(read_bytes(pack(LoadProgress(0.25)), engine_status_decoder)) == LoadProgress(0.25)
    record = ModelRecord("sha256:1", ("a", "b"), 5, ModelConfig(gguf={"k": "v"}))
    assert asyncio.run(read_bytes(pack(wire.Imported(record)), manager_reply_decoder)).record == record
