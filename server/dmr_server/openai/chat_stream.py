"""The streamed chat completions answer: one event in, the bytes of its chunks out.

The order that clients rely on: a role chunk for each choice, deltas, a finish chunk for each choice, then the usage
chunk if it was asked for, then `[DONE]`. A tool call's id and name come exactly once: clients join what they get.
"""

from __future__ import annotations

from typing import Union

import msgspec
from msgspec import UNSET, UnsetType

from dmr.errors import DmrError
from dmr.types import (
    Completed,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallStart,
)
from dmr_server.dialect import COMMENT_INTERVAL, EVENT_STREAM
from dmr_server.generation import Stamp
from dmr_server.openai.logprobs import ChatLogprobs, to_chat_logprobs
from dmr_server.openai.wire import COMMENT, DONE, WireUsage, frame, to_error, to_usage


class FunctionDelta(msgspec.Struct, frozen=True):
    arguments: str
    name: Union[str, UnsetType] = UNSET


class ToolDelta(msgspec.Struct, frozen=True):
    index: int
    function: FunctionDelta
    id: Union[str, UnsetType] = UNSET
    type: Union[str, UnsetType] = UNSET


class Delta(msgspec.Struct, frozen=True):
    role: Union[str, UnsetType] = UNSET
    content: Union[str, UnsetType] = UNSET
    reasoning_content: Union[str, UnsetType] = UNSET
    tool_calls: Union[list[ToolDelta], UnsetType] = UNSET
    function_call: Union[FunctionDelta, UnsetType] = UNSET


class ChunkChoice(msgspec.Struct, frozen=True):
    index: int
    delta: Delta
    logprobs: Union[ChatLogprobs, None] = None
    finish_reason: Union[str, None] = None


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: str = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Union[WireUsage, UnsetType, None] = UNSET
    service_tier: Union[str, UnsetType] = UNSET


class ChatEncoder:
    """Encodes the events of one chat answer. `legacy` answers `functions` with `function_call`."""

    media_type = EVENT_STREAM
    comment_interval = COMMENT_INTERVAL

    def __init__(
        self,
        *,
        stamp: Stamp,
        model: str,
        num_choices: int,
        include_usage: bool,
        with_logprobs: bool,
        legacy: bool,
        service_tier: str | UnsetType,
    ) -> None:
        self._stamp = stamp
        self._model = model
        self._num_choices = num_choices
        self._include_usage = include_usage
        self._with_logprobs = with_logprobs
        self._legacy = legacy
        self._service_tier = service_tier

    def encode(self, event: Event) -> bytes:
        if isinstance(event, TextDelta):
            return self._text(event)
        if isinstance(event, ReasoningDelta):
            return self._delta(event.index, Delta(reasoning_content=event.text)) if event.text else b""
        if isinstance(event, (ToolCallStart, ToolCallDelta)):
            return self._delta(event.index, self._tool(event))
        if isinstance(event, Started):
            role = Delta(role="assistant", content="")
            return b"".join(self._delta(index, role) for index in range(self._num_choices))
        if isinstance(event, Finished):
            return self._chunk([ChunkChoice(event.index, Delta(), finish_reason=self._reason(event.reason))])
        if isinstance(event, Completed):
            return self._usage(event) + DONE
        return b""

    def error(self, error: DmrError) -> bytes:
        return frame(to_error(error))

    def comment(self) -> bytes:
        return COMMENT

    def _text(self, event: TextDelta) -> bytes:
        if not event.text and not event.logprobs:
            return b""
        logprobs = to_chat_logprobs(event.logprobs) if self._with_logprobs else None
        return self._chunk([ChunkChoice(event.index, Delta(content=event.text), logprobs)])

    def _tool(self, event: ToolCallStart | ToolCallDelta) -> Delta:
        if isinstance(event, ToolCallDelta):
            function = FunctionDelta(event.arguments)
            return self._legacy_or(function, ToolDelta(event.call_index, function))
        function = FunctionDelta("", event.name)
        return self._legacy_or(function, ToolDelta(event.call_index, function, event.id, "function"))

    def _legacy_or(self, function: FunctionDelta, tool: ToolDelta) -> Delta:
        return Delta(function_call=function) if self._legacy else Delta(tool_calls=[tool])

    def _reason(self, reason: FinishReason) -> str:
        return "function_call" if self._legacy and reason is FinishReason.TOOL_CALLS else reason.value

    def _usage(self, event: Completed) -> bytes:
        return self._chunk([], to_usage(event.usage)) if self._include_usage else b""

    def _delta(self, index: int, delta: Delta) -> bytes:
        return self._chunk([ChunkChoice(index, delta)])

    def _chunk(self, choices: list[ChunkChoice], usage: WireUsage | None = None) -> bytes:
        return frame(
            Chunk(
                id=self._stamp.id,
                created=self._stamp.created,
                model=self._model,
                choices=choices,
                # With include_usage every chunk has the key; without it none has.
                usage=usage if self._include_usage else UNSET,
                service_tier=self._service_tier,
            )
        )
