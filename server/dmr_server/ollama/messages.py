"""Messages and tools of a chat request."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from typing import Any, Union

import msgspec

from dmr.errors import InvalidRequest
from dmr.types import Message, Part, Role, Tool, ToolCall
from dmr_server.fields import check_tools, checked
from dmr_server.ollama.images import place_images, read_images

_ROLES: Mapping[str, Role] = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
    "tool": Role.TOOL,
}


class WireFunction(msgspec.Struct, frozen=True):
    name: str
    arguments: Union[dict[str, Any], str, None] = None


class WireCall(msgspec.Struct, frozen=True):
    function: WireFunction
    id: Union[str, None] = None


class WireTurn(msgspec.Struct, frozen=True):
    role: str
    content: Union[str, None] = None
    thinking: Union[str, None] = None
    images: Any = None
    tool_calls: Union[list[WireCall], None] = None
    tool_name: Union[str, None] = None
    tool_call_id: Union[str, None] = None


class WireToolFunction(msgspec.Struct, frozen=True):
    name: str
    description: Union[str, None] = None
    parameters: Union[dict[str, Any], None] = None


class WireTool(msgspec.Struct, frozen=True):
    function: WireToolFunction
    type: Union[str, None] = None


def read_messages(value: Any) -> tuple[Message, ...]:
    """The conversation; raises InvalidRequest.

    Calls and results without an id get one, so that templates can tell which result belongs to which call: a result
    belongs to the first call before it that has no result yet and, if the result names its tool, has that name.
    """
    turns = checked([] if value is None else value, list[WireTurn], "messages")
    pending = _Pending()
    messages = []
    for index, turn in enumerate(turns):
        path = f"messages[{index}]"
        role = _ROLES.get(turn.role.lower())
        if role is None:
            raise InvalidRequest(f"Invalid value for '{path}.role': '{turn.role[:40]}' is no role.", param=path)
        parts = place_images(turn.content or "", read_images(turn.images, f"{path}.images"))
        calls = _read_calls(turn, index, path)
        pending.add(calls)
        messages.append(_message(turn, role, parts, calls, pending))
    return tuple(messages)


def _message(
    turn: WireTurn, role: Role, parts: tuple[Part, ...], calls: tuple[ToolCall, ...], pending: _Pending
) -> Message:
    call_id, name = turn.tool_call_id, turn.tool_name
    if role is Role.TOOL:
        call_id, name = turn.tool_call_id or None, turn.tool_name or None
        call = pending.take(call_id, name)
        if call is not None:
            call_id, name = call.id, name or call.name
    return Message(
        role=role,
        parts=parts,
        reasoning=turn.thinking or "",
        tool_calls=calls,
        tool_call_id=call_id,
        name=name,
    )


class _Pending:
    """Calls that have no result yet, in order. Each is looked at a few times at most, however many there are."""

    def __init__(self) -> None:
        self._calls: dict[int, ToolCall] = {}  # by their numbers
        self._num_added = 0
        # Numbers in order; some of them may be pending no more.
        self._all: deque[int] = deque()
        self._by_id: defaultdict[str, deque[int]] = defaultdict(deque)
        self._by_name: defaultdict[str, deque[int]] = defaultdict(deque)

    def add(self, calls: Iterable[ToolCall]) -> None:
        for call in calls:
            number = self._num_added
            self._num_added += 1
            self._calls[number] = call
            for numbers in (self._all, self._by_id[call.id], self._by_name[call.name]):
                numbers.append(number)

    def take(self, call_id: str | None, name: str | None) -> ToolCall | None:
        """The first that has this id or, without an id, this name if there is one; it is pending no more."""
        numbers = self._by_id[call_id] if call_id else self._by_name[name] if name else self._all
        while numbers:
            call = self._calls.pop(numbers.popleft(), None)
            if call is not None:
                return call
        return None


def _read_calls(turn: WireTurn, index: int, path: str) -> tuple[ToolCall, ...]:
    return tuple(
        ToolCall(
            id=call.id or f"call_{index}_{place}",
            name=call.function.name,
            arguments=_arguments(call.function.arguments, f"{path}.tool_calls[{place}].function.arguments"),
        )
        for place, call in enumerate(turn.tool_calls or ())
    )


def _arguments(value: dict[str, Any] | str | None, path: str) -> str:
    """JSON text of an object. Some clients send it as text already."""
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value or "{}", type=dict[str, Any])
        except (msgspec.MsgspecError, RecursionError):
            raise InvalidRequest(f"Invalid value for '{path}': expected an object.", param=path) from None
    return msgspec.json.encode(value or {}).decode()


def read_tools(value: Any) -> tuple[Tool, ...]:
    """The tools that are offered; raises InvalidRequest. Their schemas are kept whole."""
    wire = checked([] if value is None else value, list[WireTool], "tools")
    for index, tool in enumerate(wire):
        if tool.type not in (None, "", "function"):
            path = f"tools[{index}].type"
            raise InvalidRequest(f"Invalid value for '{path}': expected 'function'.", param=path)
    tools = tuple(_tool(each.function) for each in wire)
    check_tools(tools, "tools")
    return tools


def _tool(function: WireToolFunction) -> Tool:
    if not function.parameters:
        return Tool(function.name, function.description or "")
    return Tool(function.name, function.description or "", msgspec.json.encode(function.parameters).decode())
