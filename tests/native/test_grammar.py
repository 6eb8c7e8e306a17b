"""Sampling under a grammar: what comes out is always of its language, and a grammar that cannot be used is refused."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np
import pytest
from native.objects import generate_text, make_sampler

from dmr import _core

JSON = r"""
root ::= object
value ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" ws (pair ("," ws pair)*)? "}" ws
pair ::= string ":" ws value
array ::= "[" ws (value ("," ws value)*)? "]" ws
string ::= "\"" [^"\\\x00-\x1f\x7f]{0,12} "\"" ws
number ::= "-"? ("0" | [1-9] [0-9]{0,8}) ("." [0-9]{1,5})? ws
ws ::= " "?
"""
SEEDS = range(21)
CHAT = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"


def row(model: _core.Model, **likely: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Logits that are 0 but for the given one-byte texts."""
    logits = np.zeros(model.num_vocabulary, np.float32)
    for text, value in likely.items():
        logits[model.tokenize(text)[0]] = value
    return logits


def trigger(kind: _core.TriggerKind, value: str) -> dict[str, Any]:
    return {"grammar_lazy": True, "grammar_triggers": [_core.GrammarTrigger(kind, value)]}


# --- what comes out --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_json_grammar_gives_json(script_model: _core.Model, seed: int) -> None:
    sampler = make_sampler(script_model, grammar=JSON, seed=seed, temperature=1.0)
    text, ended = generate_text(script_model, CHAT, sampler)
    assert ended
    assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize("fields", [{"temperature": 0.0}, {"mirostat": 2}, {"top_k": 1}, {"repeat_penalty": 1.3}])
def test_other_ways_to_choose_stay_in_the_language(script_model: _core.Model, fields: dict[str, Any]) -> None:
    text, ended = generate_text(script_model, CHAT, make_sampler(script_model, grammar=JSON, **fields))
    assert ended
    assert isinstance(json.loads(text), dict)


def test_noise_is_forced_into_the_language(random_model: _core.Model) -> None:
    pattern = re.compile(r"(ab|c[0-9]{2}){1,3}!")
    for seed in SEEDS:
        sampler = make_sampler(random_model, grammar='root ::= ("ab" | "c" [0-9]{2}){1,3} "!"', seed=seed)
        text, ended = generate_text(random_model, "the", sampler)
        assert ended
        assert pattern.fullmatch(text), text


def test_characters_of_several_tokens(random_model: _core.Model) -> None:
    sampler = make_sampler(random_model, grammar='root ::= "Grüße " [🌞🌝] "世"', seed=3)
    text, ended = generate_text(random_model, "x", sampler)
    assert ended
    assert text in ("Grüße 🌞世", "Grüße 🌝世")


def test_end_of_the_grammar_beats_ignored_end(script_model: _core.Model) -> None:
    sampler = make_sampler(script_model, grammar='root ::= "abc"', ignore_eos=True)
    assert generate_text(script_model, "x", sampler) == ("abc", True)


def test_grammar_goes_on_after_what_the_prompt_began(random_model: _core.Model) -> None:
    sampler = make_sampler(random_model, grammar='root ::= "begun: " [0-9] "."', grammar_prefill="begun: ")
    text, ended = generate_text(random_model, "begun: ", sampler)
    assert ended
    assert re.fullmatch(r"[0-9]\.", text)


def test_prompt_that_does_not_fit_the_grammar(random_model: _core.Model) -> None:
    with pytest.raises(_core.GrammarError, match="does not fit"):
        make_sampler(random_model, grammar='root ::= "begun: "', grammar_prefill="other")


def test_likely_tokens_are_kept_when_the_grammar_allows_them(random_model: _core.Model) -> None:
    free = [make_sampler(random_model, seed=s).sample(row(random_model, a=9, b=9)).token for s in SEEDS]
    held = [
        make_sampler(random_model, seed=s, grammar="root ::= [ab]+").sample(row(random_model, a=9, b=9)).token
        for s in SEEDS
    ]
    assert free == held


# --- lazy grammars ---------------------------------------------------------------------------------------------------


def said(model: _core.Model, sampler: _core.Sampler, wishes: str) -> str:
    """What is sampled when each character of `wishes` in turn is by far the likeliest; `$` wishes the end."""
    text = ""
    for wish in wishes:
        logits = row(model) if wish == "$" else row(model, **{wish: 20.0})
        if wish == "$":
            logits[model.eos] = 20.0
        text += model.piece(sampler.sample(logits).token, special=True).decode(errors="replace")
    return text


@pytest.mark.parametrize(
    "start",
    [
        trigger(_core.TriggerKind.WORD, "<<"),
        trigger(_core.TriggerKind.PATTERN, r"\.?(<<)"),
        trigger(_core.TriggerKind.FULL_PATTERN, r"[a-z. ]*(<<)"),
    ],
)
def test_lazy_grammar_begins_at_its_trigger(random_model: _core.Model, start: dict[str, Any]) -> None:
    def sampler() -> _core.Sampler:
        return make_sampler(random_model, grammar='root ::= "<<" "yes" ">>"', temperature=0.0, **start)

    assert said(random_model, sampler(), "so. no <") == "so. no <"
    assert said(random_model, sampler(), "so.<<no!$$") == "so.<<yes>>"
    assert said(random_model, sampler(), "no$") == "no<|im_end|>"


def test_lazy_grammar_begins_at_a_token(script_model: _core.Model) -> None:
    grammar = 'root ::= "<tool_call>" "x"'
    sampler = make_sampler(script_model, grammar=grammar, **trigger(_core.TriggerKind.WORD, "<tool_call>"))
    logits = row(script_model)
    logits[script_model.tokenize("<tool_call>")[0]] = 50
    assert script_model.piece(sampler.sample(logits).token, special=True) == b"<tool_call>"
    assert script_model.piece(sampler.sample(row(script_model, y=50)).token) == b"x"
    assert script_model.is_end(sampler.sample(row(script_model, y=50)).token)


def test_trigger_whose_text_the_grammar_does_not_begin_with(random_model: _core.Model) -> None:
    start = trigger(_core.TriggerKind.WORD, "<<")
    sampler = make_sampler(random_model, grammar='root ::= "other"', temperature=0.0, **start)
    assert said(random_model, sampler, "a<") == "a<"
    with pytest.raises(_core.GrammarError):
        sampler.sample(row(random_model, **{"<": 20.0}))
    with pytest.raises(_core.GrammarError, match="failed before"):
        sampler.sample(row(random_model))


@pytest.mark.parametrize(
    ("kind", "value", "error"),
    [
        (_core.TriggerKind.PATTERN, "(((", _core.GrammarError),
        (_core.TriggerKind.PATTERN, "a{1000}{1000}{1000}", _core.GrammarError),
        (_core.TriggerKind.PATTERN, "(" * 100_000 + ")" * 100_000, ValueError),
        (_core.TriggerKind.WORD, "", ValueError),
        (_core.TriggerKind.WORD, "x" * 100_000, ValueError),
    ],
)
def test_triggers_that_cannot_be_used(
    random_model: _core.Model, kind: _core.TriggerKind, value: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        make_sampler(random_model, grammar='root ::= "a"', **trigger(kind, value))


def test_lazy_grammar_without_triggers(random_model: _core.Model) -> None:
    with pytest.raises(ValueError, match="trigger"):
        make_sampler(random_model, grammar='root ::= "a"', grammar_lazy=True)


# --- tokens that a grammar cannot take -------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, {"temperature": 0.0}, {"top_k": 0}, {"mirostat": 1}, {"adaptive_target": 0.5}])
def test_biases_against_the_grammar(random_model: _core.Model, fields: dict[str, Any]) -> None:
    a = random_model.tokenize("a")[0]
    sampler = make_sampler(random_model, grammar='root ::= "a"', logit_bias=[(a, -math.inf)], **fields)
    with pytest.raises(_core.GrammarError, match="forbid"):
        sampler.sample(row(random_model, b=5))
    with pytest.raises(_core.GrammarError, match="failed before"):
        sampler.sample(row(random_model, a=5))


def test_grammar_that_no_token_can_begin(random_model: _core.Model) -> None:
    sampler = make_sampler(random_model, grammar="root ::= [z-a]")
    with pytest.raises(_core.GrammarError, match="no token"):
        sampler.sample(row(random_model))


@pytest.mark.parametrize(
    "grammar",
    [
        "root ::= (",
        'toor ::= "a"',
        "root ::= absent",
        'root ::= root "a" | "b"',
        'root ::= "a',
        "root ::= [a",
        'root ::= "\\q"',
        'root ::= "\\x',
        'root ::= "a"{5,2}',
        'root ::= "a"{ 5 , 2 }',
        'root ::= "a"{3000}',
        'root ::= "a"{-1}',
        'root ::= "a"{99999999999999999999}',
        "root ::= " + "(" * 100_000 + '"a"' + ")" * 100_000,
        'root ::= "' + "a" * 2_000_000 + '"',
        "root",
        "::=",
        "\0",
    ],
    ids=lambda text: text[:24],
)
def test_grammars_that_cannot_be_used(random_model: _core.Model, grammar: str) -> None:
    with pytest.raises(_core.GrammarError):
        make_sampler(random_model, grammar=grammar)


@pytest.mark.parametrize(
    "grammar",
    [
        "root ::= " + " | ".join(['"(((["'] * 300),
        'root ::= "{5,2}" | [(] [(] | "\\"(" # (((( {9,1}',
        'root ::= ("a"? "b"?)* "c"',
        "root ::= list\nlist ::= item (ws item)*\nitem ::= [a-z]+\nws ::= ([ \\t\\n] ws)?",
        "root ::= r0\n" + "\n".join(f"r{i} ::= r{i + 1}" for i in range(2000)) + '\nr2000 ::= "a"',
        'root ::=\n  "a" |\n  "b" # the end\n',
        'root ::= a-1 | a-2\na-1 ::= "x" a-2?\na-2 ::= "y" a-1*\n',
    ],
    ids=["parentheses in texts", "all kinds of text", "empty parts", "spaces", "chain", "lines", "recursion"],
)
def test_grammars_that_look_dangerous_and_are_not(random_model: _core.Model, grammar: str) -> None:
    assert make_sampler(random_model, grammar=grammar).sample(row(random_model)).token >= 0


def test_an_end_token_cannot_be_prefilled(script_model: _core.Model) -> None:
    options = _core.SamplerOptions()
    options.grammar, options.grammar_prefill = 'root ::= "a"+', "<|im_end|>"
    with pytest.raises(_core.GrammarError, match="end token"):
        _core.Sampler(script_model, options)
