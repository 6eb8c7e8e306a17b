"""Which tools a request shows, and which of them may be called."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from dmr.errors import InvalidRequest
from dmr.types import ChatInput, Message, Tool, ToolCall, ToolChoice


def callable_tools(chat: ChatInput) -> tuple[Tool, ...]:
    """The tools that may be called; empty = none, and then none is shown either.

    Raises:
        InvalidRequest: a call is wanted of no tool or of one that is not offered, or two tools have one name.
    """
    _check_names(chat.tools)
    if chat.tool_choice is ToolChoice.NONE:
        return ()
    allowed = chat.tools
    if chat.allowed_tools is not None:
        offered = {tool.name for tool in chat.tools}
        for name in chat.allowed_tools:
            if name not in offered:
                raise InvalidRequest(f"The tool '{name}' is not among the tools.", param="tool_choice")
        allowed = tuple(tool for tool in chat.tools if tool.name in chat.allowed_tools)
    if chat.tool_choice is ToolChoice.REQUIRED and not allowed:
        raise InvalidRequest("A tool call is required, but there is no tool that may be called.", param="tool_choice")
    return tuple(_as_enforced(tool) for tool in allowed)


def tools_json(tools: Iterable[Tool]) -> str:
    return json_text([_tool(tool) for tool in tools])


def messages_json(messages: Iterable[Message]) -> str:
    return json_text([_message(message) for message in messages])


def json_text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _as_enforced(tool: Tool) -> Tool:
    """With the parameters that the grammar is made of; the prompt shows the client's own."""
    return Tool(tool.name, tool.description, tool.enforced, tool.strict) if tool.enforced else tool


def _check_names(tools: Sequence[Tool]) -> None:
    """Tools are told apart by the names of their grammar rules, which know letters, digits and hyphens."""
    names: dict[str, str] = {}
    for tool in tools:
        if not tool.name:
            raise InvalidRequest("A tool has no name.", param="tools")
        rule = re.sub(r"[^a-zA-Z0-9-]+", "-", tool.name)
        if rule in names:
            raise InvalidRequest(f"The tools '{names[rule]}' and '{tool.name}' cannot be told apart.", param="tools")
        names[rule] = tool.name


def _message(message: Message) -> dict[str, Any]:
    encoded: dict[str, Any] = {"role": message.role.value, "content": message.text}
    if message.reasoning:
        encoded["reasoning_content"] = message.reasoning
    if message.tool_calls:
        encoded["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": _arguments(call)}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        encoded["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        encoded["name"] = message.name
    return encoded


def _arguments(call: ToolCall) -> str:
    """An object in any case: a call that broke off, and came back with the history, must not end the conversation."""
    try:
        is_object = isinstance(msgspec.json.decode(call.arguments or "{}"), dict)
    except (msgspec.DecodeError, RecursionError):
        is_object = False
    return (call.arguments or "{}") if is_object else json_text({"text": call.arguments})


def _tool(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": msgspec.Raw(tool.parameters.encode())}
    return {"type": "function", "function": function}
