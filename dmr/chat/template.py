"""A conversation, its tools and the wanted form of the answer, rendered by the model's own chat template."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import msgspec

from dmr import _core
from dmr.chat import generic_tools
from dmr.chat.grammars import grammar_of_format as grammar_of_format
from dmr.chat.grammars import has_text_before_calls
from dmr.chat.literals import Literals, has_foreign_marks, put_back, special_texts, with_whole_marks
from dmr.chat.messages import beginning_with_user, normalise, with_short_ids, without_system
from dmr.chat.prompt import RenderedPrompt
from dmr.chat.rendering import Asked, Template, grammar_of_calls, prompt_of_form, render
from dmr.chat.sandboxed_template import SandboxedTemplate
from dmr.chat.thinking import is_thought_open, thought_budget, thought_limit
from dmr.chat.tools import callable_tools, json_text
from dmr.errors import InvalidRequest, Unsupported
from dmr.types import ChatInput, Message, ResponseFormat, Role, TextPart, ToolChoice
from dmr.wire import EngineInfo, GrammarSpec

_REFUSALS = (_core.TemplateError, ValueError, OverflowError, RecursionError)
_Rendered = TypeVar("_Rendered")
_PROBE = Message(Role.USER, (TextPart("Hello"),))
# What a template may want of the turns, the least change first.
_CHANGES: tuple[Callable[[list[Message]], list[Message]], ...] = (
    lambda turns: turns,
    beginning_with_user,
    with_short_ids,
    lambda turns: beginning_with_user(without_system(turns)),
    lambda turns: with_short_ids(beginning_with_user(without_system(turns))),
)


class _Result(NamedTuple):
    prompt: _core.ChatPrompt  # what is sent
    answer: _core.ChatPrompt  # what the answer is read by
    grammar: GrammarSpec | None


class PromptTemplate:
    """The template of one model. Immutable; any thread."""

    def __init__(self, info: EngineInfo) -> None:
        """Raises InvalidRequest when the model's template cannot be parsed."""
        try:
            if has_foreign_marks(info.chat_template, ()):
                raise ValueError("the template holds U+FDD0 or U+FDD1, which are no characters")
            self._template = SandboxedTemplate(info.chat_template, info.bos, info.eos, info.adds_bos)
        except (_core.TemplateError, ValueError) as error:
            raise InvalidRequest(f"This model cannot chat: {error}.", param="model") from error
        self._info = info
        self._special = special_texts(info.control_tokens)
        capabilities = self._template.capabilities
        self._has_system_role = capabilities.get("supports_system_role", True)
        self._knows_effort = capabilities.get("supports_reasoning_effort", False)
        self.supports_tools = capabilities.get("supports_tools", False)
        self.supports_thinking, self._switches_thinking = _thinking_of(self._template)

    def render(self, chat: ChatInput, response_format: ResponseFormat | None) -> RenderedPrompt:
        """The prompt, and all that is needed to constrain and to read the answer.

        Raises:
            InvalidRequest: the template refuses this conversation, or the form of the answer cannot be enforced.
            Unsupported: the form of the answer and the tools do not go together.
        """
        if chat.template:
            own = _template_of_request(msgspec.structs.replace(self._info, chat_template=chat.template))
            return own.render(msgspec.structs.replace(chat, template=""), response_format)
        literals = Literals(self._special)
        budget = thought_budget(chat, self._knows_effort)
        asked = self._asked(chat, response_format, literals, budget)
        try:
            result = self._rendered(asked)
        except _REFUSALS as error:
            param = "tools" if asked.shown and "JSON Schema" in str(error) else "messages"
            raise InvalidRequest(f"{put_back(str(error), literals.texts)}.", param=param) from error
        if not asked.thinks and not self._switches_thinking:
            budget = 0
        prompt = _finished(result, literals.texts, parses_calls=bool(asked.callable), budget=budget)
        only_calls = asked.is_forced and bool(asked.callable) and not asked.continues
        return dataclasses.replace(prompt, only_calls=only_calls)

    def _asked(
        self, chat: ChatInput, response_format: ResponseFormat | None, literals: Literals, budget: int | None
    ) -> Asked:
        allowed = callable_tools(chat)
        if response_format is not None:
            grammar_of_format(response_format)  # so that a schema's fault is not blamed on the messages
            if allowed and response_format.grammar:
                raise Unsupported("A grammar cannot be combined with tools.", param="grammar")
        kwargs = {key: json_text(literals.value(value)) for key, value in chat.template_kwargs.items()}
        if chat.reasoning_effort is not None:
            kwargs.setdefault("reasoning_effort", json_text(literals.text(chat.reasoning_effort)))
        turns = [literals.message(turn) for turn in normalise(chat.messages)]
        last = turns[-1]
        continues = chat.continue_final and last.role is Role.ASSISTANT and not last.tool_calls
        return Asked(
            turns=turns,
            shown=tuple(literals.tool(tool) for tool in chat.tools) if allowed else (),
            callable=allowed,
            is_forced=chat.tool_choice is ToolChoice.REQUIRED,
            is_parallel=chat.parallel_tool_calls and not _names_one_tool(chat),
            response_format=response_format,
            kwargs=kwargs,
            thinks=chat.template_kwargs.get("enable_thinking", chat.enable_thinking and budget != 0) is not False,
            continues=continues,
            begun=put_back(last.text, literals.texts) if continues else "",
        )

    def _rendered(self, asked: Asked) -> _Result:
        if asked.callable and self.supports_tools:
            result = self._with_own_tools(asked)
            if result is not None:
                return result
        if asked.callable:
            return self._with_generic_tools(asked)
        if not self.supports_tools and any(turn.tool_calls for turn in asked.turns):
            asked = asked._replace(turns=generic_tools.rewritten(asked.turns, ()))
        form = asked.response_format
        if form is None:
            _, prompt = self._fitting(asked, lambda fitting: render(self._template, fitting))
            return _Result(prompt, prompt, None)
        _, (prompt, grammar) = self._fitting(asked, lambda fitting: prompt_of_form(self._template, fitting, form))
        return _Result(prompt, prompt, grammar)

    def _with_own_tools(self, asked: Asked) -> _Result | None:
        """None when llama-common does not know how this template's calls are written."""
        forced = asked.is_forced
        asked, prompt = self._fitting(asked, lambda a: render(self._template, a, a.shown, forced=forced))
        if not prompt.grammar:
            return None
        if forced and asked.continues and not has_text_before_calls(prompt):
            return self._with_own_tools(asked._replace(continues=False, begun=""))
        answer = prompt
        if asked.shown != asked.callable:
            answer = render(self._template, asked, asked.callable, forced=forced)
        return _Result(prompt, answer, grammar_of_calls(self._template, asked, answer))

    def _with_generic_tools(self, asked: Asked) -> _Result:
        """The model's own template for the prompt, ours for the answer."""
        written = asked._replace(turns=generic_tools.rewritten(asked.turns, asked.shown))
        _, prompt = self._fitting(written, lambda fitting: render(self._template, fitting))
        ends = prompt.thought_ends
        template = _generic_template(prompt.thought_start.strip(), ends[0].strip() if ends else "")
        reading = asked._replace(
            turns=[_PROBE, *(asked.turns[-1:] if asked.continues else ())],
            kwargs={"thought_is_open": json_text(is_thought_open(prompt))},
            thinks=True,
            # A model that was never taught calls repeats a forced one until it is stopped.
            is_parallel=asked.is_parallel and not asked.is_forced,
        )
        answer = render(template, reading, asked.callable, forced=asked.is_forced)
        return _Result(prompt, answer, grammar_of_calls(template, reading, answer))

    def _fitting(self, asked: Asked, use: Callable[[Asked], _Rendered]) -> tuple[Asked, _Rendered]:
        """Turns that the template takes: as they are, else a little more as the strictest ones want them."""
        turns = asked.turns if self._has_system_role else without_system(asked.turns)
        first_error: _core.TemplateError | None = None
        for change in _CHANGES:
            candidate = asked._replace(turns=change(turns))
            try:
                return candidate, use(candidate)
            except _core.TemplateError as error:
                first_error = first_error or error
        assert first_error is not None
        raise first_error


