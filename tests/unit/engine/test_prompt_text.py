"""Literals: what a user typed is text, and everything else is what the tokenizer makes of the whole prompt."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.engine.scripted_runner import PieceTokenizer

from dmr.engine.prompt_text import expand, tokenize_prompt
from dmr.errors import InvalidRequest
from dmr.wire import LITERAL_CLOSE, LITERAL_OPEN


def place(number: int) -> str:
    return f"{LITERAL_OPEN}{number}{LITERAL_CLOSE}"


@pytest.mark.parametrize(
    ("text", "literals", "expected"),
    [
        ("", (), []),
        ("hello", ("unused",), [" he", "llo"]),
        (f"<u>{place(0)}<e>", ("hi there",), ["<u>", " hi", " th", "ere", "<e>"]),
        # Not a control token, and cut where the tokenizer cuts: the text around it is one fragment.
        (f"<u>ab{place(0)}cd<e>x", ("<e>",), ["<u>", " ab", "<e>", "cd", "<e>", " x"]),
        (f"<{place(0)}>", ("e",), [" <e", ">"]),
        (f"<e{place(0)}", (">",), [" <e", ">"]),
        (f"{place(0)}>", ("<e",), [" <e", ">"]),
        (f"<u><e><u{place(0)}", (">",), ["<u>", " <", "e><u", " >"]),
        (f"{place(0)}{place(1)}", ("<", "e>"), [" <e", ">"]),
        (f"{place(1)}<e>{place(0)}", ("<u>", "<e>"), [" <e", ">", "<e>", " <u", ">"]),
        (f"{place(0)}{place(0)}", ("<e>",), [" <e", "><e", ">"]),
        (f"<e>{place(0)}<e>", ("",), ["<e>", "<e>"]),
        (f"<r> \n{place(0)} <e>", (" <u>",), ["<r>", " <u", "> ", "<e>"]),
        (f"<u> {place(0)} \n<l>", ("<u> ",), ["<u>", "  <", "u>", "<l>"]),
        (f"a <l>{place(0)}", ("<e>",), [" a", "<l>", " <e", ">"]),
    ],
)
def test_literals_are_text(text: str, literals: tuple[str, ...], expected: list[str]) -> None:
    tokenizer = PieceTokenizer()
    assert tokenizer.pieces(tokenize_prompt(tokenizer, text, literals, add_special=False)) == expected
    assert tokenizer.pieces(tokenize_prompt(tokenizer, text, literals)) == ["<s>", *expected, "</s>"]


def test_nothing_is_a_control_token_when_none_is_parsed() -> None:
    tokenizer = PieceTokenizer()
    tokens = tokenize_prompt(tokenizer, f"<u>{place(0)}", ("<e>",), add_special=False, parse_special=False)
    assert tokenizer.pieces(tokens) == [" <u", "><e", ">"]


@pytest.mark.parametrize(
    ("text", "literals", "words"),
    [
        (place(0), (), "literal 0 of 0"),
        (f"a{place(2)}", ("x", "y"), "literal 2 of 2"),
        (place(999999999), ("x",), "literal 999999999 of 1"),
        (LITERAL_OPEN, ("x",), "no characters"),
        (LITERAL_CLOSE, ("x",), "no characters"),
        (f"{place(0)}{LITERAL_CLOSE}", ("x",), "no characters"),
        (f"{LITERAL_OPEN}{place(0)}", ("x",), "no characters"),
        (f"{LITERAL_OPEN}x{LITERAL_CLOSE}", ("x",), "no characters"),
        (f"{LITERAL_OPEN}-1{LITERAL_CLOSE}", ("x",), "no characters"),
        (f"{LITERAL_OPEN}{LITERAL_CLOSE}", ("x",), "no characters"),
        (f"{LITERAL_OPEN}{'0' * 5000}{LITERAL_CLOSE}", ("x",), "no characters"),
        (f"{LITERAL_OPEN}\N{ARABIC-INDIC DIGIT ONE}{LITERAL_CLOSE}", ("x",), "no characters"),
    ],
)
def test_places_that_name_nothing_are_refused(text: str, literals: tuple[str, ...], words: str) -> None:
    for parse_special in (True, False):
        with pytest.raises(InvalidRequest, match=words) as caught:
            tokenize_prompt(PieceTokenizer(), text, literals, parse_special=parse_special)
        assert caught.value.param == "prompt"


def test_what_a_literal_holds_is_no_place() -> None:
    assert expand(f"a{place(0)}b", (place(0),)).text == f"a{place(0)}b"


BITS = st.sampled_from(["<u>", "<e>", "<r>", "<l>", "<", ">", "u", "e>", "<e", " ", "\n", "abc", "<s>", "><"])


@settings(max_examples=500, deadline=None)
@given(parts=st.lists(st.tuples(st.booleans(), st.lists(BITS, max_size=4).map("".join)), max_size=7))
def test_only_the_templates_control_tokens_are_found(parts: list[tuple[bool, str]]) -> None:
    tokenizer = PieceTokenizer()
    literals = tuple(part for is_literal, part in parts if is_literal)
    numbers = iter(range(len(literals)))
    text = "".join(place(next(numbers)) if is_literal else part for is_literal, part in parts)
    whole = "".join(part for _, part in parts)
    mask = "".join(("L" if is_literal else "T") * len(part) for is_literal, part in parts)
    allowed = {
        (found.start(1), found.end(1))
        for token in tokenizer.control_tokens
        for found in re.finditer(f"(?=({re.escape(token)}))", whole)
        if "L" not in mask[found.start(1) : found.end(1)]
    }
    expected = tokenizer.tokenize_where(whole, allowed)
    assert tokenize_prompt(tokenizer, text, literals, add_special=False) == expected
