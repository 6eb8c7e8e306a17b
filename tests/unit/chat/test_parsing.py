"""Answers in every format, long ones too: whatever the pieces, the same events come out, and no text is lost."""

from __future__ import annotations

import json
import time
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.chat import templates
from unit.chat.conversations import TOOLS, info_of, user

from dmr.chat.parser import OutputParser
from dmr.chat.prompt import RenderedPrompt
from dmr.chat.template import PromptTemplate
from dmr.types import ChatInput, ReasoningDelta, TextDelta, ToolCallDelta, ToolCallStart

WORDS = "word next {x} < a é🌞\n\n <thing> </t [TOOL "
LONG = WORDS * 60
ARGUMENTS = json.dumps({"city": "Paris {} " * 200, "days": 3})
CALL = f'<tool_call>\n{{"name": "get_weather", "arguments": {ARGUMENTS}}}\n</tool_call>'
LIST_CALL = f'[TOOL_CALLS][{{"name": "get_weather", "arguments": {ARGUMENTS}}}]'
TAGGED = "<tool_call>\n<function=get_weather>\n<parameter=city>\n%s\n</parameter>\n</function>\n</tool_call>\n"
TAGGED_CALL = TAGGED % ("Paris\n <x> " * 200)
CHANNEL_CALL = f"<|channel|>commentary to=functions.get_weather json<|message|>{ARGUMENTS}"
ANALYSIS = f"<|channel|>analysis<|message|>{LONG}<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>"


class Answer(NamedTuple):
    content: str
    reasoning: str
    calls: tuple[tuple[str, str], ...]


ANSWERS: dict[str, tuple[str, int, int, int]] = {  # text: template, length of content and reasoning, number of calls
    LONG: ("CHATML", len(LONG), 0, 0),
    LONG + CALL: ("CHATML", len(LONG), 0, 1),
    CALL + "\n" + CALL + "after": ("CHATML", 5, 0, 2),
    LONG + "<tool_call>garbage " + LONG: ("CHATML", 2 * len(LONG) + 19, 0, 0),
    LONG + "</think>\n" + LONG + CALL: ("ALWAYS_THINKS", len(LONG), len(LONG), 1),
    LONG + "ever": ("ALWAYS_THINKS", 0, len(LONG) + 4, 0),
    LONG + "</think>" + TAGGED_CALL: ("TAGGED_CALLS", 0, len(LONG), 1),
    LONG + TAGGED_CALL: ("TAGGED_CALLS", 0, len(LONG), 1),
    TAGGED_CALL + TAGGED_CALL + "x": ("TAGGED_CALLS", 1, 0, 2),
    "text " + LIST_CALL: ("LIST_CALLS", 5, 0, 1),
    ANALYSIS + FINAL + LONG: ("CHANNELS", len(LONG), len(LONG), 0),
    ANALYSIS + ANALYSIS + CHANNEL_CALL: ("CHANNELS", 0, 2 * len(LONG), 1),
}


def prompt_for(name: str) -> RenderedPrompt:
    return PromptTemplate(info_of(getattr(templates, name))).render(ChatInput((user("q"),), tools=TOOLS), None)


PROMPTS = {name: prompt_for(name) for name in {name for name, *_ in ANSWERS.values()}}


def parsed(parser: OutputParser, pieces: list[str]) -> Answer:
    """All events put together; each call starts before its arguments, with an id of its own."""
    events = [event for piece in pieces for event in parser.feed(piece)] + parser.finish()
    content, reasoning, ids = "", "", set()
    calls: list[tuple[str, str]] = []
    for event in events:
        if isinstance(event, TextDelta):
            content += event.text
        elif isinstance(event, ReasoningDelta):
            reasoning += event.text
        elif isinstance(event, ToolCallStart):
            assert event.call_index == len(calls)
            assert event.id.startswith("call_")
            assert len(event.id) == 29
            ids.add(event.id)
            calls.append((event.name, ""))
        elif isinstance(event, ToolCallDelta):
            name, arguments = calls[event.call_index]
            calls[event.call_index] = (name, arguments + event.arguments)
    assert parser.text == content
    assert parser.has_tool_calls == bool(calls)
    assert len(ids) == len(calls)
    return Answer(content, reasoning, tuple(calls))


