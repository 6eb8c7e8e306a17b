"""A thought ends when it has its number of tokens: the end tag must follow, and then all is as before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from native.objects import make_sampler

from dmr import _core

OPEN: dict[str, Any] = {"thought_start": "<think>", "thought_end": "</think>", "thought_is_open": True}
CLOSED = OPEN | {"thought_is_open": False}


class Writer:
    """A model that would write the given text, a token for each byte; what the sampler makes of it."""

    def __init__(self, model: _core.Model, **fields: Any) -> None:
        self.model = model
        self.sampler = make_sampler(model, **{"temperature": 0.0, **fields})
        self.written = b""
        self.tokens: list[int] = []

    def token(self, byte: int) -> int:
        return next(t for t in range(256) if self.model.piece(t) == bytes([byte]))

    def write(self, text: str | bytes) -> bytes:
        """Wants to write these bytes; one that is not taken is tried again. Returns all that is written so far."""
        for byte in text.encode() if isinstance(text, str) else text:
            for _ in range(20):
                wanted = self.token(byte)
                if self.step(wanted) == wanted:
                    break
        return self.written

    def step(self, wanted: int) -> int:
        logits = np.zeros(self.model.num_vocabulary, np.float32)
        logits[wanted] = 50.0
        token = self.sampler.sample(logits).token
        self.tokens.append(token)
        self.written += self.model.piece(token, special=True)
        return token


@pytest.mark.parametrize("budget", [0, 1, 5, 19])
def test_an_open_thought_is_ended_after_its_tokens(random_model: _core.Model, budget: int) -> None:
    writer = Writer(random_model, **OPEN, thought_budget=budget)
    text = "abcdefghijklmnopqrs ok"
    assert writer.write(text).decode() == text[:budget] + "</think>" + text[budget:]


def test_a_thought_that_begins_later_is_counted_from_its_tag(random_model: _core.Model) -> None:
    writer = Writer(random_model, **CLOSED, thought_budget=3)
    assert writer.write("a<b c<think>1234567").decode() == "a<b c<think>123</think>4567"


def test_tags_may_take_many_tokens(random_model: _core.Model) -> None:
    """And the tokens of a tag's text in a longer text need not be those of the tag alone."""
    fields: dict[str, Any] = {"thought_start": "[ the", "thought_end": "]] you", "thought_is_open": False}
    assert len(random_model.tokenize("]] you", add_special=False)) == 4
    writer = Writer(random_model, **fields, thought_budget=3)
    assert writer.write("a[ the1]]yz").decode() == "a[ the1]] youyz"


def test_budget_nothing_ends_it_at_once(random_model: _core.Model) -> None:
    assert Writer(random_model, **CLOSED, thought_budget=0).write("<think>12").decode() == "<think></think>12"


def test_a_thought_that_ends_in_time_is_left_alone_and_the_next_one_counts_anew(random_model: _core.Model) -> None:
    writer = Writer(random_model, **OPEN, thought_budget=12)
    text = "abc</think>a long answer that is no thought<think>"
    assert writer.write(text).decode() == text
    assert writer.write("0123456789abcdef").decode() == text + "0123456789ab</think>cdef"


@pytest.mark.parametrize("written", ["<", "</th", "</think"])
def test_an_end_tag_that_has_begun_is_completed(random_model: _core.Model, written: str) -> None:
    writer = Writer(random_model, **OPEN, thought_budget=2 + len(written))
    assert writer.write(f"ab{written}xyz").decode() == "ab</think>xyz"


def test_a_character_is_finished_first(random_model: _core.Model) -> None:
    for budget in range(1, 5):
        writer = Writer(random_model, **OPEN, thought_budget=budget)
        assert writer.write("🌞rain").decode() == "🌞</think>rain"
    assert Writer(random_model, **OPEN, thought_budget=5).write("🌞rain").decode() == "🌞r</think>ain"


def test_bytes_that_never_become_a_character_do_not_go_on(random_model: _core.Model) -> None:
    assert Writer(random_model, **OPEN, thought_budget=2).write(b"\xf0" * 9).startswith(b"\xf0" * 5 + b"</think>\xf0")


def test_a_tag_that_is_one_token(think_model: _core.Model) -> None:
    start, end = think_model.tokenize("<think></think>", add_special=False)
    writer = Writer(think_model, **CLOSED, thought_budget=2)
    assert writer.step(start) == start
    writer.write("abcd")
    assert writer.tokens[0] == start
    assert writer.tokens.index(end) == 3
    assert writer.written == b"<think>ab</think>cd"


