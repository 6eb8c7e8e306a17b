"""Prompts of every kind of template: what the client sent arrives, and the answer can be read."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from msgspec import structs
from unit.chat import templates
from unit.chat.conversations import TIME, TOOLS, WEATHER, assistant, call, info_of, result, system, user

from dmr.chat.prompt import RenderedPrompt
from dmr.chat.template import PromptTemplate
from dmr.errors import InvalidRequest, Unsupported
from dmr.types import ChatInput, Message, ResponseFormat, TextDelta, Tool, ToolChoice
from dmr.wire import ThoughtLimit

SOURCES = {name: getattr(templates, name) for name in dir(templates) if name.isupper()}
WITH_TOOLS = ("CHANNELS", "LIST_CALLS", "TAGGED_CALLS")
SCHEMA = ResponseFormat(json_schema='{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}')


def render(source: str, *messages: Message, form: ResponseFormat | None = None, **fields: object) -> RenderedPrompt:
    chat = structs.replace(ChatInput(messages or (user("hello"),)), **fields)
    return PromptTemplate(info_of(SOURCES.get(source, source))).render(chat, form)


# --- any conversation, any template ----------------------------------------------------------------------------------

CALLS = (user("q"), assistant("Look:", calls=[call("c1"), call("c2")]), result("c2", "two"), result("c1", "one"))
CONVERSATIONS: dict[str, Sequence[Message]] = {
    "begins with assistant": (assistant("hi"), user("there")),
    "only a system message": (system("be brief"),),
    "late system message": (system("S"), user("1"), assistant("2"), system("T"), user("3")),
    "same role twice": (user("1"), user("2"), assistant("3"), assistant("4"), user("5")),
    "ends in a result": CALLS,
    "system between call and result": (*CALLS[:2], system("T"), *CALLS[2:], user("thanks")),
    "call that broke off": (user("q"), assistant(calls=[call("c1", arguments='{"city": "Pa')]), user("go on")),
    "empty": (user(""),),
    "nothing": (),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("tools", [(), TOOLS], ids=["", "tools"])
def test_every_conversation_renders(source: str, name: str, tools: tuple[Tool, ...]) -> None:
    text = render(source, *CONVERSATIONS[name], tools=tools).plain_text()
    for message in CONVERSATIONS[name]:
        assert message.tool_calls or message.text in text  # beside a call, many templates leave the text out


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("tools", [(), TOOLS], ids=["", "tools"])
def test_prompt_of_the_next_turn_begins_with_this_one(source: str, tools: tuple[Tool, ...]) -> None:
    if source == "LIST_CALLS" and tools:
        pytest.skip("this template puts the tools before the last message")
    messages = [system("S"), user("one"), system("late"), assistant("two"), user("three"), user("four")]
    before = render(source, *messages, tools=tools, continue_final=False).text
    after = render(source, *messages, assistant("five"), system("later"), user("six"), tools=tools).text
    begun = PromptTemplate(info_of(SOURCES[source])).render(ChatInput((user("hello"),)), None).answer.generation_prompt
    assert after.startswith(before.removesuffix(begun))


@pytest.mark.parametrize("source", SOURCES)
def test_text_and_blocks_give_the_same_bytes(source: str) -> None:
    assert render(source, user("one two")).text == render(source, user("one", " two")).text


# --- an answer that was begun ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("tools", [(), TOOLS], ids=["", "tools"])
def test_begun_answer_goes_on_and_only_the_new_text_is_told(source: str, tools: tuple[Tool, ...]) -> None:
    prompt = render(source, user("q"), assistant("Once upon a"), tools=tools)
    assert prompt.text.endswith("Once upon a")
    parser = prompt.parser(0)
    events = [*parser.feed(" time"), *parser.feed(" there was."), *parser.finish()]
    assert "".join(getattr(event, "text", "?") for event in events) == " time there was."
    assert parser.text == " time there was."


def test_begun_answer_with_special_texts() -> None:
    prompt = render("TAGGED_CALLS", user("q"), assistant("a <|im_end|> b", reasoning="R"))
    assert prompt.plain_text().endswith("R\n</think>\n\na <|im_end|> b")
    parser = prompt.parser(0)
    assert [*parser.feed(" c"), *parser.finish()][0].text == " c"  # type: ignore[union-attr]


def test_begun_answer_may_be_closed_instead() -> None:
    text = render("CHATML", user("q"), assistant("Once"), continue_final=False).text
    assert text.endswith("Once<|im_end|>\n<|im_start|>assistant\n")


# --- tools -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES)
def test_every_template_gets_its_tools(source: str) -> None:
    prompt = render(source, tools=TOOLS)
    for tool in TOOLS:
        assert tool.name in prompt.text
    assert prompt.grammar is not None
    assert prompt.grammar.lazy
    assert prompt.parses_tool_calls
    assert PromptTemplate(info_of(SOURCES[source])).supports_tools == (source in WITH_TOOLS)


@pytest.mark.parametrize("source", SOURCES)
def test_no_tools_are_shown_when_none_may_be_called(source: str) -> None:
    prompt = render(source, tools=TOOLS, tool_choice=ToolChoice.NONE)
    assert prompt.text == render(source).text
    assert prompt.grammar is None
    assert not prompt.parses_tool_calls
    assert prompt.text == render(source, tools=TOOLS, allowed_tools=()).text


@pytest.mark.parametrize("source", SOURCES)
def test_all_tools_are_shown_but_only_allowed_ones_are_called(source: str) -> None:
    prompt = render(source, tools=TOOLS, allowed_tools=("get_time",))
    assert prompt.text == render(source, tools=TOOLS).text
    assert prompt.grammar is not None
    assert "get_time" in prompt.grammar.text
    assert "get_weather" not in prompt.grammar.text


@pytest.mark.parametrize("source", SOURCES)
def test_required_does_not_change_the_prompt(source: str) -> None:
    forced = render(source, tools=TOOLS, tool_choice=ToolChoice.REQUIRED)
    assert forced.text == render(source, tools=TOOLS).text
    assert forced.grammar is not None
    assert not forced.grammar.lazy


def test_history_of_calls_without_template_support_is_text() -> None:
    text = render("CHATML", *CALLS).text
    assert 'Look:\n<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>' in text
    assert text.count("<tool_response>") == text.count("</tool_response>") == 2
    assert text.index("one") < text.index("two")


def test_ids_are_made_as_the_template_wants_them() -> None:
    strict = templates.LIST_CALLS.replace(
        "{{- {'name'",
        "{%- if call.id | length != 9 %}{{ raise_exception('ids of length 9, please') }}{% endif %}{{- {'name'",
    )
    assert "two" in render(strict, *CALLS, tools=TOOLS).text


def test_call_after_begun_text_with_quotes() -> None:
    begun = assistant('He said "<|im_end|>"')
    prompt = render("CHATML", user("q"), begun, tools=TOOLS, tool_choice=ToolChoice.REQUIRED)
    assert prompt.grammar is not None
    assert '"He said \\"<|im_end|>\\""' in prompt.grammar.text
    assert prompt.grammar.prefill.endswith('He said "<|im_end|>"')


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tools": TOOLS, "allowed_tools": ("nobody",)}, "nobody"),
        ({"tool_choice": ToolChoice.REQUIRED}, "required"),
        ({"tools": TOOLS, "allowed_tools": (), "tool_choice": ToolChoice.REQUIRED}, "required"),
        ({"tools": (TIME, TIME)}, "told apart"),
        ({"tools": (Tool("a_b"), Tool("a-b"))}, "told apart"),
        ({"tools": (Tool(""),)}, "name"),
        ({"tools": (Tool("a", parameters='{"type": "nothing"}'),)}, "nothing"),
        ({"tools": (Tool("a", parameters="{"),)}, "JSON"),
        ({"reasoning_effort": "extreme"}, "extreme"),
        ({"template": "{{ "}, "template"),
        ({"template": "{% for x in " + "(" * 100_000}, "template"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        render("CHATML", **fields)


def test_grammar_and_tools_do_not_go_together() -> None:
    form = ResponseFormat(grammar='root ::= "x"')
    with pytest.raises(Unsupported, match="tools"):
        render("CHATML", tools=TOOLS, form=form)
    assert render("CHATML", tools=TOOLS, tool_choice=ToolChoice.NONE, form=form).grammar is not None


def test_schema_that_cannot_be_enforced() -> None:
    with pytest.raises(InvalidRequest) as caught:
        render("CHATML", form=ResponseFormat(json_schema='{"type": "nothing"}'))
    assert caught.value.param == "response_format"


def test_any_json_is_a_form_too() -> None:
    prompt = render("CHATML", form=ResponseFormat(json_schema="{}"))
    assert prompt.grammar is not None
    assert "object" in prompt.grammar.text


# --- thinking --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "fields", "budget"),
    [
        ("ALWAYS_THINKS", {}, None),
        ("ALWAYS_THINKS", {"reasoning_budget": 7}, 7),
        ("ALWAYS_THINKS", {"reasoning_budget": 7, "reasoning_effort": "high"}, 7),
        ("ALWAYS_THINKS", {"reasoning_effort": "low"}, 512),
        ("ALWAYS_THINKS", {"reasoning_effort": "max"}, None),
        ("ALWAYS_THINKS", {"enable_thinking": False}, 0),
        ("ALWAYS_THINKS", {"reasoning_effort": "minimal"}, 0),
        ("TAGGED_CALLS", {"reasoning_effort": "medium"}, 2048),
        ("CHATML", {"reasoning_budget": 7}, None),
        ("CHATML", {"enable_thinking": False}, None),
    ],
)
def test_budget(source: str, fields: dict[str, object], budget: int | None) -> None:
    limit = render(source, **fields).thought_limit
    assert (limit.budget if limit else None) == budget


def test_limit_names_the_tags() -> None:
    assert render("ALWAYS_THINKS", reasoning_budget=7).thought_limit == ThoughtLimit(7, "<think>", "</think>", True)
    script = templates.TAGGED_CALLS.replace("{{ '<think>\\n' }}{% endif %}", "{% endif %}")
    assert render(script, reasoning_budget=7).thought_limit == ThoughtLimit(7, "<think>", "</think>", False)
    begun = render("ALWAYS_THINKS", user("q"), assistant("So"), reasoning_budget=7).thought_limit
    assert begun == ThoughtLimit(7, "<think>", "</think>", False)


@pytest.mark.parametrize(
    "fields", [{"enable_thinking": False}, {"reasoning_budget": 0}, {"reasoning_effort": "minimal"}]
)
def test_template_that_can_be_silent_is_asked_to(fields: dict[str, object]) -> None:
    assert render("TAGGED_CALLS").text.endswith("<think>\n")
    assert render("TAGGED_CALLS", **fields).text.endswith("<think>\n\n</think>\n\n")


def test_effort_reaches_the_template() -> None:
    source = templates.CHATML + "{{ reasoning_effort }}"
    assert render(source, reasoning_effort="low").text.endswith("low")
    assert "Reasoning: high" in render("CHANNELS", reasoning_effort="high").text


def test_reasoning_models_without_tools_still_think() -> None:
    prompt = render("ALWAYS_THINKS", tools=TOOLS)
    parser = prompt.parser(0)
    parser.feed("why</think>", num_tokens=5)
    parser.feed("\nLook: ", num_tokens=3)
    assert parser.num_reasoning_tokens == 5
    events = [*parser.feed('<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'), *parser.finish()]
    assert [type(event).__name__ for event in events] == ["ToolCallStart", "ToolCallDelta"]
    assert parser.text == "Look: "


# --- a template of the request ---------------------------------------------------------------------------------------


def test_template_of_the_request() -> None:
    own = templates.STRICT
    assert render("CHATML", system("S"), user("x"), template=own).text == "[INST] S\n\nx [/INST]"
    source = "{{ mood }} {{ messages[0].content }}"
    assert render("CHATML", template=source, template_kwargs={"mood": "glad"}).text == "glad hello"


def test_refusal_is_in_the_templates_words() -> None:
    with pytest.raises(InvalidRequest, match="not today"):
        render("{{ raise_exception('not today') }}")


def test_form_of_tools_in_the_generic_system_text() -> None:
    text = render("CHATML", system("Be brief."), user("x"), tools=(WEATHER,)).text
    line = next(line for line in text.split("\n") if line.startswith('{"name": "get_weather"'))
    assert json.loads(line) == {
        "name": "get_weather",
        "description": "The weather.",
        "parameters": json.loads(WEATHER.parameters),
    }
    assert text.startswith("<|im_start|>system\nBe brief.\n\n")


@pytest.mark.parametrize("source", SOURCES)
def test_a_demanded_call_that_is_cut_off_is_no_text(source: str) -> None:
    prompt = render(source, user("q"), tools=TOOLS, tool_choice=ToolChoice.REQUIRED)
    for begun in ("<", "<tool_call>\n{", "[", "<|channel|>comm"):
        parser = prompt.parser(0)
        assert not "".join(
            event.text for event in [*parser.feed(begun), *parser.finish()] if isinstance(event, TextDelta)
        )


def test_a_tool_named_by_the_client_is_called_once() -> None:
    several = render("TAGGED_CALLS", user("q"), tools=TOOLS, tool_choice=ToolChoice.REQUIRED)
    named = render(
        "TAGGED_CALLS", user("q"), tools=TOOLS, tool_choice=ToolChoice.REQUIRED, allowed_tools=(TOOLS[0].name,)
    )
    assert several.grammar is not None
    assert named.grammar is not None
    assert "{1," in several.grammar.text or "{0," in several.grammar.text
    assert "{1," not in named.grammar.text.partition("root ::=")[2].partition("\n")[0]
