"""POST /v1/chat/completions: the request, and the whole answer. The streamed one is in `chat_stream`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union

import msgspec
from msgspec import UNSET, Meta, UnsetType

from dmr.errors import InvalidRequest, Unsupported
from dmr.types import ChatInput, Choice, Completion, FinishReason, GenerateRequest, ToolCall
from dmr_server.dialect import Encoder
from dmr_server.fields import INT32_MAX, normalised, read_sampling
from dmr_server.generation import Stamp
from dmr_server.openai.chat_stream import ChatEncoder
from dmr_server.openai.constraints import read_response_format
from dmr_server.openai.fields import CommonFields, read_fields
from dmr_server.openai.logprobs import ChatLogprobs, to_chat_logprobs
from dmr_server.openai.messages import read_messages
from dmr_server.openai.tools import ToolSet, read_tools
from dmr_server.openai.wire import WireUsage, to_usage

MaxTokens = Annotated[int, Meta(ge=1, le=INT32_MAX)]


class ChatFields(CommonFields, frozen=True, kw_only=True):
    messages: list[Any]
    max_tokens: Union[MaxTokens, UnsetType] = UNSET
    max_completion_tokens: Union[MaxTokens, UnsetType] = UNSET
    logprobs: bool = False
    top_logprobs: Union[Annotated[int, Meta(ge=0, le=20)], UnsetType] = UNSET
    parallel_tool_calls: bool = True
    reasoning_effort: Union[Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"], UnsetType] = UNSET
    chat_template_kwargs: Union[dict[str, Any], UnsetType] = UNSET
    modalities: tuple[str, ...] = ()
    audio: Union[dict[str, Any], UnsetType] = UNSET
    service_tier: Union[str, UnsetType] = UNSET


class ChatExchange:
    """One chat completions request and how to answer it."""

    def __init__(self, fields: ChatFields, request: GenerateRequest, tools: ToolSet, stamp: Stamp) -> None:
        self.request = request
        self.stream = fields.stream
        self._fields = fields
        self._legacy = tools.legacy
        self._stamp = stamp

    @property
    def service_tier(self) -> str | UnsetType:
        return UNSET if self._fields.service_tier is UNSET else "default"

    def encoder(self) -> Encoder:
        return ChatEncoder(
            stamp=self._stamp,
            model=self._fields.model,
            num_choices=self._fields.n,
            include_usage=self._fields.include_usage,
            with_logprobs=self._fields.logprobs,
            legacy=self._legacy,
            service_tier=self.service_tier,
        )

    def to_result(self, completion: Completion) -> bytes:
        return msgspec.json.encode(
            ChatCompletion(
                id=self._stamp.id,
                created=self._stamp.created,
                model=self._fields.model,
                choices=[self._choice(choice) for choice in completion.choices],
                usage=to_usage(completion.usage),
                service_tier=self.service_tier,
            )
        )

    def _choice(self, choice: Choice) -> WireChoice:
        legacy = self._legacy and choice.finish_reason is FinishReason.TOOL_CALLS
        return WireChoice(
            index=choice.index,
            message=_message(choice, self._legacy),
            finish_reason="function_call" if legacy else choice.finish_reason.value,
            logprobs=to_chat_logprobs(choice.logprobs) if self._fields.logprobs else None,
        )


def read_chat(body: Mapping[str, Any], stamp: Stamp) -> ChatExchange:
    """Understand a request body; raises InvalidRequest and Unsupported, naming the field."""
    body = normalised(body)
    fields = read_fields(body, ChatFields)
    if fields.top_logprobs is not UNSET and not fields.logprobs:
        raise InvalidRequest("'top_logprobs' is only allowed when 'logprobs' is true.", param="top_logprobs")
    if fields.audio is not UNSET or "audio" in fields.modalities:
        raise Unsupported("This model does not answer with audio.", param="modalities")
    tools = read_tools(body)
    sampling, given = read_sampling(body)
    request = GenerateRequest(
        model=fields.model,
        input=_chat_input(fields, tools),
        sampling=sampling,
        given=given | fields.given,
        num_choices=fields.n,
        max_tokens=_max_tokens(fields),
        stop=fields.stops,
        num_logprobs=(fields.top_logprobs or 0) if fields.logprobs else None,
        response_format=read_response_format(body),
    )
    return ChatExchange(fields, request, tools, stamp)


def _max_tokens(fields: ChatFields) -> int | None:
    limit = fields.max_tokens if fields.max_completion_tokens is UNSET else fields.max_completion_tokens
    return None if limit is UNSET else limit


def _chat_input(fields: ChatFields, tools: ToolSet) -> ChatInput:
    arguments = dict(fields.chat_template_kwargs or {})
    thinking = fields.reasoning_effort != "none"
    if fields.reasoning_effort is not UNSET:
        arguments.setdefault("reasoning_effort", fields.reasoning_effort)
    if "enable_thinking" in arguments:
        thinking = arguments.pop("enable_thinking")
        if not isinstance(thinking, bool):
            name = "chat_template_kwargs.enable_thinking"
            raise InvalidRequest(f"Invalid value for '{name}': expected bool.", param=name)
    return ChatInput(
        messages=read_messages(fields.messages),
        tools=tools.tools,
        tool_choice=tools.choice,
        parallel_tool_calls=fields.parallel_tool_calls and not tools.legacy,
        enable_thinking=thinking,
        template_kwargs=arguments,
    )


# --- the whole answer ------------------------------------------------------------------------------------------------


class WireFunctionCall(msgspec.Struct, frozen=True):
    name: str
    arguments: str


class WireToolCall(msgspec.Struct, frozen=True):
    id: str
    type: str
    function: WireFunctionCall


class WireMessage(msgspec.Struct, frozen=True):
    role: str
    content: Union[str, None]
    refusal: None = None
    reasoning_content: Union[str, UnsetType] = UNSET
    tool_calls: Union[list[WireToolCall], UnsetType] = UNSET
    function_call: Union[WireFunctionCall, UnsetType] = UNSET


class WireChoice(msgspec.Struct, frozen=True):
    index: int
    message: WireMessage
    finish_reason: str
    logprobs: Union[ChatLogprobs, None]


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: str = "chat.completion"
    created: int
    model: str
    choices: list[WireChoice]
    usage: WireUsage
    service_tier: Union[str, UnsetType] = UNSET


def _message(choice: Choice, legacy: bool) -> WireMessage:
    calls = choice.tool_calls
    return WireMessage(
        role="assistant",
        content=None if calls and not choice.text else choice.text,
        reasoning_content=choice.reasoning or UNSET,
        tool_calls=[_tool_call(call) for call in calls] if calls and not legacy else UNSET,
        function_call=_function_call(calls[0]) if calls and legacy else UNSET,
    )


def _tool_call(call: ToolCall) -> WireToolCall:
    return WireToolCall(call.id, "function", _function_call(call))


def _function_call(call: ToolCall) -> WireFunctionCall:
    return WireFunctionCall(call.name, call.arguments)
