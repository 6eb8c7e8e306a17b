"""`tools` and `tool_choice` to neutral tools, and back from a call's name to the tool that was offered.

Tools of a namespace are offered to the model under one flat name each. Tools that OpenAI runs itself are left out: an
agent offers them by habit and does without.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Union

import msgspec

from dmr.errors import InvalidRequest, Unsupported
from dmr.types import Tool, ToolChoice
from dmr_server.custom_input import CUSTOM_PARAMETERS
from dmr_server.fields import check_names, check_tools, checked

log = logging.getLogger("dmr.server")


class Offered(msgspec.Struct, frozen=True):
    """How the client knows a tool. `custom` tools take plain text."""

    name: str
    namespace: str | None = None
    custom: bool = False


class ToolSet(msgspec.Struct, frozen=True):
    """The tools of a request, as `ChatInput` wants them; `offered` is by flat name, `told` is for the answer."""

    tools: tuple[Tool, ...] = ()
    offered: Mapping[str, Offered] = {}
    choice: ToolChoice = ToolChoice.AUTO
    allowed: tuple[str, ...] | None = None
    told: Sequence[dict[str, Any]] = ()


class WireFunction(msgspec.Struct, frozen=True):
    name: str
    description: Union[str, None] = None
    parameters: Union[dict[str, Any], None] = None
    strict: Union[bool, None] = None


class WireCustom(msgspec.Struct, frozen=True):
    name: str
    description: Union[str, None] = None
    format: Union[dict[str, Any], None] = None


class WireNamespace(msgspec.Struct, frozen=True):
    name: str
    description: Union[str, None] = None
    tools: list[dict[str, Any]] = []


Found = tuple[Tool, Offered]


def flat_name(name: str, namespace: str | None) -> str:
    """Under what name the model knows a tool."""
    if not namespace:
        return name
    return namespace + name if namespace.endswith("__") else f"{namespace}__{name}"


def read_tools(body: Mapping[str, Any]) -> ToolSet:
    """The tools of a (normalised) body; raises InvalidRequest, and Unsupported for a constraint we cannot keep."""
    listed = checked(body.get("tools", []), list[dict[str, Any]], "tools")
    found = [pair for index, value in enumerate(listed) for pair in _read(value, f"tools[{index}]")]
    tools = tuple(tool for tool, _ in found)
    check_tools(tools, "tools")
    offered = {tool.name: known for tool, known in found}
    choice, allowed = _choose(tools, offered, body.get("tool_choice", "auto"))
    return ToolSet(tools, offered, choice, allowed, [_told(value) for value in listed])


def _read(value: dict[str, Any], path: str) -> Iterator[Found]:
    kind = checked(value.get("type"), str, f"{path}.type")
    if kind == "function":
        yield _function(value.get("function", value), path)
    elif kind == "custom":
        yield _custom(value.get("custom", value), path)
    elif kind == "namespace":
        yield from _namespace(value, path)
    else:
        log.info("the tool '%.60s' is run by nobody here: left out", kind)


def _namespace(value: dict[str, Any], path: str) -> Iterator[Found]:
    space = checked(value, WireNamespace, path)
    for index, inner in enumerate(space.tools):
        for tool, known in _read(inner, f"{path}.tools[{index}]"):
            yield (
                msgspec.structs.replace(
                    tool,
                    name=flat_name(tool.name, space.name),
                    description=tool.description or space.description or "",
                ),
                Offered(known.name, space.name, known.custom),
            )


def _function(value: Any, path: str) -> Found:
    wire = checked(value, WireFunction, path)
    tool = Tool(wire.name, wire.description or "", strict=bool(wire.strict))
    if wire.parameters is not None:
        tool = msgspec.structs.replace(tool, parameters=msgspec.json.encode(wire.parameters).decode())
    return tool, Offered(wire.name)


def _custom(value: Any, path: str) -> Found:
    wire = checked(value, WireCustom, path)
    parameters = dict(CUSTOM_PARAMETERS)
    pattern = _pattern(wire.format or {}, f"{path}.format")
    if pattern is not None:
        parameters["properties"] = {"input": {"type": "string", "pattern": pattern}}
    text = msgspec.json.encode(parameters).decode()
    return Tool(wire.name, wire.description or "", text, strict=True), Offered(wire.name, custom=True)


def _pattern(wanted: dict[str, Any], path: str) -> str | None:
    kind = wanted.get("type", "text")
    if kind == "text":
        return None
    if kind != "grammar":
        raise InvalidRequest(f"Invalid value for '{path}.type': expected 'text' or 'grammar'.", param=f"{path}.type")
    if wanted.get("syntax") != "regex":
        raise Unsupported(
            f"'{path}.syntax' other than 'regex' is not supported: the input could not be held to the grammar.",
            param=f"{path}.syntax",
        )
    definition = checked(wanted.get("definition"), str, f"{path}.definition")
    return "^" + definition.removeprefix("^").removesuffix("$") + "$"


def _told(value: dict[str, Any]) -> dict[str, Any]:
    """A tool as the answer repeats it: what stood one level deeper, as chat completions has it, is lifted."""
    kind = value["type"]
    inner = value.get(kind)
    if isinstance(inner, dict) and kind in ("function", "custom"):
        return {"type": kind, **inner}
    return value


Chosen = tuple[ToolChoice, Union[tuple[str, ...], None]]


def _choose(tools: Sequence[Tool], offered: Mapping[str, Offered], value: Any) -> Chosen:
    if isinstance(value, str):
        return _mode(tools, value), None
    wanted = checked(value, dict[str, Any], "tool_choice")
    kind = wanted.get("type")
    if kind in ("function", "custom"):
        return ToolChoice.REQUIRED, (_named(wanted, tools, offered, "tool_choice"),)
    if kind == "allowed_tools":
        return _allowed(tools, offered, wanted)
    if isinstance(kind, str):
        raise Unsupported(f"A tool of type '{kind[:60]}' cannot be forced: nobody runs it here.", param="tool_choice")
    raise InvalidRequest("Missing required parameter: 'tool_choice.type'.", param="tool_choice.type")


def _mode(tools: Sequence[Tool], value: str) -> ToolChoice:
    try:
        choice = ToolChoice(value)
    except ValueError:
        raise InvalidRequest(
            "Invalid value for 'tool_choice': expected 'none', 'auto', 'required' or an object.", param="tool_choice"
        ) from None
    if choice is ToolChoice.REQUIRED and not tools:
        raise InvalidRequest("'tool_choice' asks for a call, but there are no tools to call.", param="tool_choice")
    return choice


def _named(wanted: dict[str, Any], tools: Sequence[Tool], offered: Mapping[str, Offered], path: str) -> str:
    inner = wanted.get(wanted["type"])  # as chat completions has it
    name = (inner if isinstance(inner, dict) else wanted).get("name")
    name = checked(name, str, f"{path}.name")
    flat = flat_name(name, checked(wanted.get("namespace", ""), str, f"{path}.namespace"))
    if flat not in offered:
        # The inner name alone will do, if only one namespace has it.
        candidates = [full for full, known in offered.items() if known.name == flat]
        flat = candidates[0] if len(candidates) == 1 else flat
    check_names([flat], tools, path)
    return flat


def _allowed(tools: Sequence[Tool], offered: Mapping[str, Offered], value: dict[str, Any]) -> Chosen:
    path = "tool_choice.tools"
    inner = value.get("allowed_tools")  # as chat completions has it
    wanted = inner if isinstance(inner, dict) else value
    mode = wanted.get("mode", "auto")
    if mode not in ("auto", "required"):
        raise InvalidRequest(
            "Invalid value for 'tool_choice.mode': expected 'auto' or 'required'.", param="tool_choice.mode"
        )
    entries = checked(wanted.get("tools"), list[dict[str, Any]], path)
    names = tuple(
        _named(entry, tools, offered, f"{path}[{index}]")
        for index, entry in enumerate(entries)
        if entry.get("type", "function") in ("function", "custom")
        for entry in [{"type": "function", **entry}]
    )
    if mode == "required" and not names:
        raise InvalidRequest("'tool_choice' asks for a call, but allows no tool that is here.", param=path)
    return ToolChoice(mode) if names else ToolChoice.NONE, names
