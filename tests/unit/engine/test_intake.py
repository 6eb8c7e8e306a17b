from __future__ import annotations

from typing import Any

import pytest
from unit.engine.scripted_runner import make_generator

from dmr.engine.intake import MAX_SEQUENCES_PER_REQUEST, Intake
from dmr.engine.model_runner import Generator
from dmr.errors import ContextLengthExceeded, InvalidRequest
from dmr.types import SamplingParams
from dmr.wire import EngineRequest


class WordTokenizer:
    """One token for each character; 100 tokens of vocabulary. Notes which generators were made."""

    context_size = 20

    def __init__(self) -> None:
        self.generators: list[tuple[int, list[int]]] = []  # seed, prompt

    def tokenize(self, text: str) -> list[int]:
        return [ord(character) % 100 for character in text]

    def check_tokens(self, token_ids: tuple[int, ...]) -> list[int]:
        if not all(0 <= token < 100 for token in token_ids):
            raise InvalidRequest("Token is not in the model's vocabulary.", param="prompt")
        return list(token_ids)

    def make_generator(self, request: EngineRequest, seed: int, prompt: list[int]) -> Generator:
        if request.stop == ("bad",):
            raise InvalidRequest("a stop string is too long")
        self.generators.append((seed, prompt))
        return make_generator()


def prepare(*prompts: str | tuple[int, ...], seed: int | None = 7, **changes: Any) -> tuple[Any, list[int]]:
    tokenizer = WordTokenizer()
    message = EngineRequest(prompts, SamplingParams(seed=seed), **changes)
    return Intake(tokenizer).prepare(message), [seed for seed, _ in tokenizer.generators]


def test_one_sequence_for_each_choice_of_each_prompt() -> None:
    request, seeds = prepare("ab", (1, 2, 3), num_choices=2, max_tokens=5)
    assert [sequence.index for sequence in request.sequences] == [0, 1, 2, 3]
    assert [sequence.token_ids for sequence in request.sequences] == [[97, 98], [97, 98], [1, 2, 3], [1, 2, 3]]
    assert [sequence.max_length for sequence in request.sequences] == [7, 7, 8, 8]
    assert request.num_prompt_tokens == 5  # each prompt once
    assert len(request.generators) == 4
    assert seeds == [7, 8, 7, 8]


def test_choices_do_not_share_their_tokens() -> None:
    request, _ = prepare("ab", num_choices=2)
    request.sequences[0].append(5)
    assert request.sequences[1].token_ids == [97, 98]


def test_ids_are_never_used_again() -> None:
    intake = Intake(WordTokenizer())
    message = EngineRequest(("ab",), SamplingParams(), num_choices=3)
    ids = [sequence.id for _ in range(3) for sequence in intake.prepare(message).sequences]
    assert len(set(ids)) == 9


@pytest.mark.parametrize(("seed", "seeds"), [(0, [0, 1]), (2**32 - 1, [2**32 - 1, 0]), (-1, [2**32 - 1, 0])])
def test_seeds_stay_within_the_native_range(seed: int, seeds: list[int]) -> None:
    assert prepare("a", seed=seed, num_choices=2)[1] == seeds


def test_without_a_seed_each_request_gets_a_fresh_one() -> None:
    seeds = {prepare("a", seed=None)[1][0] for _ in range(5)}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**32 for seed in seeds)


@pytest.mark.parametrize(("max_tokens", "max_length"), [(None, 20), (1, 4), (16, 19), (17, 20), (10**12, 20)])
def test_an_answer_ends_with_the_context_at_the_latest(max_tokens: int | None, max_length: int) -> None:
    request, _ = prepare("abc", max_tokens=max_tokens)
    assert request.sequences[0].max_length == max_length


def test_a_prompt_may_leave_room_for_a_single_token() -> None:
    request, _ = prepare("x" * 19)
    assert request.sequences[0].max_length == 20


@pytest.mark.parametrize(
    ("prompts", "changes", "param", "words"),
    [
        ((), {}, None, "at least one prompt"),
        (("",), {}, "prompt", "empty"),
        (("a", ()), {}, "prompt", "empty"),
        (((1, 100),), {}, "prompt", "vocabulary"),
        (((-1,),), {}, "prompt", "vocabulary"),
        (("a",), {"num_choices": 0}, None, "one choice"),
        (("a",), {"num_choices": -5}, None, "one choice"),
        (("a",), {"num_choices": MAX_SEQUENCES_PER_REQUEST + 1}, "n", "at most"),
        (("a", "b"), {"num_choices": MAX_SEQUENCES_PER_REQUEST}, "n", "at most"),
        (("a",), {"num_choices": 10**15}, "n", "at most"),
        (("a",), {"max_tokens": 0}, "max_tokens", "at least 1"),
        (("a",), {"max_tokens": -1}, "max_tokens", "at least 1"),
        (("x" * 20,), {}, "messages", "20 tokens"),
        (("a", (1,) * 500), {}, "messages", "500 tokens"),
        (("a",), {"stop": ("bad",)}, None, "too long"),
    ],
)
def test_what_cannot_be_answered_is_refused(
    prompts: tuple[str | tuple[int, ...], ...], changes: dict[str, Any], param: str | None, words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        prepare(*prompts, **changes)
    assert caught.value.param == param


def test_a_prompt_that_is_too_long_says_how_long() -> None:
    with pytest.raises(ContextLengthExceeded) as caught:
        prepare("x" * 33)
    error = caught.value
    assert (error.num_prompt_tokens, error.context_size) == (33, 20)
    assert error.code == "context_length_exceeded"


def test_the_most_choices_that_are_allowed() -> None:
    request, _ = prepare("ab", num_choices=MAX_SEQUENCES_PER_REQUEST)
    assert len(request.sequences) == MAX_SEQUENCES_PER_REQUEST
