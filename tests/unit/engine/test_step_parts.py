from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmr.engine.step_parts import parts_of


@pytest.mark.parametrize(
    ("num_prompt_tokens", "generating", "parts"),
    [
        (0, [1] * 8, []),
        (0, [1] * 63, []),
        (0, [1] * 64, [32, 32]),
        (0, [1] * 256, [52, 52, 52, 52, 48]),
        (500, [], []),  # prompts share tiles with prompts
        (500, [1] * 4, [500, 4]),
        (59, [1] * 4, []),  # below, each row sees its own only
        (60, [1] * 4, [60, 4]),
        (100, [1] * 100, [100, 50, 50]),
        (0, [9] * 10, [45, 45]),  # guesses stay with their sequence
        (0, [100], []),
    ],
)
def test_parts(num_prompt_tokens: int, generating: list[int], parts: list[int]) -> None:
    assert parts_of(num_prompt_tokens, generating, 64) == parts


def test_where_there_are_no_tiles_all_is_one() -> None:
    assert parts_of(500, [1] * 200, 0) == []


@given(st.integers(0, 512), st.lists(st.integers(1, 20), max_size=256), st.integers(32, 128))
def test_parts_are_the_batch_and_cut_no_sequence(num_prompt_tokens: int, generating: list[int], narrow: int) -> None:
    parts = parts_of(num_prompt_tokens, generating, narrow)
    assert not parts or (len(parts) > 1 and sum(parts) == num_prompt_tokens + sum(generating) and min(parts) > 0)
    ends = {num_prompt_tokens + sum(generating[:count]) for count in range(len(generating) + 1)}
    assert {sum(parts[: count + 1]) for count in range(len(parts))} <= ends
    for part in parts[1:] if num_prompt_tokens else parts:
        assert part < narrow
