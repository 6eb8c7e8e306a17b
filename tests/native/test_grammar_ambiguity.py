"""Grammars that can read one text in many ways: the work is bounded, and equal ways are one."""

from __future__ import annotations

import random
import re
import time

import numpy as np
import pytest
from native.objects import make_sampler

from dmr import _core

DOUBLING = 'root ::= "a" root "b" | "a" root "c" | "x"'
MANY_READINGS = {  # each character can be read in several ways, and none of it shows in what is left to read
    "same alternatives": 'root ::= ("a" root | "a" root | "x")',
    "words of words": 'root ::= (word word?)+ "x"\nword ::= "a" | "aa" | "aaa"',
    "two names": 'root ::= one | two\none ::= "a" (one | two) | "x"\ntwo ::= "a" (two | one) | "x"',
}


def feed(model: _core.Model, sampler: _core.Sampler, text: str) -> str:
    """What a model that wants to say `text`, token by token, says."""
    said = b""
    for token in model.tokenize(text, parse_special=False):
        logits = np.zeros(model.num_vocabulary, np.float32)
        logits[token] = 100.0
        said += model.piece(sampler.sample(logits).token)
    return said.decode()


@pytest.mark.parametrize("grammar", MANY_READINGS.values(), ids=MANY_READINGS)
def test_equal_readings_are_one(random_model: _core.Model, grammar: str) -> None:
    text = "a" * 2000 + "x"
    assert feed(random_model, make_sampler(random_model, grammar=grammar, temperature=0.0), text) == text


@pytest.mark.parametrize(
    "grammar",
    [
        DOUBLING,
        "root ::= " + " | ".join(f'"a" root "{number}"' for number in range(500)) + ' | "x"',
        'root ::= [ab] root root root "c" | [ab] root root "d" | [ab]',
    ],
    ids=["doubling", "500 alternatives", "trees"],
)
def test_a_grammar_that_explodes_is_an_error(random_model: _core.Model, grammar: str) -> None:
    sampler = make_sampler(random_model, grammar=grammar, temperature=0.0)
    begin = time.process_time()
    with pytest.raises(_core.GrammarError, match="too ambiguous"):
        feed(random_model, sampler, "a" * 500)
    assert time.process_time() - begin < 60  # a guard against no end at all: it takes a second
    with pytest.raises(_core.GrammarError, match="failed before"):
        feed(random_model, sampler, "a")


def test_a_text_before_it_explodes_is_read(random_model: _core.Model) -> None:
    sampler = make_sampler(random_model, grammar=DOUBLING, temperature=0.0)
    assert feed(random_model, sampler, "aaaxbcb") == "aaaxbcb"


@pytest.mark.parametrize("seed", range(60))
def test_what_is_allowed_is_what_a_regular_expression_allows(random_model: _core.Model, seed: int) -> None:
    """Random expressions that read the same in both languages, texts drawn from noise, and each one fed back in."""
    source = random.Random(seed)

    def expression(depth: int) -> str:
        kind = source.randrange(6 if depth else 2)
        if kind == 0:
            return source.choice(["[a-c]", "[^a-z]", "[bé世]", "[x-z0-9]"])
        if kind == 1:
            return source.choice(["(a|b)", "(é|c)", "(a|ab)"])
        if kind == 2:
            return f"({expression(depth - 1)}|{expression(depth - 1)})"
        if kind == 3:
            return f"({expression(depth - 1)})" + source.choice(["?", "*", "+", "{1,3}", "{2}"])
        return expression(depth - 1) + expression(depth - 1)

    pattern = expression(4)
    # Only letters stand outside of classes, so quotes around them are all that differs.
    grammar = "root ::= " + re.sub(r"(\[[^\]]*\])|([a-zé]+)", lambda m: m[1] or f'"{m[2]}"', pattern)
    try:
        sampler = make_sampler(random_model, grammar=grammar, seed=seed)
    except _core.GrammarError as error:
        assert "ways to begin" in str(error) or "begins with itself" in str(error)  # noqa: PT017  # such are refused
        return
    noise = np.random.RandomState(seed)
    said = b""
    for _ in range(40):
        token = sampler.sample(noise.standard_normal(random_model.num_vocabulary).astype(np.float32)).token
        if random_model.is_end(token):
            assert re.fullmatch(pattern, said.decode(), re.DOTALL), (pattern, said)
            break
        said += random_model.piece(token)
    again = make_sampler(random_model, grammar=grammar, temperature=0.0)
    whole = said.decode(errors="ignore")
    assert feed(random_model, again, whole) == whole
