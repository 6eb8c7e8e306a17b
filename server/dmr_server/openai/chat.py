"""POST /v1/chat/completions: what a request means. Its answers are in `chat_answer` and `chat_stream`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union

from msgspec import UNSET, Meta, UnsetType

from dmr.errors import InvalidRequest, Unsupported
from dmr.types import ChatInput, Completion, GenerateRequest
from dmr_server.dialect import Encoder
from dmr_server.fields import INT32_MAX, normalised, read_sampling
from dmr_server.generation import Stamp
from dmr_server.openai.chat_answer import AnswerStyle, to_chat_completion
from dmr_server.openai.chat_stream import ChatEncoder
from dmr_server.openai.constraints import read_response_format
from dmr_server.openai.fields import given_names, limit_of, read_fields
from dmr_server.openai.messages import read_messages
from dmr_server.openai.thinking import Thinking, ThinkingFields, read_thinking
from dmr_server.openai.tools import ToolSet, read_tools

MaxTokens = Annotated[int, Meta(ge=1, le=INT32_MAX)]


class ChatFields(ThinkingFields, frozen=True, kw_only=True):
    messages: list[Any]
    max_tokens: Union[MaxTokens, UnsetType] = UNSET
    max_completion_tokens: Union[MaxTokens, UnsetType] = UNSET
    logprobs: bool = False
    top_logprobs: Union[Annotated[int, Meta(ge=0, le=20)], UnsetType] = UNSET
    parallel_tool_calls: bool = True
    chat_template: str = ""
    documents: Union[list[dict[str, Any]], UnsetType] = UNSET
    add_generation_prompt: bool = True
    continue_final_message: bool = True
    truncation: Literal["auto", "disabled"] = "disabled"
    echo: bool = False
    modalities: tuple[str, ...] = ()
    audio: Union[dict[str, Any], UnsetType] = UNSET
    service_tier: Union[str, UnsetType] = UNSET


class ChatExchange:
    """One chat completions request and how to answer it."""

    def __init__(self, request: GenerateRequest, stream: bool, style: AnswerStyle) -> None:
        self.request = request
        self.stream = stream
        self._style = style

    def encoder(self) -> Encoder:
        return ChatEncoder(self._style)

    def to_result(self, completion: Completion) -> bytes:
        return to_chat_completion(completion, self._style)


def read_chat(body: Mapping[str, Any], stamp: Stamp) -> ChatExchange:
    """Understand a request body; raises InvalidRequest and Unsupported, naming the field."""
    body = normalised(body)
    fields = read_fields(body, ChatFields)
    _check_supported(fields)
    tools, thinking = read_tools(body), read_thinking(fields)
    sampling, given = read_sampling(body)
    request = GenerateRequest(
        model=fields.model,
        input=_chat_input(fields, tools, thinking),
        sampling=sampling,
        given=given | given_names(body) | ({"thinking"} if thinking.is_given else set()),
        num_choices=fields.n,
        max_tokens=limit_of(fields.max_completion_tokens, fields.max_tokens, fields.n_predict),
        stop=fields.stops,
        num_logprobs=(fields.top_logprobs or 0) if fields.logprobs else None,
        response_format=read_response_format(body),
    )
    style = AnswerStyle(
        stamp=stamp,
        model=fields.model,
        num_choices=fields.n,
        include_usage=fields.include_usage,
        with_logprobs=fields.logprobs,
        with_reasoning=not thinking.hidden,
        legacy=tools.legacy,
        custom=tools.custom,
        service_tier=UNSET if fields.service_tier is UNSET else "default",
    )
    return ChatExchange(request, fields.stream, style)


def _check_supported(fields: ChatFields) -> None:
    if fields.top_logprobs is not UNSET and not fields.logprobs:
        raise InvalidRequest("'top_logprobs' is only allowed when 'logprobs' is true.", param="top_logprobs")
    if fields.audio is not UNSET or "audio" in fields.modalities:
        raise Unsupported("This model does not answer with audio.", param="modalities")
    if fields.echo:
        raise Unsupported("'echo' is not supported here: use /v1/completions.", param="echo")
    if not fields.add_generation_prompt and not fields.continue_final_message:
        name = "add_generation_prompt"
        raise Unsupported(f"'{name}' cannot be false unless the final message is continued.", param=name)


def _chat_input(fields: ChatFields, tools: ToolSet, thinking: Thinking) -> ChatInput:
    arguments = thinking.template_kwargs
    if fields.documents is not UNSET:
        arguments.setdefault("documents", fields.documents)
    return ChatInput(
        messages=read_messages(fields.messages),
        tools=tools.tools,
        tool_choice=tools.choice,
        allowed_tools=tools.allowed,
        parallel_tool_calls=fields.parallel_tool_calls and not tools.legacy,
        enable_thinking=thinking.enabled,
        reasoning_effort=thinking.effort,
        reasoning_budget=thinking.budget,
        template=fields.chat_template,
        template_kwargs=arguments,
        continue_final=fields.continue_final_message,
        truncate=fields.truncation == "auto",
    )
