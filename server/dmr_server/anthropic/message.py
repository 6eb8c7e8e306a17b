"""POST /v1/messages: the request, and the whole answer. The streamed one is in `stream`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from dmr.types import Choice, Completion, GenerateRequest, ToolCall
from dmr_server.anthropic.fields import ReadRequest, read_request
from dmr_server.anthropic.signature import packed_signature, plain_signature
from dmr_server.anthropic.stream import MessageEncoder, Thoughts
from dmr_server.anthropic.wire import (
    Block,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
    WireMessage,
    encode,
    to_stop_reason,
    to_usage,
    to_wire_id,
)
from dmr_server.dialect import Encoder
from dmr_server.generation import Stamp


class MessageExchange:
    """One request for a message and how to answer it."""

    def __init__(self, read: ReadRequest, stamp: Stamp) -> None:
        self._fields = read.fields
        self._stamp = stamp
        self._thoughts = _thoughts(read)
        self._request = read.request

    @property
    def request(self) -> GenerateRequest:
        return self._request

    @property
    def stream(self) -> bool:
        return self._fields.stream

    def encoder(self) -> Encoder:
        return MessageEncoder(self._stamp.id, self._fields.model, self._thoughts)

    def to_result(self, completion: Completion) -> bytes:
        choice = completion.choices[0]
        return encode(
            WireMessage(
                id=self._stamp.id,
                model=self._fields.model,
                content=_content(choice, self._thoughts),
                stop_reason=to_stop_reason(choice.finish_reason, choice),
                stop_sequence=choice.stop_sequence,
                usage=to_usage(completion.usage),
            )
        )


def read_message(body: Mapping[str, Any], stamp: Stamp) -> MessageExchange:
    """Understand a request body; raises InvalidRequest and Unsupported, naming the field."""
    return MessageExchange(read_request(body), stamp)


def _thoughts(read: ReadRequest) -> Thoughts:
    """Who did not ask for thinking gets no thinking blocks, even from a model that cannot but think."""
    thinking = read.fields.thinking
    if thinking.type == "disabled":
        return Thoughts.HIDDEN
    return Thoughts.OMITTED if thinking.display == "omitted" else Thoughts.SHOWN


def _content(choice: Choice, thoughts: Thoughts) -> list[Block]:
    content: list[Block] = []
    if choice.reasoning and thoughts is Thoughts.SHOWN:
        content.append(ThinkingBlock(choice.reasoning, plain_signature()))
    elif choice.reasoning and thoughts is Thoughts.OMITTED:
        content.append(ThinkingBlock("", packed_signature(choice.reasoning)))
    if choice.text and not (choice.tool_calls and choice.text.isspace()):
        content.append(TextBlock(choice.text))
    content.extend(_tool_use(call) for call in choice.tool_calls)
    return content


def _tool_use(call: ToolCall) -> ToolUseBlock:
    return ToolUseBlock(to_wire_id(call.id), call.name, input_of(call.arguments))


def input_of(arguments: str) -> dict[str, Any]:
    """The arguments as an object. Of a call that was cut short, as much as is complete: as clients do with a stream."""
    try:
        value = msgspec.json.decode(arguments or "{}")
    except msgspec.DecodeError:
        value = _complete_part(arguments)
    return value if isinstance(value, dict) else {}


_CLOSERS = {"{": "}", "[": "]"}


def _complete_part(text: str) -> Any:
    """JSON without its last, unfinished value; None when there is nothing to be had."""
    open_brackets: list[str] = []
    end, closers = 0, ""
    in_string = escaped = False
    for index, character in enumerate(text):
        if in_string:
            in_string = escaped or character != '"'
            escaped = character == "\\" and not escaped
            continue
        in_string = character == '"'
        if character in _CLOSERS:
            open_brackets.append(_CLOSERS[character])
        elif character in "}]" and open_brackets:
            open_brackets.pop()
        elif character != ",":
            continue
        end = index if character == "," else index + 1
        closers = "".join(reversed(open_brackets))
    try:
        return msgspec.json.decode(text[:end] + closers)
    except msgspec.DecodeError:
        return None
