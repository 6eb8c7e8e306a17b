"""`tools` and `tool_choice` to neutral tools."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from typing import Any, Literal, Union

import msgspec

from dmr.errors import InvalidRequest, Unsupported
from dmr.types import Tool, ToolChoice
from dmr_server.fields import check_names, check_tools, checked

log = logging.getLogger("dmr.server")

# Tools that Anthropic's API defines and names by date, and those that it runs itself.
_BUILT_IN = re.compile(r"[a-z_]+_\d{8}|tool_search_tool_(?:regex|bm25)|mcp_toolset")
_SEARCH = "tool_search_tool_"


class CustomTool(msgspec.Struct, frozen=True):
    name: str
    input_schema: dict[str, Any]
    description: Union[str, None] = None
    strict: Union[bool, None] = None
    defer_loading: Union[bool, None] = None
    allowed_callers: Union[list[str], None] = None


class WireChoice(msgspec.Struct, frozen=True):
    type: Literal["auto", "any", "tool", "none"]
    name: Union[str, None] = None
    disable_parallel_tool_use: Union[bool, None] = None


class ToolSet(msgspec.Struct, frozen=True):
    """The tools that are shown to the model, and which it may or must call."""

    tools: tuple[Tool, ...] = ()
    choice: ToolChoice = ToolChoice.AUTO
    allowed: Union[tuple[str, ...], None] = None
    parallel: bool = True


def read_tools(body: Mapping[str, Any], named: Collection[str]) -> ToolSet:
    """The tools of a request whose conversation names some; raises InvalidRequest, Unsupported."""
    custom, skipped, has_search = _custom_tools(checked(body.get("tools", []), list[Any], "tools"))
    check_tools([_tool(tool) for tool in custom], "tools")
    choice = checked(body["tool_choice"], WireChoice, "tool_choice") if "tool_choice" in body else WireChoice("auto")
    # Without the server's own search nobody could find a deferred tool, so all of them are shown then.
    wanted = {*named, choice.name}
    tools = tuple(_tool(tool) for tool in custom if has_search or not tool.defer_loading or tool.name in wanted)
    allowed = _allowed(choice, tools, skipped)
    return ToolSet(
        tools=tools,
        choice=_MODES[choice.type],
        allowed=allowed,
        parallel=not choice.disable_parallel_tool_use,
    )


_MODES: Mapping[str, ToolChoice] = {
    "auto": ToolChoice.AUTO,
    "any": ToolChoice.REQUIRED,
    "tool": ToolChoice.REQUIRED,
    "none": ToolChoice.NONE,
}


def _custom_tools(listed: list[Any]) -> tuple[list[CustomTool], set[str], bool]:
    """The client's own tools, the names of the others, and whether the server's tool search is among these."""
    custom: list[CustomTool] = []
    skipped: set[str] = set()
    has_search = False
    for index, value in enumerate(listed):
        path = f"tools[{index}]"
        wire = checked(value, dict[str, Any], path)
        kind = checked(wire.get("type") or "custom", str, f"{path}.type")
        if kind != "custom":
            skipped.add(_skip(kind, wire, path))
            has_search = has_search or kind.startswith(_SEARCH)
            continue
        tool = checked(wire, CustomTool, path)
        if tool.input_schema.get("type", "object") != "object":
            name = f"{path}.input_schema.type"
            raise InvalidRequest(f"Invalid value for '{name}': expected 'object'.", param=name)
        if tool.allowed_callers is not None and "direct" not in tool.allowed_callers:
            log.info("the tool '%s' is left out: only code that runs elsewhere may call it", tool.name[:64])
            skipped.add(tool.name)
            continue
        custom.append(tool)
    return custom, skipped, has_search


def _skip(kind: str, wire: dict[str, Any], path: str) -> str:
    """The name of a tool that is not ours to offer; raises InvalidRequest for one that nobody knows."""
    if not _BUILT_IN.fullmatch(kind):
        raise InvalidRequest(
            f"Invalid value for '{path}.type': '{kind[:64]}' is no type of tool; the client's own are 'custom'.",
            param=f"{path}.type",
        )
    log.info("the tool '%s' in %s is left out: only the client's own tools can be offered here", kind[:64], path)
    return str(wire.get("name"))


def _tool(wire: CustomTool) -> Tool:
    schema = msgspec.json.encode(wire.input_schema).decode()
    return Tool(wire.name, wire.description or "", schema, strict=bool(wire.strict))


def _allowed(choice: WireChoice, tools: tuple[Tool, ...], skipped: set[str]) -> tuple[str, ...] | None:
    """The one tool that must be called, if it is one; raises InvalidRequest for a choice that cannot be met."""
    if choice.type == "tool":
        if choice.name is None:
            raise InvalidRequest("Missing required parameter: 'tool_choice.name'.", param="tool_choice.name")
        if choice.name in skipped:
            raise Unsupported(
                f"The tool '{choice.name}' is not available: only the client's own tools are.", param="tool_choice.name"
            )
        check_names([choice.name], tools, "tool_choice.name")
        return (choice.name,)
    if choice.type == "any" and not tools:
        raise InvalidRequest("'tool_choice' asks for a call, but there are no tools to call.", param="tool_choice")
    return None
