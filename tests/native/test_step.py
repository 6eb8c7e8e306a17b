"""One step for many rows: the same as decode, sample and detokenize one by one; a row's failure is its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from native.objects import DONE, NO_ROOM, make_batch, make_context, make_sampler, prefill
from tiny_models import SCRIPT_ANSWER

from dmr import _core

PROMPTS = [[10, 20, 30], [40, 50, 60, 70], [11], [200, 201, 10, 20, 30]]
CHAT = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"

Row = tuple[_core.Sampler, _core.Detokenizer]


def make_rows(model: _core.Model, count: int, **fields: Any) -> list[Row]:
    return [(make_sampler(model, seed=i, **fields), _core.Detokenizer(model)) for i in range(count)]


def run(
    context: _core.Context, rows: list[Row], tokens: list[list[int]], pool: _core.ThreadPool
) -> list[_core.RowResult]:
    batch = _core.Batch()
    places = [batch.add(i, chunk, context.position_max(i) + 1) for i, chunk in enumerate(tokens)]
    result = _core.step(context, batch, [(place, *row) for place, row in zip(places, rows, strict=True)], pool)
    assert result.status == DONE
    return result.rows


@pytest.mark.parametrize("num_threads", [1, 2, 4])
def test_a_step_is_decode_sample_and_push(random_model: _core.Model, num_threads: int) -> None:
    context = make_context(random_model, max_sequences=4)
    rows, pool = make_rows(random_model, 4, num_logprobs=3), _core.ThreadPool(num_threads)
    tokens, said = PROMPTS, [""] * 4
    chosen: list[list[int]] = [[] for _ in PROMPTS]
    for _ in range(10):
        results = run(context, rows, tokens, pool)
        tokens = [list(result.tokens) for result in results]
        for i, result in enumerate(results):
            (scored,) = result.sampled
            chosen[i].append(scored.token)
            said[i] += result.text
            assert (result.tokens, result.error) == ((scored.token,), "")
            assert len(scored.top) == 3
            assert scored.logprob <= scored.top[0].logprob
    for i, prompt in enumerate(PROMPTS):
        lone, (sampler, detokenizer) = make_context(random_model), make_rows(random_model, 4)[i]
        tokens_alone: list[int] = []
        text = ""
        for _ in range(10):
            logits = prefill(lone, 0, tokens_alone[-1:] or prompt)
            tokens_alone.append(sampler.sample(logits).token)
            text += detokenizer.push(tokens_alone[-1])
        assert (chosen[i], said[i]) == (tokens_alone, text)


def test_scripted_answer_ends_by_itself(script_model: _core.Model) -> None:
    context, rows = make_context(script_model), make_rows(script_model, 1, temperature=0.0)
    pool, tokens, text = _core.ThreadPool(1), script_model.tokenize(CHAT), ""
    for _ in range(30):
        (result,) = run(context, rows, [tokens], pool)
        text, tokens = text + result.text, list(result.tokens)
        if result.is_end:
            break
    assert (text, result.is_end, result.stopped_by) == (SCRIPT_ANSWER, True, -1)


def test_end_lets_go_what_was_held_back(script_model: _core.Model) -> None:
    """The answer ends in "ten.", which may become the stop string "ten.x"."""
    context, pool = make_context(script_model), _core.ThreadPool(1)
    row = (make_sampler(script_model, temperature=0.0), _core.Detokenizer(script_model, stop=["ten.x"]))
    tokens, texts = script_model.tokenize(CHAT), []
    for _ in range(30):
        (result,) = run(context, [row], [tokens], pool)
        texts.append(result.text)
        tokens = list(result.tokens)
        if result.is_end:
            break
    assert texts[-2:] == ["", "ten."]
    assert "".join(texts) == SCRIPT_ANSWER


def test_stop_string_ends_a_row(script_model: _core.Model) -> None:
    context, pool = make_context(script_model), _core.ThreadPool(1)
    row = (make_sampler(script_model, temperature=0.0), _core.Detokenizer(script_model, stop=["zero", "ree, f"]))
    tokens, text = script_model.tokenize(CHAT), ""
    for _ in range(30):
        (result,) = run(context, [row], [tokens], pool)
        text, tokens = text + result.text, list(result.tokens)
        if result.stopped_by >= 0:
            break
    assert (text, result.stopped_by, result.is_end) == ("One, two, th", 1, False)


def test_one_rows_failure_leaves_the_others(random_model: _core.Model) -> None:
    context, pool = make_context(random_model, max_sequences=3), _core.ThreadPool(2)
    rows = make_rows(random_model, 3)
    rows[1] = (make_sampler(random_model, grammar="root ::= [z-a]"), rows[1][1])
    for tokens in (PROMPTS[:3], [[5], [5], [5]]):
        results = run(context, rows, tokens, pool)
        assert [bool(result.error) for result in results] == [False, True, False]
        assert all(0 <= results[i].tokens[0] < random_model.num_vocabulary for i in (0, 2))
        assert results[1].tokens == ()


def test_failure_that_quotes_half_a_character_is_readable(random_model: _core.Model) -> None:
    """The last byte of the trigger starts a grammar that refuses it, and llama.cpp quotes that byte."""
    *before, last = (next(t for t in range(256) if random_model.piece(t) == bytes([byte])) for byte in "🌝".encode())
    start = _core.GrammarTrigger(_core.TriggerKind.WORD, "🌝")
    fields = {"grammar": 'root ::= "🌞"', "grammar_lazy": True, "grammar_triggers": [start]}

    def sampler() -> _core.Sampler:
        sampler = make_sampler(random_model, logit_bias=[(last, 1000.0)], **fields)
        for token in before:
            logits = np.zeros(random_model.num_vocabulary, np.float32)
            logits[token] = 1e6
            assert sampler.sample(logits).token == token
        return sampler

    row = (sampler(), _core.Detokenizer(random_model))
    (result,) = run(make_context(random_model), [row], [[1]], _core.ThreadPool(1))
    assert "\ufffd" in result.error
    refused = sampler()
    with pytest.raises(_core.GrammarError, match="\ufffd"):
        refused.sample(np.zeros(random_model.num_vocabulary))


def test_more_rows_than_threads(random_model: _core.Model) -> None:
    context, pool = make_context(random_model, max_sequences=64, context_size=1024), _core.ThreadPool(3)
    results = run(context, make_rows(random_model, 64), [[i] for i in range(64)], pool)
    assert len(results) == 64
    assert len({result.tokens for result in results}) > 10


def test_rows_may_be_none(random_model: _core.Model) -> None:
    result = _core.step(make_context(random_model), make_batch((0, [1, 2], 0)), [], _core.ThreadPool(1))
    assert (result.status, result.rows) == (DONE, [])


def test_no_room_samples_nothing(random_model: _core.Model) -> None:
    context, pool = make_context(random_model, context_size=256), _core.ThreadPool(1)
    for _ in range(2):
        prefill(context, 0, [7] * 128)
    row = make_rows(random_model, 1)[0]
    result = _core.step(context, make_batch((0, [1], 256)), [(0, *row)], pool)
    assert (result.status, result.rows) == (NO_ROOM, [])
    context.remove(0)
    fresh = run(make_context(random_model), make_rows(random_model, 1), [[1]], pool)
    assert run(context, [row], [[1]], pool) == fresh


def test_wrong_rows_change_nothing(random_model: _core.Model) -> None:
    context, pool = make_context(random_model, max_sequences=2), _core.ThreadPool(1)
    first, second = make_rows(random_model, 2)
    batch = make_batch((0, [1, 2, 3], 0))
    for wrong in (
        [(-1, *first)],
        [(3, *first)],
        [(0, *first)],  # no output there
        [(2, *first), (2, *first)],
        [(2, *first), (2, first[0], second[1])],
        [(2, *first), (2, second[0], first[1])],
        [(2, first[0])],
        [()],
    ):
        with pytest.raises(ValueError):
            _core.step(context, batch, wrong, pool)  # type: ignore[arg-type]
    for nonsense in ([5], [None], [(2, None, first[1])], [(2, first[1], first[0])], [("2", *first)]):
        with pytest.raises(TypeError):
            _core.step(context, batch, nonsense, pool)  # type: ignore[arg-type]
    assert context.position_max(0) == -1
    assert _core.step(context, batch, [(2, *first)], pool).status == DONE


@pytest.mark.parametrize("count", [0, 257])
def test_pools_of_impossible_size(count: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        _core.ThreadPool(count)


# --- log probabilities without a sampler -----------------------------------------------------------------------------


def test_scores_are_the_models_log_probabilities(random_model: _core.Model) -> None:
    context, pool = make_context(random_model, max_outputs=16, max_sequences=2), _core.ThreadPool(2)
    batch = _core.Batch()
    batch.add(0, PROMPTS[0], 0, output_all=True)
    last = batch.add(1, PROMPTS[1], 0)
    assert _core.step(context, batch, [], pool).status == DONE
    rows = [(0, 20, 0), (1, 30, 3), (last, 7, 500), (1, 30, 3)]
    for (place, target, num_top), scored in zip(rows, _core.score(context, rows, pool), strict=True):
        logits = context.logits(place).astype(np.float64)
        expected = logits - np.log(np.exp(logits).sum())
        assert (scored.token, len(scored.top)) == (target, min(num_top, random_model.num_vocabulary))
        assert scored.logprob == pytest.approx(expected[target], abs=1e-4)
        order = np.argsort(-expected)[: len(scored.top)]
        assert [entry.logprob for entry in scored.top] == pytest.approx(list(expected[order]), abs=1e-4)
    assert _core.score(context, [], pool) == []


def test_what_cannot_be_scored(random_model: _core.Model) -> None:
    context, pool = make_context(random_model), _core.ThreadPool(1)
    with pytest.raises(ValueError):  # nothing has been decoded
        _core.score(context, [(0, 1, 0)], pool)
    prefill(context, 0, [1, 2, 3])
    for row in [(0, 1, 0), (3, 1, 0), (-1, 1, 0), (2, -1, 0), (2, 437, 0), (2, 1, -1), (2, 1, 1025)]:
        with pytest.raises(ValueError):
            _core.score(context, [row], pool)
    for nonsense in ([(2, 1)], [None], [(2, 1, None)], 5, [(2, 2**40, 0)]):
        with pytest.raises(TypeError):
            _core.score(context, nonsense, pool)  # type: ignore[arg-type]
    assert _core.score(context, [(2, 1, 0)], pool)[0].token == 1
