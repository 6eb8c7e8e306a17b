"""The streamed message: one event in, the bytes of its events out.

The order that clients rely on: message_start, then blocks with indexes 0, 1, 2…, each opened, filled and closed before
the next, then message_delta with the stop reason and the true usage, then message_stop.
"""

from __future__ import annotations

import enum
from typing import Union

import msgspec

from dmr.errors import DmrError
from dmr.types import (
    Completed,
    Event,
    Finished,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallStart,
    Usage,
)
from dmr_server.anthropic.signature import packed_signature, plain_signature
from dmr_server.anthropic.wire import (
    Block,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
    WireMessage,
    WireUsage,
    frame,
    to_error,
    to_stop_reason,
    to_usage,
    to_wire_id,
)
from dmr_server.dialect import EVENT_STREAM

PING_INTERVAL = 5.0  # seconds of silence
SILENT_DELTAS = 64  # so many deltas that the client does not get are a silence too
PING = b'event: ping\ndata: {"type":"ping"}\n\n'


class Thoughts(enum.Enum):
    """What the client gets to see of the model's thinking."""

    SHOWN = "shown"
    OMITTED = "omitted"  # a block without text
    HIDDEN = "hidden"  # nothing


class TextPiece(msgspec.Struct, frozen=True, tag="text_delta"):
    text: str


class ThinkingPiece(msgspec.Struct, frozen=True, tag="thinking_delta"):
    thinking: str


class SignaturePiece(msgspec.Struct, frozen=True, tag="signature_delta"):
    signature: str


class InputPiece(msgspec.Struct, frozen=True, tag="input_json_delta"):
    partial_json: str


Piece = Union[TextPiece, ThinkingPiece, SignaturePiece, InputPiece]


class MessageStart(msgspec.Struct, frozen=True, tag="message_start"):
    message: WireMessage


class BlockStart(msgspec.Struct, frozen=True, tag="content_block_start"):
    index: int
    content_block: Block


class BlockDelta(msgspec.Struct, frozen=True, tag="content_block_delta"):
    index: int
    delta: Piece


class BlockStop(msgspec.Struct, frozen=True, tag="content_block_stop"):
    index: int


class StopDelta(msgspec.Struct, frozen=True):
    stop_reason: str
    stop_sequence: Union[str, None]
    stop_details: None = None


class MessageDelta(msgspec.Struct, frozen=True, tag="message_delta"):
    delta: StopDelta
    usage: WireUsage


class MessageStop(msgspec.Struct, frozen=True, tag="message_stop"):
    pass


class MessageEncoder:
    """Encodes the events of one message. At most one block is open at a time; `_index` is the last one's."""

    media_type = EVENT_STREAM
    comment_interval = PING_INTERVAL

    def __init__(self, id: str, model: str, thoughts: Thoughts) -> None:
        self._id = id
        self._model = model
        self._thoughts = thoughts
        self._index = -1
        self._open: type[Block] | None = None
        self._unseen: list[str] = []  # the thought that goes into the signature
        self._num_silent = 0
        self._blank = ""  # white space that begins a text; before a tool call it is no text
        self._has_calls = False
        self._has_input = False
        self._end: Finished | None = None

    def encode(self, event: Event) -> bytes:
        if isinstance(event, TextDelta):
            return self._text(event.text)
        if isinstance(event, ReasoningDelta):
            return self._reasoning(event.text)
        if isinstance(event, ToolCallDelta):
            return self._tool_input(event.arguments)
        if isinstance(event, ToolCallStart):
            return self._tool_start(event)
        if isinstance(event, Started):
            return self._start(event)
        if isinstance(event, Finished):
            return self._finish(event)
        if isinstance(event, Completed):
            return self._stop(event)
        return b""

    def error(self, error: DmrError) -> bytes:
        return b"event: error\ndata: %b\n\n" % to_error(error)

    def comment(self) -> bytes:
        return PING

    def _start(self, event: Started) -> bytes:
        message = WireMessage(
            id=self._id,
            model=self._model,
            content=[],
            stop_reason=None,
            stop_sequence=None,
            usage=to_usage(Usage(event.num_prompt_tokens, event.num_cached_tokens)),
        )
        return frame("message_start", MessageStart(message)) + PING

    def _text(self, text: str) -> bytes:
        if self._open is TextBlock:
            return self._delta(TextPiece(text)) if text else b""
        self._blank += text
        return b"" if not text or self._blank.isspace() else self._flush()

    def _flush(self) -> bytes:
        """The text that was held back, in a block of its own."""
        text, self._blank = self._blank, ""
        if not text:
            return b""
        return self._begin(TextBlock("")) + self._delta(TextPiece(text))

    def _reasoning(self, text: str) -> bytes:
        if not text:
            return b""
        if self._thoughts is Thoughts.HIDDEN:
            return self._silence()
        opened = b"" if self._open is ThinkingBlock else self._begin(ThinkingBlock("", ""))
        if self._thoughts is Thoughts.SHOWN:
            return opened + self._delta(ThinkingPiece(text))
        self._unseen.append(text)
        return opened or self._silence()

    def _silence(self) -> bytes:
        self._num_silent += 1
        return b"" if self._num_silent % SILENT_DELTAS else PING

    def _tool_start(self, event: ToolCallStart) -> bytes:
        begun = self._begin(ToolUseBlock(to_wire_id(event.id), event.name, {}))
        self._has_calls, self._has_input = True, False
        return begun

    def _tool_input(self, arguments: str) -> bytes:
        if not arguments:
            return b""
        self._has_input = True
        return self._delta(InputPiece(arguments))

    def _begin(self, block: Block) -> bytes:
        closed = self._close()
        self._blank = ""
        self._index += 1
        self._open = type(block)
        return closed + frame("content_block_start", BlockStart(self._index, block))

    def _close(self) -> bytes:
        """The last deltas and the end of the open block, if there is one."""
        last = b""
        if self._open is None:
            return last
        if self._open is ThinkingBlock:
            last = self._delta(SignaturePiece(self._signature()))
        elif self._open is ToolUseBlock and not self._has_input:
            last = self._delta(InputPiece("{}"))  # clients join the pieces and parse them
        self._open = None
        return last + frame("content_block_stop", BlockStop(self._index))

    def _signature(self) -> str:
        if self._thoughts is Thoughts.SHOWN:
            return plain_signature()
        thinking, self._unseen = "".join(self._unseen), []
        return packed_signature(thinking)

    def _delta(self, piece: Piece) -> bytes:
        return frame("content_block_delta", BlockDelta(self._index, piece))

    def _finish(self, event: Finished) -> bytes:
        self._end = event
        return (b"" if self._has_calls else self._flush()) + self._close()

    def _stop(self, event: Completed) -> bytes:
        end = self._end
        assert end is not None, "Completed came before Finished"
        delta = StopDelta(to_stop_reason(end.reason, end), end.stop_sequence)
        return frame("message_delta", MessageDelta(delta, to_usage(event.usage))) + frame("message_stop", MessageStop())
