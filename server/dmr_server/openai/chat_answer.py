"""The whole chat completions answer."""

from __future__ import annotations

from typing import Union

import msgspec
from msgspec import UNSET, UnsetType

from dmr.types import Choice, Completion, FinishReason, ToolCall
from dmr_server.custom_input import input_of
from dmr_server.generation import Stamp
from dmr_server.openai.logprobs import ChatLogprobs, to_chat_logprobs
from dmr_server.openai.wire import WireTimings, WireUsage, encode, to_timings, to_usage


class AnswerStyle(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer takes from its request. `legacy` answers `functions` with `function_call`."""

    stamp: Stamp
    model: str
    num_choices: int
    include_usage: bool
    with_logprobs: bool
    with_reasoning: bool
    legacy: bool
    custom: frozenset[str]  # names of the tools that take plain text
    service_tier: Union[str, UnsetType]


class WireFunctionCall(msgspec.Struct, frozen=True):
    name: str
    arguments: str


class WireCustomCall(msgspec.Struct, frozen=True):
    name: str
    input: str


class WireToolCall(msgspec.Struct, frozen=True):
    id: str
    type: str
    function: Union[WireFunctionCall, UnsetType] = UNSET
    custom: Union[WireCustomCall, UnsetType] = UNSET


class WireMessage(msgspec.Struct, frozen=True):
    role: str
    content: Union[str, None]
    refusal: None = None
    reasoning_content: Union[str, UnsetType] = UNSET  # llama-server's and DeepSeek's name
    reasoning: Union[str, UnsetType] = UNSET  # vLLM's and Ollama's
    tool_calls: Union[list[WireToolCall], UnsetType] = UNSET
    function_call: Union[WireFunctionCall, UnsetType] = UNSET


class WireChoice(msgspec.Struct, frozen=True):
    index: int
    message: WireMessage
    finish_reason: str
    logprobs: Union[ChatLogprobs, None]
    schema_violations: Union[tuple[str, ...], UnsetType] = UNSET  # our own addition


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: str = "chat.completion"
    created: int
    model: str
    choices: list[WireChoice]
    usage: WireUsage
    service_tier: Union[str, UnsetType] = UNSET
    timings: WireTimings


def to_chat_completion(completion: Completion, style: AnswerStyle) -> bytes:
    """The body of the answer."""
    return encode(
        ChatCompletion(
            id=style.stamp.id,
            created=style.stamp.created,
            model=style.model,
            choices=[_choice(choice, style) for choice in completion.choices],
            usage=to_usage(completion.usage),
            service_tier=style.service_tier,
            timings=to_timings(completion.usage, completion.timings),
        )
    )


def to_chat_reason(reason: FinishReason, legacy: bool) -> str:
    """`finish_reason`, of which the deprecated functions have one of their own."""
    return "function_call" if legacy and reason is FinishReason.TOOL_CALLS else reason.value


def _choice(choice: Choice, style: AnswerStyle) -> WireChoice:
    return WireChoice(
        index=choice.index,
        message=_message(choice, style),
        finish_reason=to_chat_reason(choice.finish_reason, style.legacy),
        logprobs=to_chat_logprobs(choice.logprobs) if style.with_logprobs else None,
        schema_violations=choice.schema_violations or UNSET,
    )


def _message(choice: Choice, style: AnswerStyle) -> WireMessage:
    calls = choice.tool_calls
    reasoning = (choice.reasoning if style.with_reasoning else "") or UNSET
    return WireMessage(
        role="assistant",
        content=None if calls and not choice.text else choice.text,
        reasoning_content=reasoning,
        reasoning=reasoning,
        tool_calls=[_tool_call(call, style.custom) for call in calls] if calls and not style.legacy else UNSET,
        function_call=_function_call(calls[0]) if calls and style.legacy else UNSET,
    )


def _tool_call(call: ToolCall, custom: frozenset[str]) -> WireToolCall:
    if call.name in custom:
        return WireToolCall(call.id, "custom", custom=WireCustomCall(call.name, input_of(call.arguments)))
    return WireToolCall(call.id, "function", _function_call(call))


def _function_call(call: ToolCall) -> WireFunctionCall:
    return WireFunctionCall(call.name, call.arguments or "{}")
