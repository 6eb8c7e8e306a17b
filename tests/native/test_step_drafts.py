"""Guesses in a step: a row gets the tokens that it would have got one by one, and wrong ones are forgotten."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import pytest
from native.objects import DONE, make_context, make_sampler, prefill
from tiny_models import SCRIPT_ANSWER

from dmr import _core

CHAT = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
PROMPT = [10, 20, 30, 40, 50]


class Answer(NamedTuple):
    tokens: list[int]
    text: str
    is_end: bool
    stopped_by: int
    logprobs: list[float]


class Speaker:
    """One sequence of a context that asks for its next tokens, with guesses."""

    def __init__(
        self, context: _core.Context, model: _core.Model, slot: int, prompt: list[int], stop: list[str], **fields: Any
    ) -> None:
        self.context, self.slot = context, slot
        self.generator = (make_sampler(model, **fields), _core.Detokenizer(model, stop=stop))
        self.generator[0].observe(prompt)
        self.uncomputed = prompt
        self.num_computed = 0
        self.answer = Answer([], "", False, -1, [])

    def add_to(self, batch: _core.Batch, drafts: list[int]) -> tuple[int, _core.Sampler, _core.Detokenizer]:
        index = batch.add(self.slot, self.uncomputed, self.num_computed, drafts=drafts)
        self.num_computed += len(self.uncomputed)
        return index, *self.generator

    def take(self, row: _core.RowResult) -> None:
        assert row.error == ""
        assert row.tokens
        self.num_computed += len(row.tokens) - 1
        assert self.context.position_max(self.slot) == self.num_computed - 1
        self.uncomputed = [row.tokens[-1]]
        so_far = self.answer
        self.answer = Answer(
            [*so_far.tokens, *row.tokens],
            so_far.text + row.text,
            row.is_end,
            row.stopped_by,
            so_far.logprobs + [sampled.logprob for sampled in row.sampled],
        )

    @property
    def is_done(self) -> bool:
        return self.answer.is_end or self.answer.stopped_by >= 0


def step(context: _core.Context, speakers: list[Speaker], drafts: list[list[int]]) -> list[_core.RowResult]:
    batch = _core.Batch()
    rows = [speaker.add_to(batch, guesses) for speaker, guesses in zip(speakers, drafts, strict=True)]
    result = _core.step(context, batch, rows, _core.ThreadPool(2))
    assert result.status == DONE
    for speaker, row in zip(speakers, result.rows, strict=True):
        speaker.take(row)
    return result.rows


def answer_alone(
    model: _core.Model, prompt: list[int], count: int, stop: list[str] | None = None, **fields: Any
) -> Answer:
    speaker = Speaker(make_context(model), model, 0, prompt, stop or [], **fields)
    while len(speaker.answer.tokens) < count and not speaker.is_done:
        step(speaker.context, [speaker], [[]])
    return speaker.answer


def guesses_at(known: list[int], done: int, count: int, dice: random.Random) -> list[int]:
    """Up to `count` of the tokens after the first `done`; now and then one of them is wrong."""
    drafts = known[done : done + count]
    if drafts and dice.random() < 0.5:
        place = dice.randrange(len(drafts))
        drafts[place] = (drafts[place] + 1) % 256
    return drafts


SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "warm": {"temperature": 1.0, "seed": 7},
    "hot with penalties": {"temperature": 1.5, "seed": 3, "repeat_penalty": 1.3, "repeat_last_n": 8, "top_k": 0},
    "mirostat": {"mirostat": 2, "seed": 5},
    "grammar": {"grammar": "root ::= [a-e]+", "seed": 2, "ignore_eos": True},
    "log probabilities": {"temperature": 0.8, "seed": 9, "num_logprobs": 2},
}


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
@pytest.mark.parametrize("width", [1, 4])
def test_guesses_change_no_answer(random_model: _core.Model, sampling: dict[str, Any], width: int) -> None:
    alone = answer_alone(random_model, PROMPT, 40, **sampling)
    dice = random.Random(1)
    speaker = Speaker(make_context(random_model, max_outputs=width + 1), random_model, 0, PROMPT, [], **sampling)
    num_steps = 0
    while len(speaker.answer.tokens) < 40:
        done = len(speaker.answer.tokens)
        step(speaker.context, [speaker], [guesses_at(alone.tokens, done, min(width, 39 - done), dice)])
        num_steps += 1
    assert num_steps < 35, "no guess was right"
    assert speaker.answer.tokens == alone.tokens
    assert speaker.answer.text == alone.text
    assert speaker.answer.logprobs == pytest.approx(alone.logprobs, abs=0.02)


def test_guesses_of_some_rows_in_a_mixed_batch(random_model: _core.Model) -> None:
    prompts = [[i + 1, i + 2, i + 3] for i in range(4)]
    alone = [answer_alone(random_model, prompt, 24, temperature=1.0, seed=i) for i, prompt in enumerate(prompts)]
    context = make_context(random_model, max_sequences=5, max_outputs=16)
    speakers = [
        Speaker(context, random_model, i, prompt, [], temperature=1.0, seed=i) for i, prompt in enumerate(prompts)
    ]
    prefill(context, 4, [9, 9, 9])  # somebody who does not take part
    dice = random.Random(4)
    while speaking := [speaker for speaker in speakers if len(speaker.answer.tokens) < 24]:
        drafts = []
        for speaker in speaking:
            done = len(speaker.answer.tokens)
            most = min(dice.choice([0, 0, 1, 3]), 23 - done)
            drafts.append(guesses_at(alone[speaker.slot].tokens, done, most, dice))
        step(context, speaking, drafts)
    assert [speaker.answer.text for speaker in speakers] == [answer.text for answer in alone]
    assert context.position_max(4) == 2


def test_the_end_of_the_answer_ends_its_guesses(script_model: _core.Model) -> None:
    prompt = script_model.tokenize(CHAT)
    alone = answer_alone(script_model, prompt, 30, temperature=0.0)
    assert (alone.text, alone.is_end) == (SCRIPT_ANSWER, True)
    context = make_context(script_model, max_outputs=32)
    speaker = Speaker(context, script_model, 0, prompt, [], temperature=0.0)
    (row,) = step(context, [speaker], [[*alone.tokens, 1, 2, 3]])
    assert speaker.answer == alone
    assert (row.tokens[-1], script_model.is_end(row.tokens[-1])) == (alone.tokens[-1], True)


def test_a_stop_string_ends_the_guesses(script_model: _core.Model) -> None:
    prompt, stop = script_model.tokenize(CHAT), ["zero", "ree, f"]
    tokens = answer_alone(script_model, prompt, 30, temperature=0.0).tokens
    alone = answer_alone(script_model, prompt, 30, stop, temperature=0.0)
    speaker = Speaker(make_context(script_model, max_outputs=32), script_model, 0, prompt, stop, temperature=0.0)
    step(speaker.context, [speaker], [tokens])
    assert speaker.answer == alone
    assert (alone.text, alone.stopped_by, len(alone.tokens)) == ("One, two, th", 1, 4)


def test_a_wrong_guess_leaves_no_trace_in_the_memory(random_model: _core.Model) -> None:
    context, plain = make_context(random_model, max_outputs=8), make_context(random_model)
    speaker = Speaker(context, random_model, 0, PROMPT, [], temperature=0.0)
    wrong = [(answer_alone(random_model, PROMPT, 1, temperature=0.0).tokens[0] + 1) % 256] * 5
    (row,) = step(context, [speaker], [wrong])
    assert len(row.tokens) == 1
    assert context.position_max(0) == len(PROMPT) - 1
    prefill(plain, 0, PROMPT)
    difference = abs(prefill(context, 0, [7, 8, 9]) - prefill(plain, 0, [7, 8, 9]))
    assert difference.max() < 1e-3


def test_an_error_takes_all_guesses_back(random_model: _core.Model) -> None:
    context, batch = make_context(random_model, max_outputs=8), _core.Batch()
    row = (make_sampler(random_model, grammar="root ::= [z-a]"), _core.Detokenizer(random_model))
    index = batch.add(0, PROMPT, 0, drafts=[1, 2, 3])
    (result,) = _core.step(context, batch, [(index, *row)], _core.ThreadPool(1)).rows
    assert (bool(result.error), result.tokens) == (True, ())
    assert context.position_max(0) == len(PROMPT) - 1


def test_guesses_without_a_row_are_refused(random_model: _core.Model) -> None:
    context, batch, pool = (
        make_context(random_model, max_outputs=8, max_sequences=2),
        _core.Batch(),
        _core.ThreadPool(1),
    )
    index = batch.add(0, PROMPT, 0, drafts=[1, 2])
    batch.add(1, PROMPT, 0, drafts=[3])
    row = (make_sampler(random_model), _core.Detokenizer(random_model))
    twice = (make_sampler(random_model), _core.Detokenizer(random_model))
    for rows in ([], [(index, *row)], [(index, *row), (index, *twice)]):
        with pytest.raises(ValueError, match="guesses need a row"):
            _core.step(context, batch, rows, pool)
    assert context.position_max(0) == -1


def test_more_outputs_than_there_are_rows_for(random_model: _core.Model) -> None:
    context, batch = make_context(random_model, max_outputs=3), _core.Batch()
    row = (make_sampler(random_model), _core.Detokenizer(random_model))
    index = batch.add(0, PROMPT, 0, drafts=[1, 2, 3])
    with pytest.raises(ValueError, match="4 outputs"):
        _core.step(context, batch, [(index, *row)], _core.ThreadPool(1))


def test_guesses_must_be_tokens(random_model: _core.Model) -> None:
    context, batch = make_context(random_model, max_outputs=3), _core.Batch()
    row = (make_sampler(random_model), _core.Detokenizer(random_model))
    index = batch.add(0, PROMPT, 0, drafts=[random_model.num_vocabulary])
    with pytest.raises(ValueError, match="not in the vocabulary"):
        _core.step(context, batch, [(index, *row)], _core.ThreadPool(1))


def test_the_place_of_the_last_certain_token_is_returned(random_model: _core.Model) -> None:
    batch = _core.Batch()
    assert batch.add(0, [1, 2, 3], 0, drafts=[4, 5]) == 2
    assert batch.add(1, [1], 0) == 5
    assert len(batch) == 6
    assert make_context(random_model).can_truncate
