"""Prompt lookup with plain integers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dmr.engine.drafting import LONGEST_MATCH, MAX_LOOKED_AT, NO_DRAFT, Draft, NgramDrafter

FEW = st.integers(0, 3)  # tokens, so that they repeat


def drafted(token_ids: list[int], limit: int) -> Draft:
    drafter = NgramDrafter(token_ids)
    assert drafter.read(len(token_ids) + 1)
    return drafter.draft(limit)


def test_what_stood_there_before_is_guessed() -> None:
    assert drafted([1, 2, 3, 4, 5, 9, 1, 2, 3], 2) == ([4, 5], 3)
    assert drafted([1, 2, 3, 4, 5, 9, 8, 2, 3], 2) == ([4, 5], 2)


def test_nothing_is_guessed_from_one_token() -> None:
    assert drafted([1, 2, 3, 4, 2], 4) == NO_DRAFT
    assert drafted([1], 4) == drafted([], 4) == NO_DRAFT
    assert drafted([1, 2, 1, 2], 0) == NO_DRAFT


def test_the_longest_match_comes_first_and_then_the_latest() -> None:
    assert drafted([1, 2, 3, 10, 9, 2, 3, 11, 1, 2, 3], 1) == ([10], 3)
    assert drafted([1, 2, 3, 10, 1, 2, 3, 11, 1, 2, 3], 1) == ([11], 3)


def test_repetition_goes_on_beyond_what_is_there() -> None:
    assert drafted([5, 5], 3) == NO_DRAFT  # these two stood nowhere before
    assert drafted([5, 5, 5], 3) == ([5, 5, 5], 2)
    assert drafted([1, 2, 3, 1, 2, 3, 1, 2], 7) == ([3, 1, 2, 3, 1, 2, 3], LONGEST_MATCH)


def test_a_long_text_is_read_in_parts() -> None:
    drafter = NgramDrafter([1, 2, 3, 4, 1, 2])
    assert not drafter.read(4)
    assert drafter.draft(2) == NO_DRAFT  # 3, 4 stood nowhere before
    assert drafter.read(4)
    assert drafter.draft(2) == ([3, 4], 2)


def test_another_list_is_another_text() -> None:
    text = [1, 2, 3]
    drafter = NgramDrafter(text)
    assert drafter.is_of(text)
    assert not drafter.is_of(list(text))


@given(st.lists(FEW, max_size=60), st.integers(1, 9), st.lists(st.integers(1, 7)))
def test_in_whatever_parts_it_is_read(text: list[int], limit: int, parts: list[int]) -> None:
    growing: list[int] = []
    drafter = NgramDrafter(growing)
    for part in [*parts, len(text) + 1]:
        growing += text[len(growing) : len(growing) + part]
        while not drafter.read(3):
            pass
        assert drafter.draft(limit) == drafted(growing, limit)


@given(st.lists(FEW, max_size=40), st.integers(1, 9))
def test_it_is_what_searching_the_text_would_find(text: list[int], limit: int) -> None:
    draft = drafted(text, limit)
    ends = [end for end in range(2, len(text)) if text[end - 2 : end] == text[-2:]][::-1][:MAX_LOOKED_AT]
    if not ends:
        assert draft == NO_DRAFT
        return

    def matching(end: int) -> int:
        length = 2
        while length < min(LONGEST_MATCH, end) and text[end - length - 1] == text[-length - 1]:
            length += 1
        return length

    best = max(ends, key=matching)  # the first of several is the latest
    following = text[best:] + text[best:] * limit  # it goes on as it did from there
    assert draft == (following[:limit], matching(best))
