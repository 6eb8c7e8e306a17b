"""Conversations that are too long: which turns go, and how often the engine is asked."""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.service_scene import INFO, said

from dmr.chat.prompt import RenderedPrompt
from dmr.chat.template import PromptTemplate
from dmr.service.truncation import Fitted, fit
from dmr.types import ChatInput, Message, Role, Tick, ToolCall

TEMPLATE = PromptTemplate(INFO)
SYSTEM, USER, ASSISTANT, TOOL = Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.TOOL


class Engine:
    """Counts words; remembers how often."""

    def __init__(self) -> None:
        self.num_asked = 0

    def count(self, prompt: RenderedPrompt) -> Generator[Tick, None, int]:
        self.num_asked += 1
        yield Tick()
        return num_tokens(prompt)


def num_tokens(prompt: RenderedPrompt) -> int:
    return len(re.findall(r"\w+|[^\w\s]", prompt.plain_text()))


def words(number: int, word: str = "word") -> str:
    return " ".join([word] * number)


def fitted(messages: list[Message], size: int, max_tokens: int | None = None) -> tuple[Fitted, int]:
    """What is left, and how many questions that took."""
    engine = Engine()
    chat = ChatInput(tuple(messages))
    run = fit(chat, size, max_tokens, lambda part: TEMPLATE.render(part, None), engine.count)
    while True:
        try:
            assert next(run) == Tick()
        except StopIteration as end:
            return end.value, engine.num_asked


def turns(*lengths: int) -> list[Message]:
    return [said((USER, ASSISTANT)[i % 2], f"turn{i} {words(length)}") for i, length in enumerate(lengths)]


def kept(result: Fitted, number: int) -> list[int]:
    return [i for i in range(number) if f"turn{i} " in result.prompt.text]


def test_what_surely_fits_is_not_even_counted() -> None:
    result, num_asked = fitted(turns(5, 5, 5), 4096)
    assert (result.num_dropped, num_asked) == (0, 0)


def test_what_just_fits_is_left_alone() -> None:
    messages = turns(50, 50, 50)
    whole = num_tokens(TEMPLATE.render(ChatInput(tuple(messages)), None))
    assert fitted(messages, whole + 1)[0].num_dropped == 0
    assert fitted(messages, whole)[0].num_dropped > 0  # one token must be left


def test_the_oldest_turns_go_first_and_the_system_stays() -> None:
    messages = [said(SYSTEM, "Be brief."), *turns(*[20] * 11)]
    result, num_asked = fitted(messages, 200)
    assert kept(result, 11) == list(range(result.num_dropped, 11))
    assert "Be brief." in result.prompt.text
    assert num_tokens(result.prompt) <= 150
    assert num_asked <= 4


def test_no_more_goes_than_must() -> None:
    messages = turns(*[20] * 11)
    result, _ = fitted(messages, 200, max_tokens=10)
    one_less = ChatInput(tuple(messages[result.num_dropped - 1 :]))
    assert num_tokens(result.prompt) <= 190 < num_tokens(TEMPLATE.render(one_less, None))


@pytest.mark.parametrize(("max_tokens", "most"), [(None, 150), (1000, 150), (10, 190), (0, 199)])
def test_there_is_room_for_an_answer(max_tokens: int | None, most: int) -> None:
    result, _ = fitted(turns(*[3] * 101), 200, max_tokens)
    assert most - 15 <= num_tokens(result.prompt) <= most


def test_calls_go_with_their_results() -> None:
    calls = (ToolCall("1", "weather", "{}"), ToolCall("2", "time", "{}"))
    messages = [
        said(USER, f"turn0 {words(30)}"),
        said(ASSISTANT, "", tool_calls=calls),
        said(TOOL, f"turn2 {words(30)}", tool_call_id="1"),
        said(TOOL, f"turn3 {words(30)}", tool_call_id="2"),
        said(ASSISTANT, f"turn4 {words(5)}"),
        said(USER, f"turn5 {words(5)}"),
    ]
    result, _ = fitted(messages, 100)
    assert (kept(result, 6), result.num_dropped) == ([4, 5], 4)
    assert "weather" not in result.prompt.text


def test_the_last_turn_stays_with_all_its_parts() -> None:
    call = (ToolCall("1", "weather", "{}"),)
    messages = [
        said(USER, f"turn0 {words(30)}"),
        said(ASSISTANT, "", tool_calls=call),
        said(TOOL, f"turn2 {words(60)}", tool_call_id="1"),
    ]
    result, _ = fitted(messages, 50)
    assert (kept(result, 3), result.num_dropped) == ([2], 1)
    assert "weather" in result.prompt.text  # still too long: the engine says so


def test_nothing_to_drop() -> None:
    result, num_asked = fitted([said(SYSTEM, words(90)), said(USER, words(90))], 50)
    assert (result.num_dropped, num_asked) == (0, 1)


def test_few_questions_for_long_conversations_of_any_shape() -> None:
    # What looks the same in characters has other numbers of tokens here.
    messages = [said((USER, ASSISTANT)[i % 2], ("a " * 60 if i < 150 else "a" * 120)) for i in range(301)]
    for size in (300, 2000, 6000):
        result, num_asked = fitted(messages, size)
        assert result.num_dropped > 0
        assert num_tokens(result.prompt) <= size
        assert num_asked <= 14


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=30),
    st.integers(30, 600),
    st.one_of(st.none(), st.integers(1, 99)),
)
def test_whatever_the_conversation(lengths: list[int], size: int, max_tokens: Any) -> None:
    messages = turns(*lengths)
    result, num_asked = fitted(messages, size, max_tokens)
    assert kept(result, len(messages)) == list(range(result.num_dropped, len(messages)))
    assert num_asked <= 10
    if num_tokens(result.prompt) >= size:
        assert result.num_dropped == len(messages) - 1
    elif result.num_dropped > 1:  # the last step is an estimate: it may take one turn too many
        before = ChatInput(tuple(messages[result.num_dropped - 2 :]))
        assert num_tokens(TEMPLATE.render(before, None)) > size - max(1, min(size // 4, max_tokens or size))
