"""Guesses of a model: its likeliest tokens, many sequences at once, as long as it is sure."""

from __future__ import annotations

import numpy as np
import pytest
from native.objects import greedy, make_context, prefill

from dmr import _core

PROMPTS = [[10, 20, 30], [40, 50, 60, 70, 80, 90, 100], [11], [10, 20, 30, 200, 201]]


def test_guesses_are_the_likeliest_tokens(random_model: _core.Model) -> None:
    context = make_context(random_model, max_sequences=4)
    counts = [5, 0, 1, 8]
    rows = [(i, prompt, 0, count) for i, (prompt, count) in enumerate(zip(PROMPTS, counts, strict=True))]
    alone = [greedy(make_context(random_model), 0, prompt, 8) for prompt in PROMPTS]
    drafts = _core.draft(context, rows, 0.0)
    assert drafts == [answer[:count] for answer, count in zip(alone, counts, strict=True)]
    held = [len(prompt) + max(0, count - 1) for prompt, count in zip(PROMPTS, counts, strict=True)]
    assert [context.position_max(i) + 1 for i in range(4)] == held


def test_it_goes_on_where_it_stood(random_model: _core.Model) -> None:
    """The last guess is not in the memory yet, so it comes first in the next call."""
    context = make_context(random_model)
    answer = greedy(make_context(random_model), 0, PROMPTS[0], 10)
    assert _core.draft(context, [(0, PROMPTS[0], 0, 4)], 0.0) == [answer[:4]]
    assert _core.draft(context, [(0, answer[3:4], 6, 6)], 0.0) == [answer[4:]]
    context.remove(0, 3)
    assert _core.draft(context, [(0, answer[:2], 3, 1)], 0.0) == [answer[2:3]]


def test_it_stops_where_it_is_not_sure(random_model: _core.Model) -> None:
    context = make_context(random_model)
    answer = greedy(context, 0, PROMPTS[0], 12)
    context.remove(0)
    probabilities = []
    for done in range(12):
        logits = prefill(context, 0, PROMPTS[0] if done == 0 else answer[done - 1 : done]).astype(np.float64)
        probabilities.append(1 / np.exp(logits - logits.max()).sum())
    for place in (1, 5):
        context.remove(0)
        bound = 1.001 * max(probabilities[place], 1e-9)
        sure = next(i for i, probability in enumerate(probabilities) if probability < bound)
        assert _core.draft(context, [(0, PROMPTS[0], 0, 12)], bound) == [answer[:sure]]


def test_no_room_is_told(random_model: _core.Model) -> None:
    context = make_context(random_model, context_size=256, max_batch=256)
    prefill(context, 0, [7] * 250)
    assert _core.draft(context, [(0, [1, 2], 250, 20)], 0.0) is None
    context.clear()
    assert _core.draft(context, [(0, [1, 2], 0, 20)], 0.0) is not None


def test_what_cannot_be_drafted(random_model: _core.Model) -> None:
    context = make_context(random_model)
    assert _core.draft(context, [], 0.0) == []
    for wrong in ([(0, [], 0, 3)], [(0, [-1], 0, 3)], [(1, [1], 0, 3)], [(0, [1], 4, 3)], [(0, [1] * 129, 0, 3)]):
        with pytest.raises(ValueError):
            _core.draft(context, wrong, 0.0)
    assert context.position_max(0) == -1
