from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmr.engine.prefill_pacer import PrefillPacer


def make_pacer(target: float = 0.1) -> PrefillPacer:
    return PrefillPacer(target, smallest=32, largest=512)


def test_it_begins_carefully() -> None:
    assert make_pacer().budget(3) == 32


def test_the_budget_fills_the_target() -> None:
    pacer = make_pacer(target=0.1)
    pacer.observe(100, 0, 0.1)
    assert pacer.budget(0) in (99, 100)


def test_what_those_who_generate_cost_is_not_left_for_prompts() -> None:
    pacer = make_pacer(target=0.1)
    pacer.observe(0, 4, 0.04)
    pacer.observe(100, 4, 0.14)
    assert pacer.budget(4) in (59, 60)


def test_the_cost_of_more_sequences_is_guessed_from_the_nearest_known() -> None:
    pacer = make_pacer(target=0.1)
    pacer.observe(100, 0, 0.1)
    pacer.observe(0, 8, 0.04)
    assert pacer.budget(9) in (59, 60)
    assert pacer.budget(4) in (79, 80)


@pytest.mark.parametrize(
    ("left", "num_generating", "budget"),
    [(0.01, 4, 28), (0.05, 4, 44), (0.053, 4, 60), (0.4, 4, 396), (5, 4, 500), (0.01, 16, 32), (0.01, 40, 24)],
)
def test_a_step_has_as_many_tokens_as_kernels_take_at_a_time(left: float, num_generating: int, budget: int) -> None:
    pacer = PrefillPacer(left + 0.01, smallest=32, largest=500, block=16)
    pacer.observe(100, 0, 0.1)
    pacer.observe(0, num_generating, 0.01)
    assert pacer.budget(num_generating) == budget


@pytest.mark.parametrize("num_generating", [0, 1, 15, 16, 17, 31, 200])
def test_prompts_get_on_however_many_generate(num_generating: int) -> None:
    pacer = PrefillPacer(0.1, smallest=4, largest=512, block=16)
    assert 1 <= pacer.budget(num_generating) <= 16


def test_where_more_wait_for_their_first_token_than_for_their_next_a_step_may_last_longer() -> None:
    pacer = make_pacer(target=0.1)
    pacer.observe(0, 4, 0.04)
    pacer.observe(100, 4, 0.14)
    assert pacer.budget(4, num_at_prompt=4) in (59, 60)
    assert pacer.budget(4, num_at_prompt=5) in (159, 160)


def test_a_faster_machine_gets_more_up_to_the_whole_batch() -> None:
    pacer = make_pacer()
    pacer.observe(512, 0, 0.001)
    assert pacer.budget(1) == 512


def test_a_slow_machine_still_gets_on() -> None:
    pacer = make_pacer()
    pacer.observe(32, 1, 60.0)
    pacer.observe(0, 1, 30.0)
    assert pacer.budget(1) == 32


def test_small_steps_tell_nothing() -> None:
    pacer = make_pacer()
    pacer.observe(100, 0, 0.1)
    before = pacer.budget(0)
    for _ in range(50):
        pacer.observe(15, 0, 5.0)
    assert pacer.budget(0) == before


def test_one_hiccup_moves_it_a_little_and_a_lasting_change_all_the_way() -> None:
    pacer = make_pacer()
    pacer.observe(200, 0, 0.1)
    pacer.observe(200, 0, 0.2)
    assert 160 < pacer.budget(0) < 200
    for _ in range(30):
        pacer.observe(200, 0, 0.2)
    assert pacer.budget(0) in (99, 100)


def test_a_price_too_small_to_divide_by_gets_the_whole_batch_or_nothing() -> None:
    pacer = make_pacer()
    pacer.observe(512, 0, 5e-324)
    pacer.observe(512, 0, 1e-307)
    assert pacer.budget(0) == 512
    pacer.observe(0, 1, 1e9)
    assert pacer.budget(1) == 32


@given(
    st.lists(st.tuples(st.integers(0, 600), st.integers(0, 256), st.floats(0, 1e9)), max_size=60),
    st.floats(0, 10),
    st.integers(0, 256),
)
def test_whatever_the_clock_says_the_budget_stays_in_bounds(
    steps: list[tuple[int, int, float]], target: float, num_generating: int
) -> None:
    pacer = make_pacer(target)
    for num_tokens, generating, seconds in steps:
        pacer.observe(num_tokens, generating, seconds)
        assert 32 <= pacer.budget(num_generating) <= 512
