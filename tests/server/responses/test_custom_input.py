"""The text of a custom tool's call, however the model's JSON is cut into pieces."""

from __future__ import annotations

import json

import pytest

from dmr_server.custom_input import CustomInput, arguments_of, input_of

TEXTS = ["", "plain", 'quo"te\\', "two\nlines\t", "ü\U0001f600\x00", "*** Begin Patch\n+x\n"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_pieces_join_to_the_text(text: str, size: int, ascii_only: bool) -> None:
    arguments = json.dumps({"input": text}, ensure_ascii=ascii_only)
    reader = CustomInput()
    pieces = [reader.feed(arguments[start : start + size]) for start in range(0, len(arguments), size)]
    assert "".join([*pieces, reader.finish()]) == text == input_of(arguments)


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_goes_into_arguments_and_back(text: str) -> None:
    assert input_of(arguments_of(text)) == text


@pytest.mark.parametrize("arguments", ["not json", "[]", '{"input":3}', '{"text":"x"}'])
def test_what_holds_no_input_stays_as_it_is(arguments: str) -> None:
    reader = CustomInput()
    assert reader.feed(arguments) + reader.finish() == arguments == input_of(arguments)
