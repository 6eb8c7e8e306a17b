"""Conversations and models for the tests of the chat room."""

from __future__ import annotations

from collections.abc import Sequence

from dmr.types import Message, Role, TextPart, Tool, ToolCall
from dmr.wire import EngineInfo

WEATHER = Tool(
    "get_weather",
    "The weather.",
    '{"type":"object","properties":{"city":{"type":"string"},"days":{"type":"integer"}},"required":["city"]}',
)
TIME = Tool("get_time", "The time.")
TOOLS = (WEATHER, TIME)
CONTROL_TOKENS = ("<|im_start|>", "<|im_end|>", "<|im_end|>x", "</s>", "<tool_call>", '<|"|>')


def system(*texts: str) -> Message:
    return _message(Role.SYSTEM, texts)


def user(*texts: str) -> Message:
    return _message(Role.USER, texts)


def assistant(*texts: str, calls: Sequence[ToolCall] = (), reasoning: str = "") -> Message:
    return Message(Role.ASSISTANT, tuple(map(TextPart, texts)), reasoning=reasoning, tool_calls=tuple(calls))


def call(id: str, name: str = "get_time", arguments: str = "{}") -> ToolCall:
    return ToolCall(id, name, arguments)


def result(id: str | None, text: str = "12:00", name: str | None = None) -> Message:
    return Message(Role.TOOL, (TextPart(text),), tool_call_id=id, name=name)


def info_of(template: str, control_tokens: tuple[str, ...] = CONTROL_TOKENS) -> EngineInfo:
    return EngineInfo("tiny", 512, template, "<s>", "</s>", False, control_tokens=control_tokens)


def _message(role: Role, texts: tuple[str, ...]) -> Message:
    return Message(role, tuple(map(TextPart, texts)))