@pytest.mark.parametrize("text", ANSWERS, ids=[f"{name}-{place}" for place, (name, *_) in enumerate(ANSWERS.values())])
@pytest.mark.parametrize("size", [1, 7, 100, 10**9])
def test_answer_in_pieces_of_one_size(text: str, size: int) -> None:
    name, num_content, num_reasoning, num_calls = ANSWERS[text]
    parser = PROMPTS[name].parser(0)
    answer = parsed(parser, [text[at : at + size] for at in range(0, len(text), size)])
    assert (len(answer.content), len(answer.reasoning), len(answer.calls)) == (num_content, num_reasoning, num_calls)
    assert all(json.loads(arguments)["city"].startswith("Paris") for _, arguments in answer.calls)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from([*ANSWERS]), st.lists(st.integers(1, 200), min_size=1, max_size=200))
def test_any_pieces_are_the_same(text: str, sizes: list[int]) -> None:
    name = ANSWERS[text][0]
    pieces, at = [], 0
    for size in sizes:
        pieces.append(text[at : at + size])
        at += size
    assert parsed(PROMPTS[name].parser(0), [*pieces, text[at:]]) == parsed(PROMPTS[name].parser(0), [text])


FRAGMENTS = [
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "\n", '{"name": "get_time"', ', "arguments": {', "}}"),
    *("<function=get_time>", "</function>", "<parameter=city>\n", "\n</parameter>\n", "[TOOL_CALLS][", "]"),
    *("<|channel|>final<|message|>", "<|end|>", "<|sta", "rt|>assistant", " to="),
    *(LONG[:700], "x", "<", "🌞", "{", '"', " "),
]


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(sorted(PROMPTS)), st.lists(st.sampled_from(FRAGMENTS), max_size=14))
def test_nonsense_never_fails_and_is_not_lost(name: str, pieces: list[str]) -> None:
    answer = parsed(PROMPTS[name].parser(0), pieces)
    assert parsed(PROMPTS[name].parser(0), ["".join(pieces)]) == answer
    assert parsed(PROMPTS[name].parser(0), [*"".join(pieces)[:900], "".join(pieces)[900:]]) == answer
    if name == "CHATML" and not answer.calls:
        assert answer.content.strip() == "".join(pieces).strip()


def test_text_without_anything_to_find_passes_through() -> None:
    prompt = PromptTemplate(info_of(templates.CHATML)).render(ChatInput((user("q"),)), None)
    parser = prompt.parser(0)
    for piece in ("  \n", "<tool_call>", "<think>", " x "):
        assert parser.feed(piece) == [TextDelta(0, piece)]
    assert parser.finish() == []


@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize("text", ["<", "a <", "a <tool", "a </thi", "a \n</param", "a <|en", "a [TOOL_CA", "a {", " "])
def test_text_that_ends_like_a_tag_is_whole(name: str, text: str) -> None:
    begin = FINAL if name == "CHANNELS" else ""
    answer = parsed(PROMPTS[name].parser(0), [begin, *text])
    assert (answer.content + answer.reasoning).strip() == text.strip()


@pytest.mark.parametrize("name", ["CHATML", "ALWAYS_THINKS", "TAGGED_CALLS"])
def test_text_that_looks_like_two_tags_is_whole(name: str) -> None:
    text = "<<x <<<thing> <<" + "word <<" * 200
    answer = parsed(PROMPTS[name].parser(0), [*text])
    assert answer.content + answer.reasoning == text


BRACKETS = {
    "intervals": "interval [0,1) " * 600,
    "intervals with commas": "[0,1), " * 600,
    "French intervals": "[0,1[, " * 600,
    "ANSI codes": "\x1b[31mred\x1b[0m " * 300,
    "open brackets": "[{" * 600,
    "quotes": '5" ["x", \\" [ ' * 600,
}


@pytest.mark.parametrize("size", [5, 10**9])
@pytest.mark.parametrize("name", BRACKETS)
def test_brackets_count_only_where_they_nest(name: str, size: int) -> None:
    text = BRACKETS[name]

    def answer(template: str, whole: str) -> Answer:
        return parsed(PROMPTS[template].parser(0), [whole[at : at + size] for at in range(0, len(whole), size)])

    thought = answer("ALWAYS_THINKS", f"{text}</think>\nso")
    assert (thought.reasoning.strip(), thought.content) == (text.strip(), "so")
    said = answer("CHATML", text + CALL)
    assert (said.content, len(said.calls)) == (text, 1)
    arguments = json.dumps({"city": text})
    call = f'<tool_call>\n{{"name": "get_weather", "arguments": {arguments}}}\n</tool_call>'
    assert answer("CHATML", call).calls == (("get_weather", arguments),)


