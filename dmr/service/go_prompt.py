"""A conversation as a Go template writes it. Templates of this kind come with models made elsewhere."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date
from typing import Any, NamedTuple

import msgspec

from dmr.chat.literals import Literals, special_texts
from dmr.chat.prompt import RenderedPrompt
from dmr.chat.template import PromptTemplate
from dmr.errors import InvalidRequest
from dmr.go_template import Budget, GoTemplate, GoTemplateError
from dmr.types import ChatInput, Message, ResponseFormat, Role, Tool
from dmr.wire import EngineInfo

_MESSAGES = re.compile(r"\.Messages\b")
_TOOLS = re.compile(r"\.Tools\b")
# What only Go's actions have: a keyword, a field of the dot, a variable. Jinja's dots stand right behind a value.
_GO_ACTION = re.compile(
    r"\{\{-?\s*(?:(?:if|range|with|else|end|define|template|block)\b|/\*|[^{}]*(?<![\w\])}\"'])[.$])"
)


class _Round(NamedTuple):
    """What older templates know of a conversation: one exchange at a time."""

    system: str = ""
    prompt: str = ""
    response: str = ""


def is_go(template: str) -> bool:
    """Most Jinja templates have a statement, and where there is none Go's actions are known by their words."""
    return "{%" not in template and _GO_ACTION.search(template) is not None


def render(
    template: PromptTemplate, info: EngineInfo, chat: ChatInput, response_format: ResponseFormat | None
) -> RenderedPrompt:
    """The prompt by the Go template in `chat.template`; how the answer is read is what the model's own template says.

    A Go template that has no place for tools is passed over where there are some: they would be lost.

    Raises:
        InvalidRequest, Unsupported
    """
    own = msgspec.structs.replace(chat, template="")
    prompt = template.render(own, response_format)
    if prompt.parses_tool_calls and not _TOOLS.search(chat.template):
        return prompt
    literals = Literals(special_texts(info.control_tokens))
    turns = [literals.message(turn) for turn in chat.messages]
    tools = [literals.tool(tool) for tool in chat.tools] if prompt.parses_tool_calls else []
    try:
        source = _parsed(chat.template)
        if _MESSAGES.search(chat.template):
            text = source.render(_values(chat, turns, tools), date.today())
        else:
            text = "".join(_rounds_of(source, chat, turns, tools))
    except GoTemplateError as error:
        raise InvalidRequest(f"The model's template does not fit: {error.message}", param="template") from error
    return replace(prompt, text=text, literals=literals.texts)


@functools.lru_cache(maxsize=32)
def _parsed(text: str) -> GoTemplate:
    return GoTemplate(text)


def _rounds_of(source: GoTemplate, chat: ChatInput, turns: Sequence[Message], tools: Sequence[Tool]) -> Iterator[str]:
    values = _values(chat, turns, tools)
    *past, last = _to_rounds(turns)
    budget = Budget()
    for each in past:
        of_round = {"System": each.system, "Prompt": each.prompt, "Response": each.response}
        yield source.render({**values, **of_round}, date.today(), budget)
    # The text ends where the answer is to come; what the model has said of it already follows there.
    of_round = {"System": last.system, "Prompt": last.prompt, "Response": ""}
    yield source.render({**values, **of_round}, date.today(), budget)
    yield last.response


def _to_rounds(turns: Sequence[Message]) -> Iterator[_Round]:
    system: list[str] = []
    prompt: list[str] = []
    response: list[str] = []

    def ended() -> _Round:
        made = _Round(*("\n\n".join(texts) for texts in (system, prompt, response)))
        for texts in (system, prompt, response):
            texts.clear()
        return made

    for turn in turns:
        said = {Role.SYSTEM: system, Role.ASSISTANT: response}.get(turn.role, prompt)
        if (response and said is not response) or (prompt and said is system):
            yield ended()
        said += [turn.text] if turn.text else []
    yield ended()


def _values(chat: ChatInput, turns: Sequence[Message], tools: Sequence[Tool]) -> dict[str, Any]:
    system = "\n\n".join(turn.text for turn in turns if turn.role is Role.SYSTEM)
    users = [turn.text for turn in turns if turn.role is Role.USER]
    return {
        "System": system,
        "Prompt": users[-1] if users else "",
        "Suffix": "",
        "Response": "",
        "Messages": [_message(turn) for turn in turns],
        "Tools": [_tool(tool) for tool in tools],
        "Think": chat.enable_thinking,
        "ThinkLevel": chat.reasoning_effort or "",
        "IsThinkSet": True,
    }


def _message(turn: Message) -> dict[str, Any]:
    calls = [
        {"id": call.id, "function": {"name": call.name, "arguments": _value(call.arguments)}}
        for call in turn.tool_calls
    ]
    return {
        "role": turn.role.value,
        "content": turn.text,
        "thinking": turn.reasoning,
        "tool_calls": calls,
        "tool_name": turn.name or "",
        "tool_call_id": turn.tool_call_id or "",
    }


def _tool(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": _value(tool.parameters)}
    return {"type": "function", "function": function}


def _value(text: str) -> Any:
    """Arguments are an object to templates; what is no JSON stays the text that it is."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