def test_the_model_may_end_its_turn_within_a_thought(random_model: _core.Model) -> None:
    writer = Writer(random_model, **OPEN, thought_budget=5)
    assert writer.step(random_model.end_tokens[0]) == random_model.end_tokens[0]


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_biases_and_draws_do_not_matter_while_the_tag_is_written(random_model: _core.Model, temperature: float) -> None:
    forbidden = [(token, -float("inf")) for token in random_model.tokenize("</think>", add_special=False)]
    sampler = make_sampler(
        random_model, **OPEN, thought_budget=4, temperature=temperature, logit_bias=forbidden, seed=3
    )
    logits = np.full(random_model.num_vocabulary, -100.0, np.float32)
    logits[[random_model.tokenize(letter)[0] for letter in "abcdef"]] = [1.0, 2.0, 3.0, 4.0, 5.0, 5.0]
    text = b"".join(random_model.piece(sampler.sample(logits).token) for _ in range(20))
    assert text.find(b"</think>") == 4
    assert text.count(b"<") == 1


def test_probabilities_of_the_tag_are_the_models_own(random_model: _core.Model) -> None:
    sampler = make_sampler(random_model, **OPEN, thought_budget=0, num_logprobs=1)
    logits = np.zeros(random_model.num_vocabulary, np.float32)
    logits[0] = 5.0
    sampled = sampler.sample(logits)
    expected = -np.log(np.exp(5.0) + random_model.num_vocabulary - 1)
    assert sampled.token == random_model.tokenize("</think>", add_special=False)[0]
    assert sampled.logprob == pytest.approx(expected, abs=1e-4)
    assert sampled.top[0].token == 0


# --- beside a grammar ------------------------------------------------------------------------------------------------


def test_a_grammar_that_takes_the_tag_goes_on_after_it(random_model: _core.Model) -> None:
    grammar = r'root ::= [a-z]* "</think>" [0-9] [0-9]'
    writer = Writer(random_model, **OPEN, thought_budget=3, grammar=grammar)
    writer.write("abcd")  # the d is not taken any more: digits follow
    assert writer.written[:11] == b"abc</think>"
    assert writer.written[11:13].isdigit()


def test_a_grammar_that_does_not_take_the_tag_yet_comes_first(random_model: _core.Model) -> None:
    writer = Writer(random_model, **OPEN, thought_budget=2, grammar=r'root ::= "abcde" "</think>" "!"')
    assert writer.write("abcde!") == b"abcde</think>!"


def test_a_grammar_without_the_tag_is_kept(random_model: _core.Model) -> None:
    writer = Writer(random_model, **OPEN, thought_budget=2, grammar=r'root ::= [a-z]+ "."')
    assert writer.write("abcdefgh.") == b"abcdefgh."


def test_a_lazy_grammar_starts_after_the_thought(random_model: _core.Model) -> None:
    start = _core.GrammarTrigger(_core.TriggerKind.WORD, "=")
    fields: dict[str, Any] = {"grammar": 'root ::= "=" [0-9]+', "grammar_lazy": True, "grammar_triggers": [start]}
    writer = Writer(random_model, **OPEN, thought_budget=3, **fields)
    writer.write("abcdef=1")
    assert writer.written == b"abc</think>def=1"
    writer.step(writer.token(ord("x")))
    assert writer.written[16:17].isdigit() or random_model.is_end(writer.tokens[-1])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"thought_budget": -2}, "thought_budget"),
        ({"thought_budget": 1, "thought_end": ""}, "thought_end"),
        ({"thought_budget": 1, "thought_start": "", "thought_is_open": False}, "thought_start"),
        ({"thought_budget": 1, "thought_start": "x" * 300}, "thought_start"),
        ({"thought_budget": 1, "thought_end": "x" * 300}, "thought_end"),
    ],
)
def test_limits_that_cannot_be_kept(random_model: _core.Model, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_sampler(random_model, **{**OPEN, **fields})


def test_a_thought_without_a_start_tag_happens_once(random_model: _core.Model) -> None:
    writer = Writer(random_model, **{**OPEN, "thought_start": ""}, thought_budget=2)
    assert writer.write("abcdefgh" * 9).decode() == "ab</think>" + ("abcdefgh" * 9)[2:]
