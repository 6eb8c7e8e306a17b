from __future__ import annotations

import pytest

from dmr.engine.kv_cache import NO_MATCH, Clear, Copy, KVCache, Match, Sharing, Trim
from dmr.engine.pool import LEAST_EVICTED, LEAST_SHARED
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
    first, second = sequence(0, 6), sequence(1)
    cache.open(first)
    cache.open(second)
    assert (first.slot, second.slot, cache.has_free_slot) == (0, 1, False)
    cache.allocate(first, 6)
    cache.allocate(second, 4)
    assert cache.num_free_cells == 0
    cache.release(second, 3)
    assert cache.num_free_cells == 3
    cache.close(first)
    assert cache.take_operations() == [Clear(0)]
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


def computed(cache: KVCache, identity: int, tokens: list[int]) -> Sequence:
    """A running sequence with all its tokens computed."""
    one = Sequence(identity, 0, list(tokens), len(tokens) + 100)
    cache.open(one, cache.match(one))
    cache.allocate(one, one.num_uncomputed_tokens)
    one.num_computed_tokens = one.num_tokens
    cache.settle()
    return one


BEGINNING = list(range(100, 120))


def test_what_a_sequence_leaves_behind_is_shared_by_the_next() -> None:
    cache = KVCache(num_cells=100, num_slots=4)
    first = computed(cache, 0, [*BEGINNING, 1])
    cache.close(first)
    assert cache.num_free_cells == 100
    assert cache.take_operations() == []
    second = computed(cache, 1, [*BEGINNING, 2, 3])
    assert cache.take_operations() == [Copy(0, 1, 20)]
    assert cache.num_free_cells == 100 - 22
    third = computed(cache, 2, [*BEGINNING[:12], 4])
    assert cache.take_operations() == [Copy(0, 2, 12)]
    assert cache.num_free_cells == 100 - 22 - 1
    cache.check_integrity([second, third])
    cache.close(second)
    assert cache.num_free_cells == 100 - 13
    cache.check_integrity([third])


def test_a_running_sequence_shares_what_it_has_computed_and_no_more() -> None:
    cache = KVCache(num_cells=100, num_slots=4)
    first = Sequence(0, 0, list(BEGINNING), 50)
    cache.open(first)
    cache.allocate(first, 12)
    second = Sequence(1, 0, list(BEGINNING), 50)
    assert cache.match(second) == NO_MATCH  # planned, not computed
    cache.settle()
    cache.allocate(first, 8)
    assert cache.match(second) == Match(0, 12)
    cache.settle()
    assert cache.match(second) == Match(0, 19)  # the last token must be computed for its output


def test_too_little_is_not_shared() -> None:
    cache = KVCache(num_cells=100, num_slots=4)
    cache.close(computed(cache, 0, BEGINNING))
    assert cache.match(Sequence(1, 0, [*BEGINNING[: LEAST_SHARED - 1], 5, 6], 50)) == NO_MATCH
    assert cache.match(Sequence(1, 0, [*BEGINNING[:LEAST_SHARED], 5, 6], 50)) == Match(0, LEAST_SHARED)


def test_a_memory_that_cannot_share_parks_nothing() -> None:
    cache = KVCache(num_cells=100, num_slots=4, sharing=Sharing.NONE)
    cache.close(computed(cache, 0, BEGINNING))
    assert cache.take_operations() == [Clear(0)]
    assert cache.match(Sequence(1, 0, list(BEGINNING), 50)) == NO_MATCH


def test_the_least_recently_used_goes_first() -> None:
    cache = KVCache(num_cells=60, num_slots=4)
    for identity in range(3):
        cache.close(computed(cache, identity, [identity] * 20))
    cache.close(computed(cache, 3, [0] * 19 + [9]))  # uses the oldest again, but for its last cell
    assert cache.take_operations() == [Copy(0, 3, 19), Clear(0)]
    cache.close(computed(cache, 4, [7] * 20))
    assert cache.take_operations() == [Clear(1)]
    cache.check_integrity([])


def test_only_so_much_goes_as_is_needed_and_from_the_end() -> None:
    cache = KVCache(num_cells=400, num_slots=4)
    cache.close(computed(cache, 0, list(range(300))))
    newcomer = computed(cache, 1, [7] * 130)
    assert cache.take_operations() == [Trim(0, 300 - LEAST_EVICTED)]
    assert cache.match(Sequence(2, 0, list(range(300)), 500)) == Match(0, 300 - LEAST_EVICTED)
    cache.check_integrity([newcomer])


def one_off(cache: KVCache, identity: int, num_tokens: int) -> None:
    cache.close(computed(cache, identity, [identity] * num_tokens))


def test_what_many_share_survives_long_prompts_that_nobody_asks_for_again() -> None:
    cache = KVCache(num_cells=1000, num_slots=8)
    system = list(range(10000, 10200))
    for identity in range(6):
        cache.close(computed(cache, identity, [*system, *[identity] * 20]))
    for identity in range(20, 25):  # each fills the memory anew
        one_off(cache, identity, 700)
    assert cache.match(Sequence(98, 0, [*system, 7, 7], 500)).num_tokens == 200
    cache.check_integrity([])


