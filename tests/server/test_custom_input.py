"""The text of a custom tool's call comes out whole, however its JSON is cut."""

from __future__ import annotations

import json

import pytest

from dmr_server.custom_input import CustomInput, input_of

TEXTS = ["", "ls -l", 'echo "a"\n\tb\\c/', "héllo 😀 \u2028", "\x00\x1f", "\\", "😀"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_any_cut(text: str, ascii_only: bool, size: int) -> None:
    arguments = json.dumps({"input": text}, ensure_ascii=ascii_only)
    reader = CustomInput()
    pieces = [reader.feed(arguments[start : start + size]) for start in range(0, len(arguments), size)]
    assert "".join([*pieces, reader.finish()]) == text == input_of(arguments)
    assert "".join(pieces) == text  # nothing waits for the end


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("", ""),
        ("{}", "{}"),
        ("plain text", "plain text"),
        ('{"input": 5}', '{"input": 5}'),
        ('{"other": 1, "input": "a"}', "a"),
        ('["input"]', '["input"]'),
    ],
)
def test_what_is_not_of_the_form(arguments: str, text: str) -> None:
    reader = CustomInput()
    assert reader.feed(arguments) + reader.finish() == text == input_of(arguments)


@pytest.mark.parametrize("arguments", ['{"input": "a', '{"input": "a\\', '{"input": "a\\ud83d"}', '{"input": "a"'])
def test_half_a_call_gives_what_there_is(arguments: str) -> None:
    reader = CustomInput()
    assert reader.feed(arguments) + reader.finish() == "a"
