"""The streamed chat completions answer: one event in, the bytes of its chunks out.

The order that clients rely on: a role chunk for each choice, deltas, a finish chunk for each choice, then the usage
chunk if it was asked for, then `[DONE]`. A tool call's id and name come exactly once: clients join what they get.
"""

from __future__ import annotations

from typing import Union

import msgspec
from msgspec import UNSET, UnsetType

from dmr.errors import DmrError
from dmr.types import Completed, Event, Finished, ReasoningDelta, Started, TextDelta, ToolCallDelta, ToolCallStart
from dmr_server.custom_input import CustomInput
from dmr_server.dialect import COMMENT_INTERVAL, EVENT_STREAM
from dmr_server.openai.chat_answer import AnswerStyle, to_chat_reason
from dmr_server.openai.logprobs import ChatLogprobs, to_chat_logprobs
from dmr_server.openai.wire import COMMENT, DONE, WireTimings, WireUsage, frame, to_error, to_timings, to_usage


class FunctionDelta(msgspec.Struct, frozen=True):
    arguments: str
    name: Union[str, UnsetType] = UNSET


class CustomDelta(msgspec.Struct, frozen=True):
    input: str
    name: Union[str, UnsetType] = UNSET


class ToolDelta(msgspec.Struct, frozen=True):
    index: int
    function: Union[FunctionDelta, UnsetType] = UNSET
    id: Union[str, UnsetType] = UNSET
    type: Union[str, UnsetType] = UNSET
    custom: Union[CustomDelta, UnsetType] = UNSET


class Delta(msgspec.Struct, frozen=True):
    role: Union[str, UnsetType] = UNSET
    content: Union[str, UnsetType] = UNSET
    reasoning_content: Union[str, UnsetType] = UNSET
    reasoning: Union[str, UnsetType] = UNSET
    tool_calls: Union[list[ToolDelta], UnsetType] = UNSET
    function_call: Union[FunctionDelta, UnsetType] = UNSET


class ChunkChoice(msgspec.Struct, frozen=True):
    index: int
    delta: Delta
    logprobs: Union[ChatLogprobs, None] = None
    finish_reason: Union[str, None] = None
    schema_violations: Union[tuple[str, ...], UnsetType] = UNSET


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: str = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Union[WireUsage, UnsetType, None] = UNSET
    service_tier: Union[str, UnsetType] = UNSET
    timings: Union[WireTimings, UnsetType] = UNSET


class ChatEncoder:
    """Encodes the events of one chat answer."""

    media_type = EVENT_STREAM
    comment_interval = COMMENT_INTERVAL

    def __init__(self, style: AnswerStyle) -> None:
        self._style = style
        self._custom: dict[tuple[int, int], CustomInput] = {}  # by choice and call
        self._bare: set[tuple[int, int]] = set()  # calls that have no arguments yet

    def encode(self, event: Event) -> bytes:
        if isinstance(event, TextDelta):
            return self._text(event)
        if isinstance(event, ReasoningDelta):
            return self._thought(event)
        if isinstance(event, ToolCallDelta):
            return self._arguments(event)
        if isinstance(event, ToolCallStart):
            return self._call(event)
        if isinstance(event, Started):
            role = Delta(role="assistant", content="")
            return b"".join(self._delta(index, role) for index in range(self._style.num_choices))
        if isinstance(event, Finished):
            return self._ends_of_calls(event.index) + self._finish(event)
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
        logprobs = to_chat_logprobs(event.logprobs) if self._style.with_logprobs else None
        return self._chunk([ChunkChoice(event.index, Delta(content=event.text), logprobs)])

    def _thought(self, event: ReasoningDelta) -> bytes:
        if not event.text or not self._style.with_reasoning:
            return b""
        return self._delta(event.index, Delta(reasoning_content=event.text, reasoning=event.text))

    def _call(self, event: ToolCallStart) -> bytes:
        key = (event.index, event.call_index)
        if event.name in self._style.custom:
            self._custom[key] = CustomInput()
            custom = CustomDelta("", event.name)
            tool = ToolDelta(event.call_index, id=event.id, type="custom", custom=custom)
            return self._delta(event.index, Delta(tool_calls=[tool]))
        self._bare.add(key)
        function = FunctionDelta("", event.name)
        tool = ToolDelta(event.call_index, function, event.id, "function")
        return self._function(event.index, function, tool)

    def _arguments(self, event: ToolCallDelta) -> bytes:
        key = (event.index, event.call_index)
        if custom := self._custom.get(key):
            return self._input(key, custom.feed(event.arguments))
        if not event.arguments:
            return b""
        self._bare.discard(key)
        function = FunctionDelta(event.arguments)
        return self._function(event.index, function, ToolDelta(event.call_index, function))

    def _ends_of_calls(self, index: int) -> bytes:
        """What is owed to the calls of a choice: the rest of a text, and arguments where none came."""
        owed = [self._input(key, custom.finish()) for key, custom in self._custom.items() if key[0] == index]
        nothing = FunctionDelta("{}")
        for key in sorted(key for key in self._bare if key[0] == index):
            owed.append(self._function(index, nothing, ToolDelta(key[1], nothing)))
        return b"".join(owed)

    def _input(self, key: tuple[int, int], text: str) -> bytes:
        tool = ToolDelta(key[1], custom=CustomDelta(text))
        return self._delta(key[0], Delta(tool_calls=[tool])) if text else b""

    def _function(self, index: int, function: FunctionDelta, tool: ToolDelta) -> bytes:
        legacy = self._style.legacy
        return self._delta(index, Delta(function_call=function) if legacy else Delta(tool_calls=[tool]))

    def _finish(self, event: Finished) -> bytes:
        reason = to_chat_reason(event.reason, self._style.legacy)
        violations = event.schema_violations or UNSET
        return self._chunk(
            [ChunkChoice(event.index, Delta(), finish_reason=reason, schema_violations=violations)],
        )

    def _usage(self, event: Completed) -> bytes:
        if not self._style.include_usage:
            return b""
        return self._chunk([], to_usage(event.usage), to_timings(event.usage, event.timings))

    def _delta(self, index: int, delta: Delta) -> bytes:
        return self._chunk([ChunkChoice(index, delta)])

    def _chunk(
        self,
        choices: list[ChunkChoice],
        usage: WireUsage | None = None,
        timings: WireTimings | UnsetType = UNSET,
    ) -> bytes:
        style = self._style
        return frame(
            Chunk(
                id=style.stamp.id,
                created=style.stamp.created,
                model=style.model,
                choices=choices,
                # With include_usage every chunk has the key; without it none has.
                usage=usage if style.include_usage else UNSET,
                service_tier=style.service_tier,
                timings=timings,
            )
        )