def _finished(result: _Result, literals: tuple[str, ...], *, parses_calls: bool, budget: int | None) -> RenderedPrompt:
    prompt, answer, grammar = result
    if grammar is not None and literals:
        grammar = msgspec.structs.replace(grammar, prefill=put_back(grammar.prefill, literals))
    text = with_whole_marks(prompt.text, literals)
    if has_foreign_marks(text, literals):  # written by an escape of the template's language, or taken apart by it
        raise InvalidRequest("The template writes U+FDD0 or U+FDD1, which are no characters.", param="messages")
    return RenderedPrompt(
        text=text,
        literals=literals,
        grammar=grammar,
        preserved_tokens=tuple(dict.fromkeys((*prompt.preserved_tokens, *answer.preserved_tokens))),
        stop=tuple(prompt.stop),
        thought_limit=thought_limit(prompt, budget),
        answer=answer,
        parses_tool_calls=parses_calls,
    )


def _thinking_of(template: Template) -> tuple[bool, bool]:
    """Whether a template knows thoughts, and whether it can do without them."""
    asked = Asked([_PROBE], (), (), False, False, None, {}, thinks=True)
    try:
        thinking, silent = render(template, asked), render(template, asked._replace(thinks=False))
    except _REFUSALS:
        return False, False
    return thinking.supports_thinking, thinking.text != silent.text


@functools.lru_cache(maxsize=8)
def _template_of_request(info: EngineInfo) -> PromptTemplate:
    try:
        return PromptTemplate(info)
    except InvalidRequest as error:
        reason = str(error.__cause__ or error.message)
        raise InvalidRequest(f"The template of this request cannot be used: {reason}.", param="template") from error


@functools.lru_cache(maxsize=8)
def _generic_template(thought_start: str, thought_end: str) -> _core.ChatTemplate:
    return _core.ChatTemplate(generic_tools.template_source(thought_start, thought_end))


def _names_one_tool(chat: ChatInput) -> bool:
    """Who asks for one tool by its name wants one call of it."""
    return chat.tool_choice is ToolChoice.REQUIRED and chat.allowed_tools is not None and len(chat.allowed_tools) == 1
