from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmr.chat.pattern import PatternError, found_in
from dmr.chat.pattern_rewrite import for_grammar

MATCHES = [
    ("", "anything", True),
    ("a|b", "xbx", True),
    ("^a|b$", "ax", True),
    ("^a|b$", "xa", False),
    ("^(?:a|b)$", "ax", False),
    (r"^\d{4}-\d{2}$", "2024-11", True),
    (r"^\d{4}-\d{2}$", "2024-1", False),
    (r"^[\w.-]+@[\w-]+\.[a-z]{2,}$", "me@example.org", True),
    (r"^[^/]+$", "a/b", False),
    (r"^a{2,3}$", "aaaa", False),
    (r"^a{,2}$", "a{,2}", True),  # not a repetition in this dialect
    (r"^.$", "\n", False),
    (r"^.$", "é", True),
    (r"^\u00e9\x41\u{1F31E}$", "éA🌞", True),
    (r"\bword\b", "a word.", True),
    (r"\bword\b", "swords", False),
    (r"^\S+\s\S+$", "one two", True),
    (r"^(?<year>\d+)$", "2024", True),
    (r"^[a\]\-]+$", "]-a", True),
    (r"^[]$", "", False),
    (r"^(a*)*$", "aaa", True),
    (r"^a+?$", "aa", True),
    (r"\$", "costs $5", True),
]


@pytest.mark.parametrize(("pattern", "text", "expected"), MATCHES)
def test_patterns_match_as_they_should(pattern: str, text: str, expected: bool) -> None:
    assert found_in(pattern, text) is expected


BEYOND = ["(", ")", "[", "a**", "*", "(?=a)", "(?i)a", r"(a)\1", r"\p{L}", "a{3,2}", "[z-a]", "\\", "a{9999999}"]
BEYOND += ["a" * 1001, "(" * 50 + ")" * 50, "(a{99}){99}", r"\u{110000}", r"\u12", r"[\w-z]"]


@pytest.mark.parametrize("pattern", BEYOND)
def test_patterns_that_are_none_or_beyond(pattern: str) -> None:
    with pytest.raises(PatternError):
        found_in(pattern, "a")
    assert for_grammar(pattern) is None


def test_hostile_patterns_take_no_longer() -> None:
    began = time.monotonic()
    assert found_in("(?:(?:){999999}){999999}", "a")
    assert found_in("(?:(?:a{0}){999999}){999999}b", "b")
    with pytest.raises(PatternError, match="complex"):
        found_in("(?:a" + "(?:)" * 240 + "){3000}", "a")
    assert not found_in(r"^(a|a)*$", "a" * 2000 + "!")
    assert not found_in(r"^(a+)+$", "a" * 2000 + "!")
    with pytest.raises(PatternError, match="too long"):
        found_in(r"(x+x+)+y", "x" * 1_000_000)
    assert time.monotonic() - began < 2


ATOMS = st.sampled_from(["a", "b", "1", " ", r"\d", r"\w", r"\S", ".", "[ab]", "[^a]", "[a-c1]", r"\."])


def grown(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(parts, parts).map("".join),
        st.tuples(parts, parts).map(lambda pair: f"({pair[0]}|{pair[1]})"),
        st.tuples(parts, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{2,}", "*?"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        ),
    )


PATTERNS = st.tuples(st.sampled_from(["", "^"]), st.recursive(ATOMS, grown, max_leaves=8), st.sampled_from(["", "$"]))


@given(PATTERNS.map("".join), st.text("ab1c .", max_size=8))
def test_python_agrees(pattern: str, text: str) -> None:
    assert found_in(pattern, text) == (re.search(pattern, text, re.ASCII) is not None)


@given(PATTERNS.map("".join), st.text('ab1c ."\\', max_size=8))
def test_the_grammars_pattern_is_never_wider(pattern: str, text: str) -> None:
    written = for_grammar(pattern)
    if written is not None and re.fullmatch(written.replace("\\U0010FFFF", "\U0010ffff"), text):
        assert found_in(pattern, text)
        assert '"' not in text
        assert "\\" not in text


@pytest.mark.parametrize(
    ("pattern", "written"),
    [
        ("^[a-z]{3}$", "^[a-z]{3}$"),
        ("^ab?c_[0-9]+$", "^ab?c_[0-9]+$"),
        (r"^\d+$", "^([0-9]+)$"),
        ("^(a|)$", "^(([a])?)$"),
        (r"^a\.b$", r"^([a][\u002E][b])$"),
        ('^"$', None),  # in a JSON string it would have to be written otherwise
        (r"^\\$", None),
        ("^(a*)*$", None),
        ("^(a{40}){40}$", None),
        (r"\bword\b", None),
    ],
)
def test_patterns_as_grammars_can_have_them(pattern: str, written: str | None) -> None:
    assert for_grammar(pattern) == written
