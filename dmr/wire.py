"""Messages between our processes: length-prefixed msgpack frames over Unix sockets and pipes.

Three conversations: frontend and engine (one connection is one request; closing it is the abort), frontend and manager
(one connection is one command, or one lease for as long as it stays open), engine and manager (the engine's status).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterator
from typing import TypeVar, Union

import msgspec

from dmr.config import EngineSettings
from dmr.errors import DmrError, EngineCrashed, InternalError, InvalidRequest, PayloadTooLarge, error_from_code
from dmr.types import FinishReason, ModelRecord, Removal, RunningModel, SamplingParams, Timings, TokenLogprob, Usage

MAX_FRAME_BYTES = 1 << 30
CONNECT_TIMEOUT = 10.0  # seconds
SEND_TIMEOUT = 60.0  # seconds in which the other side must have taken a whole message
_LENGTH = struct.Struct(">I")


class Frame(msgspec.Struct, frozen=True, omit_defaults=True, array_like=True):
    """Base of every message."""


class WireError(Frame, frozen=True, tag="error"):
    """A `DmrError` on its way to another process."""

    code: str
    message: str
    param: str | None = None
    retry_after: float | None = None

    @classmethod
    def of(cls, error: DmrError) -> WireError:
        return cls(error.code, error.message, error.param, error.retry_after)

    def to_error(self) -> DmrError:
        return error_from_code(self.code, self.message, self.param, self.retry_after)


# --- engine ----------------------------------------------------------------------------------------------------------


class EngineSpec(Frame, frozen=True):
    """What an engine process is started with."""

    reference: str
    weights: tuple[str, ...]  # paths, shards in order
    chat_template: str | None  # path of a template that overrides the file's own
    socket: str
    settings: EngineSettings
    log_level: str = "info"


class EngineInfo(Frame, frozen=True):
    """What a loaded engine tells about itself: enough to render prompts without the weights."""

    description: str
    context_size: int  # the most tokens one sequence can have
    chat_template: str  # empty = the model has none
    bos: str
    eos: str
    adds_bos: bool


class GrammarSpec(Frame, frozen=True):
    """A grammar, and what starts it if it is lazy: (kind, text), kind "word", "pattern" or "full_pattern"."""

    text: str
    prefill: str = ""  # what it must have taken before the first token
    lazy: bool = False
    triggers: tuple[tuple[str, str], ...] = ()


class EngineRequest(Frame, frozen=True, tag="request"):
    prompts: tuple[Union[str, tuple[int, ...]], ...]
    sampling: SamplingParams
    num_choices: int = 1
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    num_logprobs: int | None = None
    grammar: GrammarSpec | None = None
    preserved_tokens: tuple[str, ...] = ()  # control tokens whose text is wanted
    client: str = ""


class EngineStarted(Frame, frozen=True, tag="started"):
    num_prompt_tokens: int


class EngineOutput(Frame, frozen=True, tag="output"):
    """More of one choice. `finish_reason` is set in its last output."""

    index: int
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    stop_sequence: str | None = None


class EngineCompleted(Frame, frozen=True, tag="completed"):
    usage: Usage
    timings: Timings


EngineMessage = Union[EngineStarted, EngineOutput, EngineCompleted, WireError]


class LoadProgress(Frame, frozen=True, tag="progress"):
    fraction: float


class EngineReady(Frame, frozen=True, tag="ready"):
    info: EngineInfo


EngineStatus = Union[LoadProgress, EngineReady, WireError]


# --- manager ---------------------------------------------------------------------------------------------------------


class AcquireLease(Frame, frozen=True, tag="acquire"):
    """Load the model if need be, and keep it while this connection is open."""

    reference: str
    keep_alive: float | None = None


class LeaseGranted(Frame, frozen=True, tag="granted"):
    model_id: str
    socket: str
    info: EngineInfo


class ImportModel(Frame, frozen=True, tag="import"):
    """Take a file into the store. The file is moved: the sender has made it for this."""

    path: str
    reference: str


class RemoveModel(Frame, frozen=True, tag="remove"):
    reference: str
    force: bool = False


class UnloadModels(Frame, frozen=True, tag="unload"):
    references: tuple[str, ...] | None = None  # None = all


class ListRunning(Frame, frozen=True, tag="running"):
    pass


class Ping(Frame, frozen=True, tag="ping"):
    pass


class Imported(Frame, frozen=True, tag="imported"):
    record: ModelRecord


class Removed(Frame, frozen=True, tag="removed"):
    removal: Removal


class Unloaded(Frame, frozen=True, tag="unloaded"):
    count: int


class Running(Frame, frozen=True, tag="running_models"):
    models: tuple[RunningModel, ...]


class Pong(Frame, frozen=True, tag="pong"):
    pass


ManagerCommand = Union[AcquireLease, ImportModel, RemoveModel, UnloadModels, ListRunning, Ping]
ManagerReply = Union[LoadProgress, LeaseGranted, Imported, Removed, Unloaded, Running, Pong, WireError]

engine_request_decoder = msgspec.msgpack.Decoder(EngineRequest)
engine_message_decoder = msgspec.msgpack.Decoder(EngineMessage)
engine_status_decoder = msgspec.msgpack.Decoder(EngineStatus)
engine_spec_decoder = msgspec.msgpack.Decoder(EngineSpec)
manager_command_decoder = msgspec.msgpack.Decoder(ManagerCommand)
manager_reply_decoder = msgspec.msgpack.Decoder(ManagerReply)
_encoder = msgspec.msgpack.Encoder()

Message = TypeVar("Message")


def pack(message: msgspec.Struct) -> bytes:
    """One frame: four bytes of length, big-endian, then msgpack.

    Raises:
        PayloadTooLarge: over `MAX_FRAME_BYTES`.
        InvalidRequest: a number has more than 64 bits, or a text half of a surrogate pair, which is no character.
    """
    try:
        body = _encoder.encode(message)
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"The text is not valid Unicode: {error.reason}.") from None
    except OverflowError:
        raise InvalidRequest("A number is too large: integers have 64 bits at most.") from None
    if len(body) > MAX_FRAME_BYTES:
        raise PayloadTooLarge(f"The request has {len(body)} bytes; {MAX_FRAME_BYTES} can be handled.")
    return _LENGTH.pack(len(body)) + body


async def read_frame(reader: asyncio.StreamReader, decoder: msgspec.msgpack.Decoder[Message]) -> Message | None:
    """The next message, or None when the other side is gone.

    Raises:
        InternalError: what came is no such message; nothing more can be read.
    """
    try:
        length = _frame_length(await reader.readexactly(_LENGTH.size))
        return _decode(await reader.readexactly(length), decoder)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


async def until_closed(reader: asyncio.StreamReader) -> None:
    """Wait for the other side to leave, after its one message: any further byte counts as leaving too."""
    with contextlib.suppress(ConnectionError):  # it has left without reading all of its answer
        await reader.read(1)


class Connection:
    """The blocking side of a conversation. Not for several threads at once."""

    def __init__(self, path: str, timeout: float) -> None:
        """`timeout`: seconds of silence after which `frames` yields None. Raises OSError when nobody listens."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(CONNECT_TIMEOUT)
            self._socket.connect(path)
            self._socket.settimeout(timeout)
        except OSError:
            self._socket.close()
            raise
        self._timeout = timeout
        self._buffer = bytearray()

    def send(self, message: msgspec.Struct) -> None:
        """Raises OSError when the other side is gone or takes nothing, and what `pack` raises."""
        frame = pack(message)
        self._socket.settimeout(SEND_TIMEOUT)
        self._socket.sendall(frame)
        self._socket.settimeout(self._timeout)

    def frames(self, decoder: msgspec.msgpack.Decoder[Message]) -> Iterator[Message | None]:
        """Messages as they come; None after each time-out.

        Raises:
            EngineCrashed: the other side has gone.
            InternalError: what came is no message; nothing more can be read.
        """
        while True:
            while (body := self._take_frame()) is not None:
                yield _decode(body, decoder)
            try:
                data = self._socket.recv(1 << 16)
            except TimeoutError:
                yield None
                continue
            except OSError:
                data = b""
            if not data:
                raise EngineCrashed("The process that served this request has died. The next request starts it anew.")
            self._buffer += data

    def close(self) -> None:
        self._socket.close()

    def _take_frame(self) -> bytes | None:
        if len(self._buffer) < _LENGTH.size:
            return None
        end = _LENGTH.size + _frame_length(self._buffer)
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        return body


def _frame_length(head: bytes | bytearray) -> int:
    (length,) = _LENGTH.unpack_from(head)
    if length > MAX_FRAME_BYTES:
        raise InternalError(f"A message of {length} bytes was announced by another process.")
    return int(length)


def _decode(body: bytes, decoder: msgspec.msgpack.Decoder[Message]) -> Message:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InternalError(f"Another process sent something that is no message: {error}.") from error
