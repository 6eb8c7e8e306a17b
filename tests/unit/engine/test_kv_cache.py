from __future__ import annotations

import pytest

from dmr.engine.kv_cache import KVCache
from dmr.engine.sequence import Sequence


def sequence(identity: int = 0, num_tokens: int = 4, max_length: int = 10) -> Sequence:
    return Sequence(identity, 0, list(range(num_tokens)), max_length)


def test_a_sequence_counts_its_tokens() -> None:
    one = sequence(num_tokens=4, max_length=6)
    assert (one.num_tokens, one.num_completion_tokens, one.num_uncomputed_tokens, one.is_full) == (4, 0, 4, False)
    one.num_computed_tokens = 4
    one.append(7)
    one.append(8)
    assert (one.num_tokens, one.num_completion_tokens, one.num_uncomputed_tokens, one.is_full) == (6, 2, 2, True)
    assert one.token_ids == [0, 1, 2, 3, 7, 8]
    assert "4/6" in repr(one)


@pytest.mark.parametrize(("num_tokens", "max_length"), [(0, 5), (5, 5), (6, 5)])
def test_a_sequence_without_tokens_or_room_cannot_be_made(num_tokens: int, max_length: int) -> None:
    with pytest.raises(AssertionError):
        sequence(num_tokens=num_tokens, max_length=max_length)


def test_cells_come_and_go_with_their_slot() -> None:
    cache = KVCache(num_cells=10, num_slots=2)
    first, second = sequence(0), sequence(1)
    cache.open(first)
    cache.open(second)
    assert (first.slot, second.slot, cache.has_free_slot) == (0, 1, False)
    cache.allocate(first, 6)
    cache.allocate(second, 4)
    assert cache.num_free_cells == 0
    cache.release(second, 3)
    assert cache.num_free_cells == 3
    assert cache.close(first) == 0
    assert (first.slot, cache.num_free_cells, cache.has_free_slot) == (None, 9, True)
    second.num_computed_tokens = 1
    cache.check_integrity([second])


def test_the_lowest_free_slot_is_given_out_first() -> None:
    cache = KVCache(num_cells=10, num_slots=3)
    sequences = [sequence(i) for i in range(3)]
    for one in sequences:
        cache.open(one)
    cache.close(sequences[2])
    cache.close(sequences[0])
    cache.open(sequences[2])
    assert sequences[2].slot == 0


def test_more_than_there_is_cannot_be_taken_or_given_back() -> None:
    cache = KVCache(num_cells=10, num_slots=1)
    one = sequence()
    with pytest.raises(AssertionError, match="no slot"):
        cache.allocate(one, 1)
    cache.open(one)
    with pytest.raises(AssertionError, match="a slot already"):
        cache.open(one)
    with pytest.raises(AssertionError, match="more cells taken"):
        cache.allocate(one, 11)
    cache.allocate(one, 2)
    with pytest.raises(AssertionError, match="more cells given back"):
        cache.release(one, 3)


def test_lost_cells_are_noticed() -> None:
    cache = KVCache(num_cells=10, num_slots=2)
    one, other = sequence(0), sequence(1)
    cache.open(one)
    cache.allocate(one, 3)
    with pytest.raises(AssertionError, match="lost or counted twice"):
        cache.check_integrity([one])  # it has computed nothing
    one.num_computed_tokens = 3
    cache.check_integrity([one])
    with pytest.raises(AssertionError, match="lost or counted twice"):
        cache.check_integrity([])
    cache.open(other)
    with pytest.raises(AssertionError, match="lost or counted twice"):
        cache.check_integrity([one])
