"""Stopping a decode: it leaves everything as it was, and a request for one decode never hits another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from native.objects import ABORTED, DONE, greedy, make_batch, make_context, make_sampler, prefill

from dmr import _core

LONG = 4000  # tokens; computing them takes about a second
PROMPTS = [[10, 20, 30], [40, 50, 60, 70, 80], [11, 12]]


def long_context(model: _core.Model, **fields: int) -> _core.Context:
    return make_context(model, context_size=8192, max_batch=LONG + 64, max_sequences=4, **fields)


def start(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def abort_amid(context: _core.Context, work: Callable[[], object]) -> None:
    """Run `work` on a thread and abort the decode that it begins, once it is under way."""
    number = context.next_decode
    thread = start(work)
    while context.next_decode == number:
        time.sleep(0.001)
    time.sleep(0.02)
    context.abort(number)
    thread.join(timeout=20)
    assert not thread.is_alive()


def test_every_sequence_of_the_batch_is_as_before(random_model: _core.Model) -> None:
    """One that generates, one whose prompt goes on, one that shares cells, a new one, and one that takes no part."""
    context = long_context(random_model)
    prefill(context, 0, PROMPTS[0])
    prefill(context, 1, PROMPTS[1])
    context.copy(1, 2, 0, 4)
    statuses: list[_core.DecodeStatus] = []
    batch = make_batch((0, [7], 3), (2, [8, 9], 4), (3, [5] * LONG, 0))
    abort_amid(context, lambda: statuses.append(context.decode(batch)))
    assert statuses == [ABORTED]
    assert [context.position_max(i) for i in range(4)] == [2, 4, 3, -1]
    assert greedy(context, 0, [7], 5) == greedy(make_context(random_model), 0, [*PROMPTS[0], 7], 5)
    assert greedy(context, 1, [7], 5) == greedy(make_context(random_model), 0, [*PROMPTS[1], 7], 5)
    assert greedy(context, 2, [8, 9], 5) == greedy(make_context(random_model), 0, [*PROMPTS[1][:4], 8, 9], 5)
    assert greedy(context, 3, PROMPTS[2], 5) == greedy(make_context(random_model), 0, PROMPTS[2], 5)


def test_an_aborted_step_samples_nothing(random_model: _core.Model) -> None:
    context, pool = long_context(random_model, max_outputs=8), _core.ThreadPool(1)
    results: list[_core.StepResult] = []
    row = (make_sampler(random_model, seed=1), _core.Detokenizer(random_model))
    batch = _core.Batch()
    index = batch.add(0, PROMPTS[0], 0, drafts=[1, 2, 3])
    batch.add(1, [5] * LONG, 0, output_last=False)
    abort_amid(context, lambda: results.append(_core.step(context, batch, [(index, *row)], pool)))
    assert (results[0].status, results[0].rows) == (ABORTED, [])
    assert context.position_max(0) == -1
    again = _core.Batch()
    index = again.add(0, PROMPTS[0], 0)
    fresh = (make_sampler(random_model, seed=1), _core.Detokenizer(random_model))
    expected = _core.step(make_context(random_model), again, [(index, *fresh)], pool).rows
    assert _core.step(context, again, [(index, *row)], pool).rows == expected


def test_it_can_be_aborted_before_it_begins(random_model: _core.Model) -> None:
    context = make_context(random_model)
    prefill(context, 0, PROMPTS[0])
    context.abort(context.next_decode + 1)
    assert prefill(context, 0, [1]).shape
    number = context.next_decode
    assert context.decode(make_batch((0, [2], 4))) == ABORTED
    assert context.next_decode == number + 1
    assert context.position_max(0) == 3
    with pytest.raises(ValueError, match="no output"):
        context.logits(0)
    assert context.decode(make_batch((0, [2], 4))) == DONE


def test_a_request_that_comes_late_hits_nobody(random_model: _core.Model) -> None:
    context = make_context(random_model)
    number = context.next_decode
    prefill(context, 0, PROMPTS[0])
    context.abort(number)
    assert context.decode(make_batch((0, [2], 3))) == DONE


def test_a_request_that_comes_late_hides_no_other(random_model: _core.Model) -> None:
    context = make_context(random_model)
    number = context.next_decode
    prefill(context, 0, PROMPTS[0])
    context.abort(number + 1)
    context.abort(number)
    assert context.decode(make_batch((0, [2], 3))) == ABORTED


def test_abort_without_a_number_means_the_running_one(random_model: _core.Model) -> None:
    context = make_context(random_model)
    context.abort()
    assert context.decode(make_batch((0, [1, 2], 0))) == DONE
    context.abort()
    assert context.decode(make_batch((0, [3], 2))) == DONE


def test_a_wrong_batch_has_a_number_too(random_model: _core.Model) -> None:
    context = make_context(random_model)
    number = context.next_decode
    context.abort(number)
    with pytest.raises(ValueError, match="goes on at position"):
        context.decode(make_batch((0, [1], 5)))
    assert context.next_decode == number + 1
    assert context.decode(make_batch((0, [1], 0))) == DONE


def test_nobody_waits_to_abort(random_model: _core.Model) -> None:
    """Neither reading the number nor asking for the abort waits for the decode that they are about."""
    context, batch = long_context(random_model), make_batch((0, [5] * LONG, 0))
    statuses: list[_core.DecodeStatus] = []
    thread = start(lambda: statuses.append(context.decode(batch)))
    while context.next_decode == 0:
        time.sleep(0.001)
    began = time.monotonic()
    context.abort(context.next_decode - 1)
    assert time.monotonic() - began < 0.05
    thread.join(timeout=20)
    assert statuses == [ABORTED]


def test_the_log_says_nothing_of_an_abort(random_model: _core.Model) -> None:
    context, batch = long_context(random_model), make_batch((0, [5] * LONG, 0))
    _core.take_log()
    abort_amid(context, lambda: context.decode(batch))
    assert _core.take_log() == []
