"""One template's prompts, and the grammars that go with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from dmr import _core
from dmr.chat import grammars
from dmr.chat.tools import json_text, messages_json, tools_json
from dmr.errors import Unsupported
from dmr.types import Message, ResponseFormat, Tool, ToolChoice
from dmr.wire import GrammarSpec


class Template(Protocol):
    def render(self, request: _core.ChatRequest) -> _core.ChatPrompt: ...


class Asked(NamedTuple):
    """A request's parts, ready for a template."""

    turns: list[Message]
    shown: tuple[Tool, ...]  # in the prompt, with marks for special texts
    callable: tuple[Tool, ...]  # as they are; empty = no calls
    is_forced: bool
    is_parallel: bool
    response_format: ResponseFormat | None
    kwargs: Mapping[str, str]  # JSON texts
    thinks: bool
    continues: bool = False  # the last turn is an assistant's and goes on
    begun: str = ""  # what it says, without marks


def render(
    template: Template, asked: Asked, tools: Sequence[Tool] = (), *, forced: bool = False, schema: str = ""
) -> _core.ChatPrompt:
    """Raises TemplateError (it refuses), ValueError."""
    request = _core.ChatRequest()
    request.messages = messages_json(asked.turns)
    request.tools = tools_json(tools) if tools else ""
    request.tool_choice = (ToolChoice.REQUIRED if forced else ToolChoice.AUTO).value
    request.parallel_tool_calls = asked.is_parallel
    request.enable_thinking = asked.thinks
    request.continue_final = asked.continues
    request.template_kwargs = {"enable_thinking": json_text(asked.thinks), **asked.kwargs}
    request.json_schema = schema
    return template.render(request)


def grammar_of_calls(template: Template, asked: Asked, prompt: _core.ChatPrompt) -> GrammarSpec:
    """What an answer with tools must look like; `prompt` is rendered with the tools that may be called.

    Forced: calls from the first token. Else free text or, if a form is wanted, text of that form, or calls.
    """
    if not asked.is_forced and asked.response_format is None:
        return grammars.lazy_calls(prompt)
    required = prompt if asked.is_forced else render(template, asked, asked.callable, forced=True)
    calls = grammars.forced_calls(required, asked.is_parallel, asked.begun)
    if asked.is_forced or asked.response_format is None:
        return GrammarSpec(calls, prompt.generation_prompt)
    _, form = prompt_of_form(template, asked, asked.response_format)
    return GrammarSpec(grammars.either(calls, form.text), prompt.generation_prompt)


def prompt_of_form(
    template: Template, asked: Asked, response_format: ResponseFormat
) -> tuple[_core.ChatPrompt, GrammarSpec]:
    """The prompt for an answer of this form, and the grammar: a thought is free, only the answer is bound.

    Raises:
        Unsupported: this template's answers cannot be bound.
    """
    grammar = grammars.grammar_of_format(response_format).text
    prompt = render(template, asked, schema=grammars.PLACEHOLDER_SCHEMA)
    if not prompt.grammar:
        raise Unsupported("The form of this model's answers cannot be enforced.", param="response_format")
    return prompt, GrammarSpec(grammars.answer(prompt, grammar), prompt.generation_prompt)