@pytest.mark.parametrize("opened", ['["]",', '{"]}": [', "['\\'\"]',", '{"a": "\\"]}", "b":', '["a\\\\", [{},'])
@pytest.mark.parametrize("before", ["", 'a 5" pipe ', "it's "])
def test_deep_values_never_fail(opened: str, before: str) -> None:
    """llama.cpp's parser would run out of stack; brackets in strings do not close those outside."""
    for size in (5000, 10**9):
        for begin, name in ((CALL, "CHATML"), (LIST_CALL, "LIST_CALLS")):
            text = before + begin[: begin.index('"Paris')] + opened * 20_000
            parsed(PROMPTS[name].parser(0), [text[at : at + size] for at in range(0, len(text), size)])


QUOTE = '<|"|>'


@pytest.mark.parametrize("size", [5, 10**9])
def test_values_with_bare_keys(size: int) -> None:
    """Keys without quotation marks, which may hold any character, and quotation marks of their own."""
    source = templates.LIST_CALLS + "{# '<|tool_call>call:' #}"  # a word by which llama.cpp knows Gemma
    prompt = PromptTemplate(info_of(source)).render(ChatInput((user("q"),), tools=TOOLS), None)

    def answer(city: str) -> Answer:
        text = "<|tool_call>call:get_weather{city:" + city
        return parsed(prompt.parser(0), [text[at : at + size] for at in range(0, len(text), size)])

    intervals = "interval [0,1) " * 600
    ((name, arguments),) = answer(f"{QUOTE}{intervals}{QUOTE}}}<tool_call|>").calls
    assert (name, json.loads(arguments)) == ("get_weather", {"city": intervals})
    for opened in (f"[{QUOTE}]{QUOTE},", "{a:", "{]]:", '[{x":', f"{{a{QUOTE}:", "[{},"):
        answer(opened * 20_000)


@pytest.mark.parametrize("size", [1, 3, 10**9])
@pytest.mark.parametrize("behind", ['"}}think>', '"}}{"name": "get_time"}', '"}\n\n\n```json\n'])
def test_a_broken_call_is_told_once(behind: str, size: int) -> None:
    text = f'Look: <tool_call>\n{{"name": "get_weather", "arguments": {{"city": "Paris{behind}'
    answer = parsed(PROMPTS["CHATML"].parser(0), [text[at : at + size] for at in range(0, len(text), size)])
    assert answer.content == ("Look: " if answer.calls else text)


def test_call_that_never_began_is_text() -> None:
    text = '<tool_call>\n{"name": "get_ti'
    assert parsed(PROMPTS["CHATML"].parser(0), [*text]) == Answer(text, "", ())


def test_text_after_a_call_is_content() -> None:
    answer = parsed(PROMPTS["CHATML"].parser(0), [CALL, "\n", "And ", "more", "."])
    assert answer.content == "And more."
    assert len(answer.calls) == 1


def test_calls_are_not_read_when_none_may_be_made() -> None:
    prompt = PromptTemplate(info_of(templates.CHATML)).render(
        ChatInput((user("q"),), tools=TOOLS, allowed_tools=()), None
    )
    assert parsed(prompt.parser(0), [CALL]) == Answer(CALL, "", ())


def test_tokens_of_thought_are_counted() -> None:
    parser = PROMPTS["ALWAYS_THINKS"].parser(0)
    for piece in ("so", " it", " is"):
        parser.feed(piece, num_tokens=2)
    parser.feed("</thi")
    parser.feed("nk>")
    parser.feed("Yes", num_tokens=1)
    parser.finish()
    assert parser.num_reasoning_tokens == 6
    assert parser.text == "Yes"


def test_tokens_of_thought_are_counted_where_one_piece_holds_its_end_and_the_answer() -> None:
    """As it comes when a client was slow to read."""
    parser = PROMPTS["ALWAYS_THINKS"].parser(0)
    parser.feed("a thought " * 10 + "</think>" + "an answer " * 30, num_tokens=80)
    parser.finish()
    assert 15 <= parser.num_reasoning_tokens <= 25


@pytest.mark.parametrize("kind", ["content", "reasoning", "arguments"])
def test_a_token_costs_the_same_however_long_the_answer_is(kind: str) -> None:
    begin = {
        "content": "</think>",
        "reasoning": "",
        "arguments": '</think><tool_call>\n{"name": "get_weather", "arguments": {"city": "',
    }[kind]

    def seconds(count: int) -> float:
        parser = PROMPTS["ALWAYS_THINKS"].parser(0)
        parser.feed(begin)
        start = time.process_time()
        for place in range(count):
            parser.feed(("word ", "a < b ", "{x} ", "line\\n")[place % 4])
        return (time.process_time() - start) / count

    seconds(200)
    short, long = min(seconds(500) for _ in range(3)), min(seconds(4000) for _ in range(3))
    assert long < 4 * short + 5e-6
