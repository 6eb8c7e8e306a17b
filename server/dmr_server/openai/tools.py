"""`tools`, `tool_choice` and their deprecated twins `functions`, `function_call` to neutral tools."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Union

import msgspec

from dmr.errors import InvalidRequest, Unsupported
from dmr.types import Tool, ToolChoice
from dmr_server.fields import checked

MAX_TOOLS = 1024


class WireFunction(msgspec.Struct, frozen=True):
    name: str
    description: Union[str, None] = None
    parameters: Union[dict[str, Any], None] = None


class ToolSet(msgspec.Struct, frozen=True):
    """The tools that the model may call, and whether it must. `legacy` = asked for as `functions`."""

    tools: tuple[Tool, ...] = ()
    choice: ToolChoice = ToolChoice.AUTO
    legacy: bool = False


def read_tools(body: dict[str, Any]) -> ToolSet:
    """The tools of a request; raises InvalidRequest, Unsupported for tools that are no functions."""
    if "functions" in body and "tools" not in body:
        functions = checked(body["functions"], list[Any], "functions")
        tools = [_function(value, f"functions[{index}]") for index, value in enumerate(functions)]
        _check(tools, "functions")
        chosen, choice = _choose_function(tools, body.get("function_call"))
        return ToolSet(chosen, choice, legacy=True)
    listed = checked(body.get("tools", []), list[Any], "tools")
    tools = [_tool(value, f"tools[{index}]") for index, value in enumerate(listed)]
    _check(tools, "tools")
    chosen, choice = _choose(tools, body.get("tool_choice"))
    return ToolSet(chosen, choice)


def _tool(value: Any, path: str) -> Tool:
    wire = checked(value, dict[str, Any], path)
    kind = checked(wire.get("type"), str, f"{path}.type")
    if kind != "function":
        raise Unsupported(f"Tools of type '{kind}' are not supported, only functions.", param=f"{path}.type")
    return _function(wire.get("function"), f"{path}.function")


def _function(value: Any, path: str) -> Tool:
    wire = checked(value, WireFunction, path)
    if not wire.name or len(wire.name) > 256 or not wire.name.isprintable():
        raise InvalidRequest(f"Invalid value for '{path}.name': expected a printable name.", param=f"{path}.name")
    if wire.parameters is None:
        return Tool(wire.name, wire.description or "")
    return Tool(wire.name, wire.description or "", msgspec.json.encode(wire.parameters).decode())


def _check(tools: list[Tool], param: str) -> None:
    if len(tools) > MAX_TOOLS:
        raise InvalidRequest(f"Invalid value for '{param}': expected at most {MAX_TOOLS}.", param=param)
    seen: set[str] = set()
    for tool in tools:
        if tool.name in seen:
            raise InvalidRequest(f"Invalid value for '{param}': '{tool.name}' is there twice.", param=param)
        seen.add(tool.name)


def _choose(tools: list[Tool], value: Any) -> tuple[tuple[Tool, ...], ToolChoice]:
    if value is None:
        return tuple(tools), ToolChoice.AUTO
    if isinstance(value, str):
        return _mode(tools, value, "tool_choice")
    wanted = checked(value, dict[str, Any], "tool_choice")
    kind = wanted.get("type")
    if kind == "function":
        return _only(tools, [_named(wanted, "tool_choice")], "tool_choice"), ToolChoice.REQUIRED
    if kind == "allowed_tools":
        return _allowed(tools, checked(wanted.get("allowed_tools"), dict[str, Any], "tool_choice.allowed_tools"))
    if kind == "custom":
        raise Unsupported("Tools of type 'custom' are not supported, only functions.", param="tool_choice.type")
    raise InvalidRequest(
        "Invalid value for 'tool_choice.type': expected 'function' or 'allowed_tools'.", param="tool_choice.type"
    )


def _mode(tools: list[Tool], value: str, param: str) -> tuple[tuple[Tool, ...], ToolChoice]:
    try:
        choice = ToolChoice(value)
    except ValueError:
        raise InvalidRequest(
            f"Invalid value for '{param}': expected 'none', 'auto', 'required' or an object.", param=param
        ) from None
    if choice is ToolChoice.REQUIRED and not tools:
        raise InvalidRequest(f"'{param}' asks for a call, but there are no tools.", param=param)
    return tuple(tools), choice


def _named(wanted: dict[str, Any], path: str) -> str:
    function = checked(wanted.get("function"), dict[str, Any], f"{path}.function")
    return checked(function.get("name"), str, f"{path}.function.name")


def _only(tools: list[Tool], names: Iterable[str], param: str) -> tuple[Tool, ...]:
    by_name = {tool.name: tool for tool in tools}
    for name in names:
        if name not in by_name:
            raise InvalidRequest(f"'{param}' names '{name}', which is not among the tools.", param=param)
    wanted = set(names)
    return tuple(tool for tool in tools if tool.name in wanted)


def _allowed(tools: list[Tool], wanted: dict[str, Any]) -> tuple[tuple[Tool, ...], ToolChoice]:
    path = "tool_choice.allowed_tools"
    mode = wanted.get("mode")
    if mode not in ("auto", "required"):
        raise InvalidRequest(f"Invalid value for '{path}.mode': expected 'auto' or 'required'.", param=f"{path}.mode")
    entries = checked(wanted.get("tools"), list[dict[str, Any]], f"{path}.tools")
    names = [_named(entry, f"{path}.tools[{index}]") for index, entry in enumerate(entries)]
    chosen = _only(tools, names, path)
    if mode == "required" and not chosen:
        raise InvalidRequest(f"'{path}' asks for a call, but allows no tool.", param=path)
    return chosen, ToolChoice(mode)


def _choose_function(tools: list[Tool], value: Any) -> tuple[tuple[Tool, ...], ToolChoice]:
    if value is None or value == "auto":
        return tuple(tools), ToolChoice.AUTO
    if value == "none":
        return tuple(tools), ToolChoice.NONE
    wanted = checked(value, dict[str, Any], "function_call")
    name = checked(wanted.get("name"), str, "function_call.name")
    return _only(tools, [name], "function_call"), ToolChoice.REQUIRED
