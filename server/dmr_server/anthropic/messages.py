"""`system` and `messages` of a request to neutral messages."""

from __future__ import annotations

import logging
import re
from typing import Any, Literal, Union

import msgspec

from dmr.errors import InvalidRequest, Unsupported
from dmr.types import Message, Part, Role, TextPart, ToolCall
from dmr_server.anthropic.content import kind_of, read_part, read_text_blocks, to_parts, unexpected
from dmr_server.anthropic.signature import thinking_in
from dmr_server.anthropic.wire import from_wire_id
from dmr_server.fields import checked
from dmr_server.unpacking import Unpacker

log = logging.getLogger("dmr.server")

Content = Union[str, list[Any]]

# Claude Code writes this line first, with a value that may change at each request: left in, no two prompts would begin
# alike and nothing could be taken from the cache.
_BILLING_LINE = re.compile(r"\A\s*x-anthropic-billing-header:[^\n]*(?:\n+|\Z)", re.IGNORECASE)
FAILED = TextPart("The tool failed: ")


class WireMessage(msgspec.Struct, frozen=True):
    role: str
    content: Union[Content, None] = None
    clear_at: Union[Literal["next_user_message", "never"], None] = None
    output_config: Union[dict[str, Any], None] = None


class ThinkingBlock(msgspec.Struct, frozen=True):
    thinking: str = ""
    signature: Union[str, None] = None


class ToolUseBlock(msgspec.Struct, frozen=True):
    id: str
    name: str
    input: dict[str, Any]


class ToolResultBlock(msgspec.Struct, frozen=True):
    tool_use_id: str
    content: Union[Content, None] = None
    is_error: Union[bool, None] = None


class ToolReference(msgspec.Struct, frozen=True):
    tool_name: str


class Conversation(msgspec.Struct, frozen=True):
    """`named_tools` are those that the conversation has called or referred to."""

    messages: tuple[Message, ...]
    named_tools: frozenset[str]


def read_conversation(system: Content | None, wire: list[Any]) -> Conversation:
    """The system prompt and all turns; raises InvalidRequest and Unsupported, naming the block at fault."""
    if not wire:
        raise InvalidRequest("Invalid value for 'messages': expected at least one message.", param="messages")
    turns = [checked(value, WireMessage, f"messages[{index}]") for index, value in enumerate(wire)]
    return _Reader().read(system, turns)


class _Reader:
    """Remembers from turn to turn what tools are called."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}  # call id -> tool
        self._named: set[str] = set()
        self._unpacker = Unpacker()

    def read(self, system: Content | None, turns: list[WireMessage]) -> Conversation:
        messages = _system_prompt(system)
        last_user = max((index for index, turn in enumerate(turns) if turn.role == "user"), default=-1)
        for index, turn in enumerate(turns):
            if turn.clear_at == "next_user_message" and index < last_user:
                continue
            messages += self._turn(turn, f"messages[{index}]")
        return Conversation(tuple(messages), frozenset(self._named))

    def _turn(self, turn: WireMessage, path: str) -> list[Message]:
        if turn.role == "system":
            return _late_system(turn, path)
        if turn.role not in ("user", "assistant"):
            raise InvalidRequest(
                f"Invalid value for '{path}.role': expected 'user', 'assistant' or 'system'.", param=f"{path}.role"
            )
        if turn.content is None:
            raise InvalidRequest(f"Missing required parameter: '{path}.content'.", param=f"{path}.content")
        if isinstance(turn.content, str):
            return [Message(Role(turn.role), to_parts(turn.content))]
        if turn.role == "user":
            return self._user(turn.content, f"{path}.content")
        return [self._assistant(turn.content, f"{path}.content")]

    def _user(self, blocks: list[Any], path: str) -> list[Message]:
        results: list[Message] = []
        parts: list[Part] = []
        for index, block in enumerate(blocks):
            place = f"{path}[{index}]"
            if kind_of(block, place) == "tool_result":
                results.append(self._tool_result(checked(block, ToolResultBlock, place), f"{place}.content"))
            else:
                parts += read_part(block, place)
        # Results first, as templates want them: right after the calls.
        return results if results and not parts else [*results, Message(Role.USER, tuple(parts))]

    def _tool_result(self, block: ToolResultBlock, path: str) -> Message:
        call_id = from_wire_id(block.tool_use_id)
        return Message(
            role=Role.TOOL,
            parts=((FAILED,) if block.is_error else ()) + self._result_parts(block.content or "", path),
            tool_call_id=call_id,
            name=self._names.get(call_id),
        )

    def _result_parts(self, content: Content, path: str) -> tuple[Part, ...]:
        if isinstance(content, str):
            return to_parts(content)
        parts: list[Part] = []
        for index, block in enumerate(content):
            place = f"{path}[{index}]"
            if kind_of(block, place) == "tool_reference":
                name = checked(block, ToolReference, place).tool_name
                self._named.add(name)
                parts.append(TextPart(f"The tool '{name}' can be called now.\n"))
            else:
                parts += read_part(block, place)
        return tuple(parts)

    def _assistant(self, blocks: list[Any], path: str) -> Message:
        parts: list[Part] = []
        thoughts: list[str] = []
        calls: list[ToolCall] = []
        for index, block in enumerate(blocks):
            place = f"{path}[{index}]"
            kind = kind_of(block, place)
            if kind == "text":
                parts += read_part(block, place)
            elif kind == "thinking":
                thought = checked(block, ThinkingBlock, place)
                thoughts.append(thought.thinking or thinking_in(thought.signature or "", self._unpacker))
            elif kind == "tool_use":
                calls.append(self._tool_use(checked(block, ToolUseBlock, place)))
            else:
                self._skip(kind, block, place)
        return Message(Role.ASSISTANT, tuple(parts), "".join(thoughts), tuple(calls))

    def _tool_use(self, block: ToolUseBlock) -> ToolCall:
        call_id = from_wire_id(block.id)
        self._names[call_id] = block.name
        self._named.add(block.name)
        return ToolCall(call_id, block.name, msgspec.json.encode(block.input).decode())

    def _skip(self, kind: str, block: dict[str, Any], path: str) -> None:
        """What another server did for the model in a turn is not shown; only the tools that it found are noted."""
        if kind not in ("redacted_thinking", "server_tool_use", "mcp_tool_use", "mcp_tool_listing", "fallback"):
            if not kind.endswith("_tool_result"):
                raise unexpected(kind, path)
            content = block.get("content")
            found = content.get("tool_references") if isinstance(content, dict) else None
            for index, reference in enumerate(found if isinstance(found, list) else ()):
                place = f"{path}.content.tool_references[{index}]"
                self._named.add(checked(reference, ToolReference, place).tool_name)
        if kind != "redacted_thinking":
            log.info("'%s' in %s is left out: only the client's own tools are known here", kind[:64], path)


def _system_prompt(system: Content | None) -> list[Message]:
    parts = read_text_blocks(system or "", "system")
    texts = (_BILLING_LINE.sub("", part.text) for part in parts)
    parts = tuple(TextPart(text) for text in texts if text)
    return [Message(Role.SYSTEM, parts)] if parts else []


def _late_system(turn: WireMessage, path: str) -> list[Message]:
    if turn.output_config:
        name = f"{path}.output_config"
        raise Unsupported(f"'{name}' is not supported: set 'output_config' for the whole request.", param=name)
    parts = read_text_blocks(turn.content or "", f"{path}.content")
    return [Message(Role.SYSTEM, parts)] if parts else []
