"""`messages` of a chat request to neutral messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Union

import msgspec

from dmr.errors import InvalidRequest, Unsupported
from dmr.types import Message, Part, Role, TextPart, ToolCall
from dmr_server.fields import checked
from dmr_server.media import SOUNDS, read_base64, read_source

_ROLES: Mapping[str, Role] = {
    "developer": Role.SYSTEM,
    "system": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
    "tool": Role.TOOL,
    "function": Role.TOOL,  # the deprecated twin of "tool"
}

_ELSEWHERE: Mapping[str, str] = {
    "file": "files are not read here; send a text as text, and a picture as 'image_url'",
    "video_url": "this server does not take video",
}


class MediaUrl(msgspec.Struct, frozen=True):
    url: str
    detail: Union[str, None] = None


class InputAudio(msgspec.Struct, frozen=True):
    data: str
    format: Union[str, None] = None


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
    """The conversation; raises InvalidRequest naming the message at fault, Unsupported for files and video."""
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
        raise Unsupported("Answers with audio are not kept here: leave them out.", param=f"{path}.audio")
    if role is Role.ASSISTANT:
        return _assistant(wire, path)
    if wire.content is None:
        raise InvalidRequest(f"Missing required parameter: '{path}.content'.", param=f"{path}.content")
    if wire.role == "tool" and wire.tool_call_id is None:
        raise InvalidRequest(f"Missing required parameter: '{path}.tool_call_id'.", param=f"{path}.tool_call_id")
    return Message(role, _parts(wire.content, path), tool_call_id=wire.tool_call_id, name=wire.name)


def _assistant(wire: WireMessage, path: str) -> Message:
    content = _parts(wire.content, path) if wire.content is not None else ()
    if not all(isinstance(part, TextPart) for part in content):
        raise Unsupported("What an assistant has said is text only.", param=f"{path}.content")
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
    if kind == "image_url":
        return _image(part, path)
    if kind == "input_audio":
        return _sound(checked(_given(part, kind, path), InputAudio, f"{path}.{kind}"), f"{path}.{kind}")
    if kind == "audio_url":
        url = checked(_given(part, kind, path), MediaUrl, f"{path}.{kind}").url
        return read_source(url, "audio", f"{path}.{kind}.url")
    if isinstance(kind, str) and kind in _ELSEWHERE:
        raise Unsupported(f"Invalid value for '{path}': {_ELSEWHERE[kind]}.", param=path)
    raise InvalidRequest(
        f"Invalid value for '{path}.type': expected 'text', 'image_url', 'input_audio' or 'refusal'.",
        param=f"{path}.type",
    )


def _image(part: dict[str, Any], path: str) -> Part:
    """The address is in an object; many send it alone."""
    value = _given(part, "image_url", path)
    if isinstance(value, str):
        value = {"url": value, "detail": part.get("detail")}
    image = checked(value, MediaUrl, f"{path}.image_url")
    return read_source(image.url, "image", f"{path}.image_url.url", image.detail)


def _sound(sound: InputAudio, path: str) -> Part:
    if sound.format is not None and sound.format not in SOUNDS:
        raise InvalidRequest(
            f"Invalid value for '{path}.format': expected one of {', '.join(SOUNDS)}.", param=f"{path}.format"
        )
    if sound.data[:5].lower() == "data:":
        return read_source(sound.data, "audio", f"{path}.data")
    return read_base64(sound.data, "audio", f"{path}.data")


def _given(part: dict[str, Any], name: str, path: str) -> Any:
    value = part.get(name)
    if value is None:
        raise InvalidRequest(f"Missing required parameter: '{path}.{name}'.", param=f"{path}.{name}")
    return value
