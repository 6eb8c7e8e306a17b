"""A sequence's state as bytes: taken out, put back, and refused when it is damaged or foreign."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from native.objects import greedy, make_context, prefill

from dmr import _core

PROMPT = [10, 20, 30, 40, 50, 60]
TYPES = {"q8": {"key_type": "q8_0", "value_type": "q8_0", "flash_attention": "on"}, "f32": {"key_type": "f32"}}


def filled(model: _core.Model, **fields: Any) -> _core.Context:
    context = make_context(model, **{"max_sequences": 4, **fields})
    prefill(context, 0, PROMPT)
    return context


@pytest.mark.parametrize("unified", [True, False], ids=["unified", "streams"])
@pytest.mark.parametrize("fields", [{}, *TYPES.values()], ids=["f16", *TYPES])
def test_restored_sequence_goes_on_the_same(random_model: _core.Model, unified: bool, fields: dict[str, str]) -> None:
    context = filled(random_model, unified=unified, **fields)
    state = context.save(0)
    expected = greedy(context, 0, [7], 10)
    assert context.restore(2, state)
    assert (context.position_min(2), context.position_max(2)) == (0, len(PROMPT) - 1)
    assert greedy(context, 2, [7], 10) == expected
    other = make_context(random_model, max_sequences=4, unified=unified, **fields)
    assert other.restore(1, state)
    assert greedy(other, 1, [7], 10) == expected


def test_state_moves_to_a_context_of_another_size(random_model: _core.Model) -> None:
    state = filled(random_model, context_size=1024).save(0)
    small = make_context(random_model, context_size=256, max_sequences=1)
    assert small.restore(0, state)
    assert greedy(small, 0, [7], 5) == greedy(filled(random_model), 0, [7], 5)


def test_restore_replaces_what_was_there(random_model: _core.Model) -> None:
    context = filled(random_model)
    state = context.save(0)
    expected = greedy(context, 0, [7], 5)
    prefill(context, 1, [3] * 20)
    assert context.restore(1, state)
    assert greedy(context, 1, [7], 5) == expected


def test_empty_sequence_is_a_state_too(random_model: _core.Model) -> None:
    context = filled(random_model)
    state = context.save(3)
    assert context.restore(0, state)
    assert context.position_max(0) == -1


def test_no_room_is_said_and_leaves_the_others(random_model: _core.Model) -> None:
    large = make_context(random_model, context_size=512, max_sequences=2)
    for _ in range(4):
        prefill(large, 0, [5] * 100)
    small = make_context(random_model, context_size=256, max_sequences=2)
    prefill(small, 1, PROMPT)
    assert small.restore(0, large.save(0)) is False
    assert (small.position_max(0), small.position_max(1)) == (-1, len(PROMPT) - 1)
    assert greedy(small, 1, [7], 5) == greedy(filled(random_model), 0, [7], 5)


def test_nothing_changes_when_bytes_are_refused(random_model: _core.Model) -> None:
    context = filled(random_model)
    prefill(context, 1, PROMPT)
    state = context.save(0)
    for wrong in (b"", b"x", b"\0" * 100, state[:-1], state[:31], state[:40], state + b"x", state[1:]):
        with pytest.raises(ValueError, match="state"):
            context.restore(1, wrong)
    assert context.position_max(1) == len(PROMPT) - 1
    assert greedy(context, 1, [7], 5) == greedy(context, 0, [7], 5)


def test_every_damaged_byte_is_noticed(random_model: _core.Model) -> None:
    context = filled(random_model)
    state = context.save(0)
    chance = random.Random(1)
    places = [*range(64), *(chance.randrange(len(state)) for _ in range(300))]
    for place in places:
        damaged = bytearray(state)
        damaged[place] ^= 1 << chance.randrange(8)
        with pytest.raises(ValueError, match="state"):
            context.restore(1, bytes(damaged))
    assert context.position_max(1) == -1


@pytest.mark.parametrize("fields", [*TYPES.values(), {"unified": False}, {"flash_attention": "off"}])
def test_state_of_another_layout_is_refused(random_model: _core.Model, fields: dict[str, Any]) -> None:
    state = filled(random_model, **fields).save(0)
    with pytest.raises(ValueError, match="another model or layout"):
        filled(random_model).restore(1, state)


def test_state_of_another_model_is_refused(random_model: _core.Model, script_model: _core.Model) -> None:
    with pytest.raises(ValueError, match="another model or layout"):
        filled(random_model).restore(1, filled(script_model).save(0))


def test_states_do_not_depend_on_the_slot(random_model: _core.Model) -> None:
    context = filled(random_model)
    prefill(context, 1, [9] * 7)
    prefill(context, 2, PROMPT)
    rows = []
    for slot in (0, 2):
        fresh = make_context(random_model)
        assert fresh.restore(0, context.save(slot))
        rows.append(prefill(fresh, 0, [7]))
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-3)


@pytest.mark.parametrize("call", [lambda c: c.save(4), lambda c: c.restore(-1, c.save(0))])
def test_wrong_sequences(random_model: _core.Model, call: Callable[[_core.Context], object]) -> None:
    with pytest.raises(ValueError, match="out of range"):
        call(filled(random_model))