def test_what_was_in_demand_once_is_forgotten_in_the_end() -> None:
    cache = KVCache(num_cells=1000, num_slots=8)
    system = list(range(10000, 10200))
    for identity in range(100):
        cache.close(computed(cache, identity, [*system, identity]))
    for identity in range(200, 300):
        one_off(cache, identity, 700)
    assert cache.match(Sequence(999, 0, [*system, 7, 7], 500)) == NO_MATCH


def test_a_slot_is_taken_from_who_loses_least() -> None:
    cache = KVCache(num_cells=1000, num_slots=3)
    one_off(cache, 1, 300)
    cache.close(computed(cache, 2, [*BEGINNING, 1, 2, 3]))  # little to compute again
    one_off(cache, 3, 200)
    computed(cache, 4, [9] * 10)
    assert cache.take_operations() == [Clear(1)]


def test_no_more_is_kept_than_is_wanted() -> None:
    cache = KVCache(num_cells=1000, num_slots=4, max_parked_cells=100)
    running = computed(cache, 0, [5] * 300)
    one_off(cache, 1, 90)
    assert cache.take_operations() == []
    one_off(cache, 2, 60)
    assert cache.take_operations() == [Trim(1, 26)]
    assert cache.num_free_cells == 700
    cache.close(running)
    cache.check_integrity([])
    assert cache.match(Sequence(3, 0, [5] * 300, 500)) == Match(0, 100)


def test_a_longer_conversation_replaces_its_beginning() -> None:
    cache = KVCache(num_cells=100, num_slots=4)
    cache.close(computed(cache, 0, BEGINNING))
    cache.close(computed(cache, 1, [*BEGINNING, 1, 2, 3]))
    assert cache.take_operations() == [Copy(0, 1, 20), Clear(0)]
    assert cache.match(Sequence(2, 0, [*BEGINNING, 1, 2, 3, 4], 50)) == Match(1, 23)
    cache.check_integrity([])


def test_the_only_slot_there_is_is_not_shared_with_itself() -> None:
    cache = KVCache(num_cells=100, num_slots=1)
    cache.close(computed(cache, 0, BEGINNING))
    again = computed(cache, 1, BEGINNING)
    assert again.slot == 0
    assert cache.take_operations() == [Clear(0)]
    cache.check_integrity([again])


def test_what_is_needed_counts_parked_cells_and_not_those_in_use() -> None:
    cache = KVCache(num_cells=100, num_slots=4)
    first = computed(cache, 0, BEGINNING)
    second = Sequence(1, 0, [*BEGINNING, 1], 50)
    assert cache.num_cells_needed(second, cache.match(second)) == 1
    cache.close(first)
    assert cache.num_cells_needed(second, cache.match(second)) == 21
    assert cache.num_cells_needed(second, NO_MATCH) == 21


def test_forgetting_empties_all_slots() -> None:
    cache = KVCache(num_cells=100, num_slots=4)
    cache.close(computed(cache, 0, BEGINNING))
    cache.forget_all()
    cache.check_integrity([])
    assert cache.match(Sequence(1, 0, list(BEGINNING), 50)) == NO_MATCH


def test_who_is_computing_more_of_a_prompt_is_named() -> None:
    cache = KVCache(num_cells=200, num_slots=4)
    first = Sequence(0, 0, [*BEGINNING, 1], 50)
    other = Sequence(1, 0, [7] * 30, 50)
    for one in (first, other):
        cache.open(one)
        cache.allocate(one, 10)
    newcomer = Sequence(2, 0, [*BEGINNING, 2], 50)
    assert cache.under_way(newcomer, cache.match(newcomer)) is first
    cache.settle()
    assert cache.match(newcomer) == Match(0, 10)
    assert cache.under_way(newcomer, cache.match(newcomer)) is first  # 10 more are to come
    assert cache.under_way(Sequence(3, 0, [8] * 30, 50), NO_MATCH) is None
    cache.allocate(first, 5)
    cache.settle()
    assert cache.under_way(newcomer, cache.match(newcomer)) is None  # 5 are not worth waiting for
    cache.close(other)
    assert cache.under_way(Sequence(4, 0, [7] * 30, 50), NO_MATCH) is None  # it left, nobody goes on with it


def test_nobody_waits_for_what_cannot_be_shared() -> None:
    cache = KVCache(num_cells=200, num_slots=4, sharing=Sharing.NONE)
    cache.open(Sequence(0, 0, [*BEGINNING, 1], 50))
    assert cache.under_way(Sequence(1, 0, [*BEGINNING, 2], 50), NO_MATCH) is None


def test_a_chain_of_shared_parts_is_counted_once() -> None:
    cache = KVCache(num_cells=200, num_slots=8)
    running = [computed(cache, i, [*BEGINNING[: 8 + 4 * i], 50 + i, 60 + i]) for i in range(4)]
    assert cache.num_free_cells == 200 - (10 + 6 + 6 + 6)
    again = Sequence(9, 0, [*BEGINNING, 53, 99], 50)
    match = cache.match(again)
    assert match == Match(3, 21)
    assert cache.num_cells_needed(again, match) == 1
    cache.close(running[3])
    assert cache.num_cells_needed(again, match) == 1 + 5  # the last part was this one's only
    cache.check_integrity(running[:3])
