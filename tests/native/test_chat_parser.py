"""Reading answers while they grow: the same result whatever the pieces, and no text lost."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from native.objects import with_fields
from native.test_chat_template import TOOLS, USER
from tiny_models import SCRIPT_TOOL, SCRIPT_TOOL_ARGUMENTS, SCRIPT_TOOL_CALL

from dmr import _core

CALL = SCRIPT_TOOL_CALL
SECOND_CALL = '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'


class Answer(NamedTuple):
    content: str
    reasoning: str
    calls: tuple[tuple[str, str], ...] = ()


def prompt_of(model: _core.Model, **fields: Any) -> _core.ChatPrompt:
    request = with_fields(_core.ChatRequest(), {"messages": json.dumps([USER]), **fields})
    return _core.ChatTemplate(model.chat_template, "<|endoftext|>", "<|im_end|>").render(request)


def parse(prompt: _core.ChatPrompt, pieces: Iterable[str], parse_tool_calls: bool = True) -> Answer:
    """All deltas put together. A name comes once, whole, before its arguments."""
    parser = _core.ChatParser(prompt, parse_tool_calls)
    deltas = [*(parser.feed(piece) for piece in pieces), parser.finish()]
    calls: list[tuple[str, str]] = []
    for delta in deltas:
        for call in delta.tool_calls:
            if call.name:
                assert call.index == len(calls)
                calls.append((call.name, ""))
            name, arguments = calls[call.index]
            calls[call.index] = (name, arguments + call.arguments)
    content = "".join(delta.content for delta in deltas)
    return Answer(content, "".join(delta.reasoning for delta in deltas), tuple(calls))


@pytest.fixture(scope="module")
def with_tools(think_model: _core.Model) -> _core.ChatPrompt:
    return prompt_of(think_model, tools=json.dumps(TOOLS))


@pytest.fixture(scope="module")
def without_tools(think_model: _core.Model) -> _core.ChatPrompt:
    return prompt_of(think_model)


ANSWERS = {
    "": Answer("", ""),
    "hello": Answer("hello", ""),
    "a < b, <b>, {x}, 🌞 é\n\n": Answer("a < b, <b>, {x}, 🌞 é\n\n", ""),
    "<think>why</think>\n\nbecause": Answer("because", "why"),
    CALL: Answer("", "", ((SCRIPT_TOOL, SCRIPT_TOOL_ARGUMENTS),)),
    f"Let me see. {CALL}": Answer("Let me see. ", "", ((SCRIPT_TOOL, SCRIPT_TOOL_ARGUMENTS),)),
    f"{CALL}\n{SECOND_CALL}": Answer("", "", ((SCRIPT_TOOL, SCRIPT_TOOL_ARGUMENTS), ("get_time", "{}"))),
    f"<think>a {{b}} 🌞</think>\n\n{CALL}": Answer("", "a {b} 🌞", ((SCRIPT_TOOL, SCRIPT_TOOL_ARGUMENTS),)),
}


@pytest.mark.parametrize("text", ANSWERS)
def test_answer_is_taken_apart(with_tools: _core.ChatPrompt, text: str) -> None:
    assert parse(with_tools, [text]) == ANSWERS[text]


@pytest.mark.parametrize("text", ANSWERS)
def test_letter_by_letter_is_the_same(with_tools: _core.ChatPrompt, text: str) -> None:
    assert parse(with_tools, text) == ANSWERS[text]


@given(st.sampled_from([*ANSWERS]), st.lists(st.integers(1, 12), max_size=30))
def test_any_pieces_are_the_same(with_tools: _core.ChatPrompt, text: str, sizes: list[int]) -> None:
    pieces, rest = [], text
    for size in sizes:
        pieces.append(rest[:size])
        rest = rest[size:]
    assert parse(with_tools, [*pieces, rest]) == ANSWERS[text]


def test_text_comes_as_soon_as_it_is_certain(with_tools: _core.ChatPrompt) -> None:
    parser = _core.ChatParser(with_tools)
    assert parser.feed("<think>").reasoning == ""
    assert parser.feed("why").reasoning == "why"
    parser.feed("</think>\n\n")
    assert parser.feed("one").content == "one"
    assert parser.feed(" two").content.strip() == "two"


def test_name_is_whole_before_the_arguments(with_tools: _core.ChatPrompt) -> None:
    parser = _core.ChatParser(with_tools)
    names = []
    for letter in CALL:
        for call in parser.feed(letter).tool_calls:
            names += [call.name] if call.name else []
            assert names, "arguments came before the name"
    assert names == [SCRIPT_TOOL]


@pytest.mark.parametrize("text", [CALL, f"x {CALL}\n{SECOND_CALL}"])
def test_calls_nobody_offered_are_text(without_tools: _core.ChatPrompt, text: str) -> None:
    assert parse(without_tools, text) == Answer(text, "")


def test_calls_are_text_when_they_are_not_wanted(with_tools: _core.ChatPrompt) -> None:
    answer = parse(with_tools, CALL, parse_tool_calls=False)
    assert answer.calls == () or answer.calls == ((SCRIPT_TOOL, SCRIPT_TOOL_ARGUMENTS),)


# --- answers that fit no format --------------------------------------------------------------------------------------

NO_CALL = [
    '<tool_call>\n{"name": "nobody", "arguments": {}}\n</tool_call>',
    "<tool_call>garbage</tool_call>",
    "before <tool_call>garbage",
    '<tool_call>\n{"arguments": {"city": "x"}, "name": "get_weather"}\n</tool_call>',
    "</think>hello",
    "</tool_call>",
    '{"name": "get_weather"}',
]


@pytest.mark.parametrize("text", NO_CALL)
def test_what_is_no_call_is_text(with_tools: _core.ChatPrompt, text: str) -> None:
    assert parse(with_tools, [text]) == Answer(text, "")
    assert parse(with_tools, text) == Answer(text, "")


@pytest.mark.parametrize("text", NO_CALL[:4])
def test_text_after_reasoning_is_not_lost(with_tools: _core.ChatPrompt, text: str) -> None:
    for pieces in ([f"<think>why</think>\n\n{text}"], f"<think>why</think>\n\n{text}"):
        answer = parse(with_tools, pieces)
        assert answer.calls == ()
        assert text in answer.content
        assert "why" in answer.content + answer.reasoning


def test_text_instead_of_the_promised_json_is_not_lost(think_model: _core.Model) -> None:
    prompt = prompt_of(think_model, json_schema='{"type": "object"}')
    for pieces in (["<think>hm</think>plain"], "<think>hm</think>plain"):
        answer = parse(prompt, pieces)
        assert answer.content.endswith("plain")
        assert "hm" in answer.content + answer.reasoning


@pytest.mark.parametrize("length", range(1, len(CALL)))
def test_call_that_breaks_off_never_fails(with_tools: _core.ChatPrompt, length: int) -> None:
    for before in ("", "text "):
        answer = parse(with_tools, before + CALL[:length])
        assert answer.content.startswith(before.strip())
        for name, arguments in answer.calls:
            assert name == SCRIPT_TOOL
            assert SCRIPT_TOOL_ARGUMENTS.startswith(arguments)


def test_finish_without_text(with_tools: _core.ChatPrompt) -> None:
    parser = _core.ChatParser(with_tools)
    parser.feed("")
    for delta in (parser.finish(), parser.finish()):
        assert (delta.content, delta.reasoning, delta.tool_calls) == ("", "", [])


FRAGMENTS = [
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "\n",
    '{"name": "',
    "get_weather",
    '", "arguments": ',
]
FRAGMENTS += ['{"city": "Paris"}', "}", "x", "🌞", "<", "\\", '"', "<|im_end|>", "\0", " "]


@settings(deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=14), st.sampled_from(["with_tools", "without_tools", "schema"]))
@example(["<think>", "x", "</think>", "<tool_call>"], "with_tools")
def test_nonsense_never_fails(
    with_tools: _core.ChatPrompt, without_tools: _core.ChatPrompt, think_model: _core.Model, text: list[str], kind: str
) -> None:
    schema = prompt_of(think_model, json_schema='{"type": "object"}')
    prompt = {"with_tools": with_tools, "without_tools": without_tools, "schema": schema}[kind]
    answer = parse(prompt, text)
    if not answer.calls and kind == "without_tools":
        shown = answer.reasoning + answer.content
        assert "".join(text).count("x") == shown.count("x")


def test_long_answers_stay_affordable(with_tools: _core.ChatPrompt) -> None:
    parser = _core.ChatParser(with_tools)
    content = "".join(parser.feed("word ").content for _ in range(1000)) + parser.finish().content
    assert content == "word " * 1000


@pytest.mark.parametrize("brackets", ["[]", "{}"])
def test_endless_brackets_never_fail(with_tools: _core.ChatPrompt, brackets: str) -> None:
    """A client can talk a model into this; llama.cpp's parser would run out of stack."""
    start = f'<tool_call>\n{{"name": "{SCRIPT_TOOL}", "arguments": {{"city": '
    parse(with_tools, [start, brackets[0] * 20_000, brackets[1] * 20_000, "}}\n</tool_call>"])
    plain = "Look: " + brackets[0] * 20_000
    assert parse(with_tools, [plain[:5], plain[5:15_000], plain[15_000:]]).content == plain
