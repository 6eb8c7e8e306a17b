"""`tools`, `tool_choice` and their deprecated twins `functions`, `function_call` to neutral tools.

A custom tool, which takes plain text, is offered to the model as a function with the one argument `input`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Union

import msgspec

from dmr.errors import InvalidRequest, Unsupported
from dmr.types import Tool, ToolChoice
from dmr_server.custom_input import CUSTOM_PARAMETERS
from dmr_server.fields import check_names, check_tools, checked

_CUSTOM_PARAMETERS = msgspec.json.encode(CUSTOM_PARAMETERS).decode()


class WireFunction(msgspec.Struct, frozen=True):
    name: str
    description: Union[str, None] = None
    parameters: Union[dict[str, Any], None] = None
    strict: Union[bool, None] = None


class WireCustom(msgspec.Struct, frozen=True):
    name: str
    description: Union[str, None] = None
    format: Union[dict[str, Any], None] = None


class ToolSet(msgspec.Struct, frozen=True):
    """The tools of a request, as `ChatInput` wants them. `legacy` = asked for as `functions`."""

    tools: tuple[Tool, ...] = ()
    choice: ToolChoice = ToolChoice.AUTO
    allowed: tuple[str, ...] | None = None
    legacy: bool = False
    custom: frozenset[str] = frozenset()  # names of the tools that take plain text


Chosen = tuple[ToolChoice, Union[tuple[str, ...], None]]


def read_tools(body: dict[str, Any]) -> ToolSet:
    """The tools of a request; raises InvalidRequest, Unsupported for tools that are run elsewhere."""
    if "functions" in body and "tools" not in body:
        functions = checked(body["functions"], list[Any], "functions")
        tools = [_function(value, f"functions[{index}]") for index, value in enumerate(functions)]
        check_tools(tools, "functions")
        choice, allowed = _choose_function(tools, body.get("function_call"))
        return ToolSet(tuple(tools), choice, allowed, legacy=True)
    listed = checked(body.get("tools", []), list[Any], "tools")
    tools, custom = [], set()
    for index, value in enumerate(listed):
        tool, is_custom = _tool(value, f"tools[{index}]")
        tools.append(tool)
        if is_custom:
            custom.add(tool.name)
    check_tools(tools, "tools")
    choice, allowed = _choose(tools, body.get("tool_choice"))
    return ToolSet(tuple(tools), choice, allowed, custom=frozenset(custom))


def _tool(value: Any, path: str) -> tuple[Tool, bool]:
    wire = checked(value, dict[str, Any], path)
    kind = checked(wire.get("type"), str, f"{path}.type")
    if kind == "function":
        return _function(wire.get("function"), f"{path}.function"), False
    if kind == "custom":
        return _custom(wire.get("custom"), f"{path}.custom"), True
    raise Unsupported(f"Tools of type '{kind}' are not supported, only 'function' and 'custom'.", param=f"{path}.type")


def _function(value: Any, path: str) -> Tool:
    wire = checked(value, WireFunction, path)
    _check_name(wire.name, path)
    tool = Tool(wire.name, wire.description or "", strict=bool(wire.strict))
    if wire.parameters is None:
        return tool
    return msgspec.structs.replace(tool, parameters=msgspec.json.encode(wire.parameters).decode())


def _custom(value: Any, path: str) -> Tool:
    wire = checked(value, WireCustom, path)
    _check_name(wire.name, path)
    kind = (wire.format or {}).get("type", "text")
    if kind != "text":
        raise Unsupported(f"'{path}.format' other than 'text' is not supported.", param=f"{path}.format")
    return Tool(wire.name, wire.description or "", _CUSTOM_PARAMETERS, strict=True)


def _check_name(name: str, path: str) -> None:
    if not name or len(name) > 256 or not name.isprintable():
        raise InvalidRequest(f"Invalid value for '{path}.name': expected a printable name.", param=f"{path}.name")


def _choose(tools: Sequence[Tool], value: Any) -> Chosen:
    if value is None:
        return ToolChoice.AUTO, None
    if isinstance(value, str):
        return _mode(tools, value), None
    wanted = checked(value, dict[str, Any], "tool_choice")
    kind = wanted.get("type")
    if kind in ("function", "custom"):
        name = _named(wanted, "tool_choice")
        check_names([name], tools, "tool_choice")
        return ToolChoice.REQUIRED, (name,)
    if kind == "allowed_tools":
        return _allowed(tools, checked(wanted.get("allowed_tools"), dict[str, Any], "tool_choice.allowed_tools"))
    raise InvalidRequest(
        "Invalid value for 'tool_choice.type': expected 'function', 'custom' or 'allowed_tools'.",
        param="tool_choice.type",
    )


def _mode(tools: Sequence[Tool], value: str) -> ToolChoice:
    try:
        choice = ToolChoice(value)
    except ValueError:
        raise InvalidRequest(
            "Invalid value for 'tool_choice': expected 'none', 'auto', 'required' or an object.", param="tool_choice"
        ) from None
    if choice is ToolChoice.REQUIRED and not tools:
        raise InvalidRequest("'tool_choice' asks for a call, but there are no tools.", param="tool_choice")
    return choice


def _named(wanted: dict[str, Any], path: str) -> str:
    kind = "custom" if wanted.get("type") == "custom" else "function"
    inner = checked(wanted.get(kind), dict[str, Any], f"{path}.{kind}")
    return checked(inner.get("name"), str, f"{path}.{kind}.name")


def _allowed(tools: Sequence[Tool], wanted: dict[str, Any]) -> Chosen:
    path = "tool_choice.allowed_tools"
    mode = wanted.get("mode")
    if mode not in ("auto", "required"):
        raise InvalidRequest(f"Invalid value for '{path}.mode': expected 'auto' or 'required'.", param=f"{path}.mode")
    entries = checked(wanted.get("tools"), list[dict[str, Any]], f"{path}.tools")
    names = tuple(_named(entry, f"{path}.tools[{index}]") for index, entry in enumerate(entries))
    check_names(names, tools, path)
    if mode == "required" and not names:
        raise InvalidRequest(f"'{path}' asks for a call, but allows no tool.", param=path)
    return ToolChoice(mode) if names else ToolChoice.NONE, names


def _choose_function(tools: Sequence[Tool], value: Any) -> Chosen:
    if value is None or value == "auto":
        return ToolChoice.AUTO, None
    if value == "none":
        return ToolChoice.NONE, None
    wanted = checked(value, dict[str, Any], "function_call")
    name = checked(wanted.get("name"), str, "function_call.name")
    check_names([name], tools, "function_call")
    return ToolChoice.REQUIRED, (name,)
