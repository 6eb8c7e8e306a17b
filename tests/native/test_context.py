"""Contexts: mixed batches, memory by sequence, both layouts, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from native.objects import ABORTED, DONE, NO_ROOM, greedy, make_batch, make_context, prefill

from dmr import _core

PROMPTS = [[10, 20, 30], [40, 50, 60, 70, 80, 90, 100], [11], [10, 20, 30, 200, 201]]
LAYOUTS = pytest.mark.parametrize("unified", [True, False], ids=["unified", "streams"])


def together(context: _core.Context, prompts: list[list[int]], count: int) -> list[list[int]]:
    """The likeliest tokens after each prompt, all of them decoded in common batches."""
    answers: list[list[int]] = [[] for _ in prompts]
    for _ in range(count):
        batch = _core.Batch()
        places = []
        for i, prompt in enumerate(prompts):
            tokens = answers[i][-1:] or prompt
            places.append(batch.add(i, tokens, context.position_max(i) + 1))
        assert context.decode(batch) == DONE
        for answer, place in zip(answers, places, strict=True):
            answer.append(int(np.argmax(context.logits(place))))
    return answers


def alone(model: _core.Model, prompts: list[list[int]], count: int, **fields: Any) -> list[list[int]]:
    return [greedy(make_context(model, **fields), 0, prompt, count) for prompt in prompts]


@LAYOUTS
@pytest.mark.parametrize("types", [{}, {"key_type": "q8_0", "value_type": "q8_0", "flash_attention": "on"}])
def test_sequences_decoded_together_say_what_each_says_alone(
    random_model: _core.Model, unified: bool, types: dict[str, str]
) -> None:
    context = make_context(random_model, max_sequences=4, unified=unified, **types)
    assert together(context, PROMPTS, 12) == alone(random_model, PROMPTS, 12, **types)


def test_prefill_of_one_and_decode_of_another_share_a_batch(random_model: _core.Model) -> None:
    context = make_context(random_model, max_sequences=2)
    first = [int(np.argmax(prefill(context, 0, PROMPTS[0])))]
    batch = make_batch((0, first, 3), (1, PROMPTS[1], 0))
    assert context.decode(batch) == DONE
    first.append(int(np.argmax(context.logits(0))))
    second = int(np.argmax(context.logits(len(batch) - 1)))
    assert [first, [second]] == [alone(random_model, PROMPTS[:1], 2)[0], alone(random_model, PROMPTS[1:2], 1)[0]]


def test_prompt_in_chunks_is_the_prompt_in_one(random_model: _core.Model) -> None:
    context = make_context(random_model)
    for token in PROMPTS[1][:-2]:
        batch = _core.Batch()
        batch.add(0, [token], context.position_max(0) + 1, output_last=False)
        context.decode(batch)
    assert greedy(context, 0, PROMPTS[1][-2:], 6) == alone(random_model, PROMPTS[1:2], 6)[0]


def test_logits_of_every_place_when_all_are_asked_for(random_model: _core.Model) -> None:
    context = make_context(random_model, max_outputs=16)
    batch = _core.Batch()
    batch.add(0, PROMPTS[1], 0, output_all=True)
    context.decode(batch)
    rows = [context.logits(i) for i in range(len(PROMPTS[1]))]
    assert all(row.shape == (random_model.num_vocabulary,) and row.dtype == np.float32 for row in rows)
    alone_at_2 = prefill(make_context(random_model), 0, PROMPTS[1][:3])
    np.testing.assert_allclose(rows[2], alone_at_2, atol=1e-3)


def test_outputs_in_any_order_of_sequences(random_model: _core.Model) -> None:
    context = make_context(random_model, max_sequences=4)
    batch = make_batch(*((i, PROMPTS[i], 0) for i in (3, 1, 0, 2)))
    assert context.decode(batch) == DONE
    ends = np.cumsum([len(PROMPTS[i]) for i in (3, 1, 0, 2)]) - 1
    said = {i: int(np.argmax(context.logits(int(end)))) for i, end in zip((3, 1, 0, 2), ends, strict=True)}
    assert [said[i] for i in range(4)] == [answer[0] for answer in alone(random_model, PROMPTS, 1)]


def test_logits_are_a_copy(random_model: _core.Model) -> None:
    context = make_context(random_model)
    first = prefill(context, 0, [1, 2])
    kept = first.copy()
    prefill(context, 0, [3])
    np.testing.assert_array_equal(first, kept)


def test_the_batch_can_be_used_again(random_model: _core.Model) -> None:
    context, batch = make_context(random_model), _core.Batch()
    assert batch.add(0, [1, 2, 3], 0) == 2
    assert context.decode(batch) == DONE
    batch.clear()
    assert len(batch) == 0
    assert batch.add(0, [4], 3) == 0
    assert context.decode(batch) == DONE


# --- memory ----------------------------------------------------------------------------------------------------------


@LAYOUTS
def test_positions_follow_what_was_decoded_and_removed(random_model: _core.Model, unified: bool) -> None:
    context = make_context(random_model, max_sequences=2, unified=unified)
    assert (context.position_min(0), context.position_max(0)) == (-1, -1)
    prefill(context, 0, range(1, 9))
    prefill(context, 1, range(1, 4))
    assert (context.position_min(0), context.position_max(0), context.position_max(1)) == (0, 7, 2)
    assert context.remove(0, 5)
    assert (context.position_max(0), context.position_max(1)) == (4, 2)
    assert context.remove(0)
    assert (context.position_max(0), context.position_max(1)) == (-1, 2)
    context.clear()
    assert context.position_max(1) == -1


@LAYOUTS
def test_removed_end_is_computed_anew(random_model: _core.Model, unified: bool) -> None:
    context = make_context(random_model, unified=unified)
    greedy(context, 0, PROMPTS[1], 9)
    context.remove(0, 4)
    assert greedy(context, 0, PROMPTS[1][4:], 6) == alone(random_model, PROMPTS[1:2], 6)[0]


@LAYOUTS
def test_copied_prefix_goes_on_by_itself(random_model: _core.Model, unified: bool) -> None:
    context = make_context(random_model, max_sequences=2, unified=unified)
    prefill(context, 0, PROMPTS[1][:-1])
    context.copy(0, 1)
    assert greedy(context, 1, PROMPTS[1][-1:], 6) == alone(random_model, PROMPTS[1:2], 6)[0]
    assert greedy(context, 0, PROMPTS[2], 6) == alone(random_model, [PROMPTS[1][:-1] + PROMPTS[2]], 6)[0]
    context.remove(0)
    assert context.position_min(1) == 0


def test_part_of_a_prefix_is_copied_when_cells_are_shared(random_model: _core.Model) -> None:
    context = make_context(random_model, max_sequences=2)
    prefill(context, 0, PROMPTS[1])
    context.copy(0, 1, 0, 4)
    assert context.position_max(1) == 3
    assert greedy(context, 1, PROMPTS[1][4:], 6) == alone(random_model, PROMPTS[1:2], 6)[0]


def test_parts_of_one_sequence_are_put_together_again(random_model: _core.Model) -> None:
    """As restoring pieces does."""
    context = make_context(random_model, max_sequences=3)
    prefill(context, 0, PROMPTS[1])
    context.copy(0, 1, 0, 3)
    context.copy(0, 2, 3, 6)
    state = context.save(2)
    context.remove(2)
    context.remove(0, 3)
    assert context.restore(2, state)
    context.copy(2, 1, 3, 6)
    context.remove(2)
    assert (context.position_min(1), context.position_max(1)) == (0, 5)
    assert greedy(context, 1, PROMPTS[1][6:], 6) == alone(random_model, PROMPTS[1:2], 6)[0]
    with pytest.raises(ValueError, match="not empty from 3 on"):
        context.copy(0, 1, 3)


def test_part_of_a_stream_cannot_be_copied(random_model: _core.Model) -> None:
    context = make_context(random_model, max_sequences=2, unified=False)
    prefill(context, 0, PROMPTS[1])
    with pytest.raises(ValueError, match="whole sequences"):
        context.copy(0, 1, 0, 4)
    assert context.position_max(1) == -1


@LAYOUTS
def test_copy_onto_something_is_refused(random_model: _core.Model, unified: bool) -> None:
    context = make_context(random_model, max_sequences=2, unified=unified)
    prefill(context, 0, PROMPTS[0])
    prefill(context, 1, PROMPTS[1])
    with pytest.raises(ValueError, match="not empty"):
        context.copy(0, 1)
    context.copy(1, 1)
    assert greedy(context, 1, [5], 4) == alone(random_model, [[*PROMPTS[1], 5]], 4)[0]


@LAYOUTS
def test_keep_forgets_all_others(random_model: _core.Model, unified: bool) -> None:
    context = make_context(random_model, max_sequences=3, unified=unified)
    for sequence in range(3):
        prefill(context, sequence, PROMPTS[sequence])
    context.keep(1)
    assert [context.position_max(i) for i in range(3)] == [-1, len(PROMPTS[1]) - 1, -1]


def test_shift_closes_a_gap(random_model: _core.Model) -> None:
    context = make_context(random_model)
    assert context.can_shift
    prefill(context, 0, PROMPTS[1])
    context.remove(0, 1, 3)
    context.shift(0, 3, -1, -2)
    assert (context.position_min(0), context.position_max(0)) == (0, len(PROMPTS[1]) - 3)
    assert np.isfinite(prefill(context, 0, [5])).all()


# --- limits ----------------------------------------------------------------------------------------------------------


def test_full_memory_changes_nothing_and_recovers(random_model: _core.Model) -> None:
    context = make_context(random_model, context_size=256, max_sequences=2)
    prefill(context, 0, PROMPTS[1])
    while context.decode(make_batch((1, [7] * 50, context.position_max(1) + 1))) == DONE:
        pass
    before = (context.position_max(0), context.position_max(1))
    assert context.decode(make_batch((0, [9] * 100, before[0] + 1), (1, [9], before[1] + 1))) == NO_ROOM
    assert (context.position_max(0), context.position_max(1)) == before
    context.remove(1)
    assert greedy(context, 0, [5], 4) == alone(random_model, [[*PROMPTS[1], 5]], 4)[0]


def test_stream_is_full_by_itself(random_model: _core.Model) -> None:
    context = make_context(random_model, context_size=512, max_sequences=2, unified=False)
    assert context.sequence_context_size == 256
    for _ in range(4):
        prefill(context, 0, [7] * 64)
    assert context.decode(make_batch((0, [1], 256))) == NO_ROOM
    assert greedy(context, 1, PROMPTS[0], 4) == alone(random_model, PROMPTS[:1], 4)[0]


def test_sizes_are_those_asked_for(random_model: _core.Model) -> None:
    context = make_context(random_model, context_size=1024, max_batch=64, max_sequences=8, max_outputs=20)
    assert (context.context_size, context.sequence_context_size) == (1024, 1024)
    assert (context.max_batch, context.max_sequences, context.max_outputs) == (64, 8, 20)
    assert context.has_memory


def test_defaults_are_the_models(embed_model: _core.Model) -> None:
    context = _core.Context(embed_model, _core.ContextOptions())
    assert context.context_size == embed_model.context_length
    assert context.max_outputs == 1


def test_counters_count_what_was_done(random_model: _core.Model) -> None:
    context = make_context(random_model)
    prefill(context, 0, PROMPTS[1])
    prefill(context, 0, [1])
    with pytest.raises(ValueError, match="goes on at position"):
        context.decode(make_batch((0, [1], 0)))
    counters = context.counters
    assert (counters.num_decodes, counters.num_tokens) == (2, len(PROMPTS[1]) + 1)
    assert counters.num_reused_graphs >= 0


def test_threads_can_be_changed_between_decodes(random_model: _core.Model) -> None:
    context = make_context(random_model, num_threads=2)
    expected = alone(random_model, PROMPTS[:1], 6)[0]
    context.set_threads(1)
    half = greedy(context, 0, PROMPTS[0], 3)
    context.set_threads(2)
    assert half + greedy(context, 0, half[-1:], 3) == expected
    for wrong in (0, -1, 3):
        with pytest.raises(ValueError, match="out of range"):
            context.set_threads(wrong)


def test_wrong_batch_changes_nothing(random_model: _core.Model) -> None:
    context = make_context(random_model, max_sequences=2)
    prefill(context, 0, PROMPTS[0])
    for wrong in ((0, [1], 2), (0, [1], 4), (0, [-1], 3), (2, [1], 0), (-1, [1], 0), (1, [1], 1)):
        with pytest.raises(ValueError):
            context.decode(make_batch((1, [1, 2], 0), wrong))
    assert (context.position_max(0), context.position_max(1)) == (2, -1)
    assert greedy(context, 0, [5], 4) == alone(random_model, [[*PROMPTS[0], 5]], 4)[0]


def test_logits_only_where_they_were_asked_for(random_model: _core.Model) -> None:
    context = make_context(random_model)
    with pytest.raises(ValueError, match="no output at index 0"):
        context.logits(0)
    prefill(context, 0, PROMPTS[0])
    for wrong in (-1, 0, 1, 3, 2**31 - 1):
        with pytest.raises(ValueError, match="no output"):
            context.logits(wrong)


def test_closed_context_says_so(random_model: _core.Model) -> None:
    context = make_context(random_model)
    context.close()
    context.close()
    for call in (lambda: context.decode(make_batch((0, [1], 0))), lambda: context.context_size, context.abort):
        with pytest.raises(_core.Error, match="closed"):
            call()


def test_statuses_are_told_apart() -> None:
    assert len({DONE, NO_ROOM, ABORTED}) == 3
    assert {status.name for status in (DONE, NO_ROOM, ABORTED)} == set(_core.DecodeStatus.__members__)
