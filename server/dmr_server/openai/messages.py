"""`messages` of a chat request to neutral messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Union

import msgspec

from dmr.errors import InvalidRequest, Unsupported
from dmr.types import Message, Part, Role, TextPart, ToolCall
from dmr_server.fields import checked

_ROLES: Mapping[str, Role] = {
    "developer": Role.SYSTEM,
    "system": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
    "tool": Role.TOOL,
    "function": Role.TOOL,  # the deprecated twin of "tool"
}

_MEDIA: Mapping[str, str] = {
    "image_url": "images",
    "input_audio": "audio",
    "file": "files",
    "video_url": "video",
    "audio_url": "audio",
}


class WireFunction(msgspec.Struct, frozen=True):
    name: str
    arguments: Union[str, dict[str, Any], None] = None


class WireCustom(msgspec.Struct, frozen=True):
    name: str
    input: str = ""


class WireCall(msgspec.Struct, frozen=True):
    function: Union[WireFunction, None] = None
    custom: Union[WireCustom, None] = None
    id: Union[str, None] = None
    type: Union[str, None] = None


class WireMessage(msgspec.Struct, frozen=True):
    role: str
    content: Union[str, list[dict[str, Any]], None] = None
    name: Union[str, None] = None
    refusal: Union[str, None] = None
    reasoning_content: Union[str, None] = None
    reasoning: Union[str, None] = None
    tool_calls: Union[list[WireCall], None] = None
    tool_call_id: Union[str, None] = None
    function_call: Union[WireFunction, None] = None
    audio: Union[dict[str, Any], None] = None


def read_messages(wire: list[Any]) -> tuple[Message, ...]:
    """The conversation; raises InvalidRequest naming the message at fault, Unsupported for media."""
    if not wire:
        raise InvalidRequest("Invalid value for 'messages': expected at least one message.", param="messages")
    return tuple(_message(value, f"messages[{index}]") for index, value in enumerate(wire))


def _message(value: Any, path: str) -> Message:
    wire = checked(value, WireMessage, path)
    role = _ROLES.get(wire.role)
    if role is None:
        names = ", ".join(_ROLES)
        raise InvalidRequest(f"Invalid value for '{path}.role': expected one of {names}.", param=f"{path}.role")
    if wire.audio is not None:
        raise Unsupported("This model does not take audio.", param=f"{path}.audio")
    if role is Role.ASSISTANT:
        return _assistant(wire, path)
    if wire.content is None:
        raise InvalidRequest(f"Missing required parameter: '{path}.content'.", param=f"{path}.content")
    if wire.role == "tool" and wire.tool_call_id is None:
        raise InvalidRequest(f"Missing required parameter: '{path}.tool_call_id'.", param=f"{path}.tool_call_id")
    return Message(role, _parts(wire.content, path), tool_call_id=wire.tool_call_id, name=wire.name)


def _assistant(wire: WireMessage, path: str) -> Message:
    content = _parts(wire.content, path) if wire.content is not None else ()
    if wire.refusal:
        content = (*content, TextPart(wire.refusal))
    calls = [_call(call, f"{path}.tool_calls[{index}]") for index, call in enumerate(wire.tool_calls or ())]
    if wire.function_call is not None:
        calls.append(_from_function(wire.function_call, wire.function_call.name))
    return Message(
        role=Role.ASSISTANT,
        parts=content,
        reasoning=wire.reasoning_content or wire.reasoning or "",
        tool_calls=tuple(calls),
        name=wire.name,
    )


def _call(wire: WireCall, path: str) -> ToolCall:
    if wire.type == "custom":
        if wire.custom is None:
            raise InvalidRequest(f"Missing required parameter: '{path}.custom'.", param=f"{path}.custom")
        arguments = msgspec.json.encode({"input": wire.custom.input}).decode()
        return ToolCall(wire.id or "", wire.custom.name, arguments)
    if wire.type not in (None, "function"):
        raise Unsupported(f"Tool calls of type '{wire.type}' are not supported.", param=f"{path}.type")
    if wire.function is None:
        raise InvalidRequest(f"Missing required parameter: '{path}.function'.", param=f"{path}.function")
    return _from_function(wire.function, wire.id or "")


def _from_function(wire: WireFunction, call_id: str) -> ToolCall:
    arguments = wire.arguments
    if isinstance(arguments, dict):
        arguments = msgspec.json.encode(arguments).decode()
    return ToolCall(call_id, wire.name, arguments or "{}")


def _parts(content: str | list[dict[str, Any]], path: str) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (TextPart(content),)
    return tuple(_part(part, f"{path}.content[{index}]") for index, part in enumerate(content))


def _part(part: dict[str, Any], path: str) -> Part:
    kind = part.get("type")
    if kind in ("text", "refusal"):
        if part.get(kind) is None:
            raise InvalidRequest(f"Missing required parameter: '{path}.{kind}'.", param=f"{path}.{kind}")
        return TextPart(checked(part[kind], str, f"{path}.{kind}"))
    if isinstance(kind, str) and kind in _MEDIA:
        raise Unsupported(f"This model does not take {_MEDIA[kind]}: it is served for text only.", param=path)
    raise InvalidRequest(
        f"Invalid value for '{path}.type': expected 'text', 'refusal' or a media part.", param=f"{path}.type"
    )
