"""The fields of a request, and the neutral request that they mean: the same for an answer and for a count."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union

import msgspec
from msgspec import UNSET, Meta, UnsetType

from dmr.errors import InvalidRequest, Unsupported
from dmr.types import ChatInput, GenerateRequest, Message, ResponseFormat, Role
from dmr_server.anthropic.messages import Content, read_conversation
from dmr_server.anthropic.tools import read_tools
from dmr_server.fields import MAX_STOPS, Count, StopString, Unit, checked, normalised, read_sampling

log = logging.getLogger("dmr.server")

# Wishes of beta clients that would change what an answer is: refused rather than overlooked.
_REFUSED: Mapping[str, str] = {
    "thread": "the server keeps no conversations; send all messages",
    "compaction": "the server does not summarise conversations",
}

# Fields that no count depends on.
_NOT_COUNTED = ("max_tokens", "stream", "stop_sequences", "compaction")


class Thinking(msgspec.Struct, frozen=True):
    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: Union[Annotated[int, Meta(ge=1024, le=2**31 - 1)], None] = None
    display: Union[Literal["summarized", "omitted"], None] = None


class OutputFormat(msgspec.Struct, frozen=True):
    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct, frozen=True):
    effort: Union[Literal["low", "medium", "high", "xhigh", "max"], None] = None
    format: Union[OutputFormat, None] = None
    task_budget: Any = None


class MessageFields(msgspec.Struct, frozen=True, kw_only=True):
    """All fields that are read, save for sampling and tools. `output_format` is an older name of what it says."""

    model: str
    messages: list[Any]
    max_tokens: Union[Count, UnsetType] = UNSET
    system: Union[Content, None] = None
    stream: bool = False
    stop_sequences: Annotated[tuple[StopString, ...], Meta(max_length=MAX_STOPS)] = ()
    thinking: Thinking = Thinking("disabled")
    output_config: OutputConfig = OutputConfig()
    output_format: Union[OutputFormat, None] = None
    mcp_servers: list[Any] = []


class ReadRequest(msgspec.Struct, frozen=True):
    fields: MessageFields
    request: GenerateRequest


def read_request(body: Mapping[str, Any]) -> ReadRequest:
    """Understand a body that is to be answered; raises InvalidRequest and Unsupported, naming the field."""
    body = normalised(body)
    fields = _read_fields(body)
    if fields.max_tokens is UNSET:
        raise InvalidRequest("Missing required parameter: 'max_tokens'.", param="max_tokens")
    budget = fields.thinking.budget_tokens
    if budget is not None and fields.thinking.type == "enabled" and budget >= fields.max_tokens:
        name = "thinking.budget_tokens"
        raise InvalidRequest(f"'{name}' must be less than 'max_tokens', which is {fields.max_tokens}.", param=name)
    if body.get("temperature") is not None:
        checked(body["temperature"], Unit, "temperature")  # other dialects go up to 2
    sampling, given = read_sampling(body)
    request = GenerateRequest(
        model=fields.model,
        input=_chat_input(body, fields),
        sampling=sampling,
        given=given | {"max_tokens"} | _given_names(body, fields),
        max_tokens=fields.max_tokens,
        stop=fields.stop_sequences,
        response_format=_response_format(fields),
    )
    return ReadRequest(fields, request)


def read_count(body: Mapping[str, Any]) -> GenerateRequest:
    """Understand a body whose tokens are to be counted: only what makes the prompt matters."""
    body = {name: value for name, value in normalised(body).items() if name not in _NOT_COUNTED}
    fields = _read_fields(body)
    return GenerateRequest(fields.model, _chat_input(body, fields), response_format=_response_format(fields))


def _read_fields(body: Mapping[str, Any]) -> MessageFields:
    for name, reason in _REFUSED.items():
        if name in body:
            raise Unsupported(f"'{name}' is not supported: {reason}.", param=name)
    fields = checked(body, MessageFields)
    if fields.output_config.task_budget is not None:
        name = "output_config.task_budget"
        raise Unsupported(f"'{name}' is not supported: use 'max_tokens'.", param=name)
    if fields.thinking.type == "enabled" and fields.thinking.budget_tokens is None:
        name = "thinking.budget_tokens"
        raise InvalidRequest(f"Missing required parameter: '{name}'.", param=name)
    if fields.mcp_servers:
        log.info("'mcp_servers' are left out: only the client's own tools can be offered here")
    return fields


def _chat_input(body: Mapping[str, Any], fields: MessageFields) -> ChatInput:
    conversation = read_conversation(fields.system, fields.messages)
    tools = read_tools(body, conversation.named_tools)
    thinking = fields.thinking
    return ChatInput(
        messages=conversation.messages,
        tools=tools.tools,
        tool_choice=tools.choice,
        allowed_tools=tools.allowed,
        parallel_tool_calls=tools.parallel,
        enable_thinking=_thinks(thinking, conversation.messages),
        reasoning_effort=fields.output_config.effort,
        reasoning_budget=thinking.budget_tokens if thinking.type == "enabled" else None,
    )


def _given_names(body: Mapping[str, Any], fields: MessageFields) -> set[str]:
    given = {"stop"} if fields.stop_sequences else set()
    return given if body.get("thinking") is None else given | {"thinking"}


def _thinks(thinking: Thinking, messages: tuple[Message, ...]) -> bool:
    if thinking.type != "between_tools":
        return thinking.type != "disabled"
    roles = [message.role for message in messages if message.role is not Role.SYSTEM]
    while roles and roles[-1] is Role.USER:  # what a user says beside the results
        roles.pop()
    return bool(roles) and roles[-1] is Role.TOOL


def _response_format(fields: MessageFields) -> ResponseFormat | None:
    wanted = fields.output_config.format
    if fields.output_format is not None:
        if wanted is not None:
            raise InvalidRequest(
                "'output_format' and 'output_config.format' exclude each other.", param="output_format"
            )
        wanted = fields.output_format
    if wanted is None:
        return None
    # The API promises an answer that follows the schema, and refuses schemas for which it cannot.
    return ResponseFormat(json_schema=msgspec.json.encode(wanted.schema).decode(), strict=True)
