"""A prompt as plain values: the same again in another process, and nothing worse than an error for what is none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tiny_models.script import SCRIPT_TEMPLATE

from dmr import _core

TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]


def prompt(**fields: Any) -> _core.ChatPrompt:
    request = _core.ChatRequest()
    request.messages = json.dumps([{"role": "user", "content": "Hé"}])
    for name, value in fields.items():
        setattr(request, name, value)
    return _core.ChatTemplate(SCRIPT_TEMPLATE).render(request)


@pytest.mark.parametrize(
    "fields",
    [{}, {"tools": json.dumps(TOOLS)}, {"tools": json.dumps(TOOLS), "tool_choice": "required"}, {"json_schema": "{}"}],
)
def test_a_prompt_is_the_same_again(fields: dict[str, Any]) -> None:
    made = prompt(**fields)
    again = _core.ChatPrompt.from_state(made.state)
    assert again.state == made.state
    assert (again.text, again.grammar, again.parser) == (made.text, made.grammar, made.parser)
    assert [each.value for each in again.grammar_triggers] == [each.value for each in made.grammar_triggers]


def test_an_answer_is_read_by_either() -> None:
    made = prompt(tools=json.dumps(TOOLS))
    told = []
    for each in (made, _core.ChatPrompt.from_state(made.state)):
        parser = _core.ChatParser(each)
        told.append([parser.feed("Hello ").content, parser.feed("there").content, parser.finish().content])
    assert told[0] == told[1]


@pytest.mark.parametrize("place", range(15))
@pytest.mark.parametrize("value", [None, -1, 1 << 40, b"\xff", [], [b"\x00"], [(9, b"x")], [(-1, b"x")], "text"])
def test_states_that_are_none_end_no_process(place: int, value: Any) -> None:
    state: Any = list(prompt(tools=json.dumps(TOOLS)).state)
    state[place] = value
    try:
        made = _core.ChatPrompt.from_state(tuple(state))
        parser = _core.ChatParser(made)
    except (TypeError, ValueError):
        return
    parser.feed("Hello")
    parser.finish()


@pytest.mark.parametrize("state", [(), (b"",), (b"",) * 16, None, b"x"])
def test_other_shapes_are_refused(state: Any) -> None:
    with pytest.raises(TypeError):
        _core.ChatPrompt.from_state(state)
