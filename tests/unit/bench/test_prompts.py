from __future__ import annotations

import pytest

from dmr.bench.prompts import PromptMaker, sample_text
from dmr.errors import InvalidRequest

POOL = range(1000, 2000)


def test_prompts_have_the_length_and_the_tokens_that_are_asked_for() -> None:
    prompts = PromptMaker(POOL, seed=1, num_tokens=50)
    made = [prompts.make() for _ in range(20)]
    assert {len(prompt) for prompt in made} == {50}
    assert {token for prompt in made for token in prompt} <= set(POOL)
    assert len({tuple(prompt[:4]) for prompt in made}) == 20  # they are unrelated


def test_prompts_share_the_prefix_that_is_asked_for_and_no_more() -> None:
    prompts = PromptMaker(POOL, seed=1, num_tokens=50, num_shared_tokens=30)
    first, second = prompts.make(), prompts.make()
    assert first[:30] == second[:30]
    assert first[30:34] != second[30:34]
    prompts.change_prefix()
    third = prompts.make()
    assert len(third) == 50
    assert third[:4] != first[:4]


def test_a_seed_makes_the_same_prompts_again() -> None:
    def make(seed: int) -> list[int]:
        prompts = PromptMaker(POOL, seed, 20, 5)
        prompts.make()
        return prompts.make()

    assert make(3) == make(3)
    assert make(3) != make(4)


def test_a_vocabulary_that_is_too_small_is_told() -> None:
    with pytest.raises(InvalidRequest):
        PromptMaker([7, 7, 7], 0, 5)


def test_the_sample_text_is_always_the_same() -> None:
    assert sample_text() == sample_text()
    assert len(set(sample_text().split())) > 1000
