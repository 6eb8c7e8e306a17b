from __future__ import annotations

import asyncio

import pytest
from unit.benchmarks.fake_load import FakeLoad

from versus.figures import RoundFailed
from versus.text_check import PROMPTS, WAYS, Choice, compare_texts, lead_at, parting


def test_texts_part_at_the_first_character_that_differs() -> None:
    assert parting("the same", "the same") is None
    assert parting("the sky is blue", "the sea is blue") == (5, "ky is blue", "ea is blue")
    assert parting("longer", "long") == (4, "er", "")


def test_the_lead_is_that_of_the_token_where_texts_part() -> None:
    choices = [Choice("the", 3.0), Choice(" sky", 0.01), Choice(" is", 2.0)]
    assert [lead_at(choices, position)[0] for position in (0, 2, 3, 6, 7)] == [0, 0, 1, 1, 2]
    assert lead_at(choices, 5) == (1, 0.01)
    with pytest.raises(RoundFailed):
        lead_at(choices, 10)


def test_only_prompts_whose_texts_differ_are_named() -> None:
    assert compare_texts(["a", "b", "c"], ["a", "x", "c"]) == [(1, (0, "b", "x"))]


@pytest.mark.parametrize("way", WAYS)
def test_answers_come_in_the_order_of_the_prompts(way: str) -> None:
    class Echo(FakeLoad):
        async def complete(self, prompt: str, num_tokens: int, **options: object):  # type: ignore[no-untyped-def]
            outcome = await super().complete(prompt, num_tokens)
            outcome.text = prompt
            return outcome

    load = Echo()
    assert asyncio.run(WAYS[way](load)) == list(PROMPTS)
    assert load.prompts == list(PROMPTS[::-1] if way.endswith("backwards") else PROMPTS)
