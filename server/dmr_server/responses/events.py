"""The events of a streamed response, as they stand on the wire. The encoder numbers them when they go out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Union

import msgspec

from dmr_server.responses.wire import (
    CustomCallItem,
    FunctionCallItem,
    Logprob,
    MessageItem,
    OutputText,
    ReasoningItem,
    ReasoningText,
    Response,
    SummaryText,
)


class WireEvent(msgspec.Struct):
    sequence_number: int


class Created(WireEvent, tag="response.created"):
    response: Response


class Queued(WireEvent, tag="response.queued"):
    response: Response


class InProgress(WireEvent, tag="response.in_progress"):
    response: Response


class ResponseCompleted(WireEvent, tag="response.completed"):
    response: Response


class Incomplete(WireEvent, tag="response.incomplete"):
    response: Response


class Failed(WireEvent, tag="response.failed"):
    response: Response


class ErrorEvent(WireEvent, tag="error"):
    code: Union[str, None]
    message: str
    param: Union[str, None]


class ItemAdded(WireEvent, tag="response.output_item.added"):
    output_index: int
    item: Union[MessageItem, ReasoningItem, FunctionCallItem, CustomCallItem]


class ItemDone(WireEvent, tag="response.output_item.done"):
    output_index: int
    item: Union[MessageItem, ReasoningItem, FunctionCallItem, CustomCallItem]


class ItemEvent(WireEvent):
    item_id: str
    output_index: int


class PartEvent(ItemEvent):
    content_index: int


class PartAdded(PartEvent, tag="response.content_part.added"):
    part: Union[OutputText, ReasoningText]


class PartDone(PartEvent, tag="response.content_part.done"):
    part: Union[OutputText, ReasoningText]


class TextDeltaEvent(PartEvent, tag="response.output_text.delta"):
    delta: str
    logprobs: Sequence[Logprob]


class TextDone(PartEvent, tag="response.output_text.done"):
    text: str
    logprobs: Sequence[Logprob]


class ThoughtDelta(PartEvent, tag="response.reasoning_text.delta"):
    delta: str


class ThoughtDone(PartEvent, tag="response.reasoning_text.done"):
    text: str


class SummaryEvent(ItemEvent):
    summary_index: int


class SummaryPartAdded(SummaryEvent, tag="response.reasoning_summary_part.added"):
    part: SummaryText


class SummaryPartDone(SummaryEvent, tag="response.reasoning_summary_part.done"):
    part: SummaryText


class SummaryDelta(SummaryEvent, tag="response.reasoning_summary_text.delta"):
    delta: str


class SummaryDone(SummaryEvent, tag="response.reasoning_summary_text.done"):
    text: str


class ArgumentsDelta(ItemEvent, tag="response.function_call_arguments.delta"):
    delta: str


class ArgumentsDone(ItemEvent, tag="response.function_call_arguments.done"):
    name: str
    arguments: str


class InputDelta(ItemEvent, tag="response.custom_tool_call_input.delta"):
    delta: str


class InputDone(ItemEvent, tag="response.custom_tool_call_input.done"):
    input: str


_encode = msgspec.json.encode


def frame(event: WireEvent) -> bytes:
    """One server-sent event, whose name is its type."""
    return b"event: %b\ndata: %b\n\n" % (_name(type(event)), _encode(event))


_NAMES: dict[type[WireEvent], bytes] = {}


def _name(kind: type[WireEvent]) -> bytes:
    name = _NAMES.get(kind)
    if name is None:
        name = _NAMES[kind] = str(kind.__struct_config__.tag).encode()
    return name
