"""What the chat room asks of an answer holds whatever the model would rather say: noise, forced into each form."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import structs
from native.objects import generate_text, make_sampler
from unit.chat import templates
from unit.chat.conversations import TIME, assistant, info_of, user

from dmr import _core
from dmr.chat.template import PromptTemplate
from dmr.types import (
    ChatInput,
    Choice,
    Completed,
    Event,
    Finished,
    FinishReason,
    ResponseFormat,
    Tool,
    ToolChoice,
    Usage,
    collect,
)
from dmr.wire import GrammarSpec

FORM = ResponseFormat(
    json_schema='{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"],"additionalProperties":false}'
)
SOURCES = {name: getattr(templates, name) for name in dir(templates) if name.isupper()}
# No texts in it: a small model that is held to a text goes on for ever.
WEATHER = Tool(
    "get_weather", "The weather.", '{"type":"object","properties":{"days":{"type":"integer"}},"required":["days"]}'
)
TOOLS = (WEATHER, TIME)
FORCED = ChatInput((user("hello"),), tools=TOOLS, tool_choice=ToolChoice.REQUIRED)


def answered(
    model: _core.Model,
    source: str,
    chat: ChatInput,
    form: ResponseFormat | None,
    seed: int = 1,
    temperature: float = 0.0,
) -> Choice:
    """What the model says to this, taken apart. A thought has four tokens."""
    rendered = PromptTemplate(info_of(source)).render(structs.replace(chat, reasoning_budget=4), form)
    assert rendered.grammar is not None
    fields = {**grammar_fields(rendered.grammar), "seed": seed, "temperature": 0.5}
    if limit := rendered.thought_limit:
        fields |= {"thought_budget": limit.budget, "thought_start": limit.start, "thought_end": limit.end}
        fields["thought_is_open"] = limit.is_open
    text, ended = generate_text(model, rendered.plain_text()[-60:], make_sampler(model, **fields), max_tokens=480)
    parser = rendered.parser(0)
    events: list[Event] = [event for letter in text for event in parser.feed(letter)] + parser.finish()
    choice = collect([*events, Finished(0, FinishReason.STOP), Completed(Usage())]).choices[0]
    assert ended, f"this never ended: {text}"
    return choice


def grammar_fields(grammar: GrammarSpec) -> dict[str, Any]:
    assert not grammar.lazy
    return {"grammar": grammar.text, "grammar_prefill": grammar.prefill}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("seed", range(3))
def test_required_is_a_call_and_nothing_else(script_model: _core.Model, source: str, seed: int) -> None:
    choice = answered(script_model, SOURCES[source], FORCED, None, seed)
    assert choice.text.strip() == ""
    assert 1 <= len(choice.tool_calls) <= 64
    for call in choice.tool_calls:
        assert call.name in ("get_weather", "get_time")
        assert isinstance(json.loads(call.arguments), dict)


@pytest.mark.parametrize("source", SOURCES)
def test_required_and_not_parallel_is_one_call_of_an_allowed_tool(script_model: _core.Model, source: str) -> None:
    for name in ("get_weather", "get_time"):
        chat = ChatInput((user("hello"),), TOOLS, ToolChoice.REQUIRED, allowed_tools=(name,), parallel_tool_calls=False)
        choice = answered(script_model, SOURCES[source], chat, None)
        assert [call.name for call in choice.tool_calls] == [name]
        assert choice.text.strip() == ""


@pytest.mark.parametrize("source", SOURCES)
def test_schema_binds_the_answer_and_not_the_thought(script_model: _core.Model, source: str) -> None:
    choice = answered(script_model, SOURCES[source], ChatInput((user("hello"),)), FORM)
    assert isinstance(json.loads(choice.text)["n"], int)


@pytest.mark.parametrize("source", SOURCES)
def test_grammar_of_the_client_binds_the_answer(script_model: _core.Model, source: str) -> None:
    form = ResponseFormat(grammar='root ::= yes | "n" [o]  # not "maybe"\nyes ::= "yes"')
    choice = answered(script_model, SOURCES[source], ChatInput((user("hello"),)), form)
    assert choice.text.strip() in ("yes", "no")


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("seed", range(3))
def test_schema_with_tools_gives_the_one_or_the_other(script_model: _core.Model, source: str, seed: int) -> None:
    chat = ChatInput((user("hello"),), tools=TOOLS)
    choice = answered(script_model, SOURCES[source], chat, FORM, seed)
    if choice.tool_calls:
        assert choice.text.strip() == ""
    else:
        assert isinstance(json.loads(choice.text)["n"], int)


@pytest.mark.parametrize("source", SOURCES)
def test_answer_that_was_begun_goes_on_in_its_form(script_model: _core.Model, source: str) -> None:
    chat = ChatInput((user("hello"), assistant('{"n"')))
    choice = answered(script_model, SOURCES[source], chat, FORM)
    assert isinstance(json.loads('{"n"' + choice.text)["n"], int)


@pytest.mark.parametrize("source", SOURCES)
def test_call_after_text_that_was_begun(script_model: _core.Model, source: str) -> None:
    chat = ChatInput((user("hello"), assistant("Let me see.")), TOOLS, ToolChoice.REQUIRED, parallel_tool_calls=False)
    choice = answered(script_model, SOURCES[source], chat, None)
    assert len(choice.tool_calls) == 1
    assert choice.text.strip() == ""


@pytest.mark.parametrize("source", SOURCES)
def test_call_of_its_own_accord_ends_the_turn(script_model: _core.Model, source: str) -> None:
    rendered = PromptTemplate(info_of(SOURCES[source])).render(ChatInput((user("hello"),), tools=TOOLS), None)
    assert rendered.grammar is not None
    kinds = {"word": _core.TriggerKind.WORD, "pattern": _core.TriggerKind.PATTERN}
    triggers = [_core.GrammarTrigger(kinds[kind], value) for kind, value in rendered.grammar.triggers]
    sampler = make_sampler(
        script_model, grammar=rendered.grammar.text, grammar_lazy=True, grammar_triggers=triggers, temperature=0.0
    )
    prompt = "<|im_start|>system\nget_weather<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    text, ended = generate_text(script_model, prompt, sampler)
    assert ended
    assert text.startswith("<tool_call>")
    if source in ("CHATML", "STRICT"):  # the model speaks the generic form, and no thought stands before it
        parser = rendered.parser(0)
        parser.feed(text)
        parser.finish()
        assert parser.has_tool_calls
        assert parser.text == ""
