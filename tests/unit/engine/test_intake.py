from __future__ import annotations

from typing import Any

import pytest
from unit.engine.scripted_runner import make_generator

from dmr.engine.intake import MAX_SEQUENCES_PER_REQUEST, MAX_SHIFTED_CONTEXTS, Intake
from dmr.engine.model_runner import Generator
from dmr.errors import ContextLengthExceeded, InvalidRequest, Unsupported
from dmr.types import SamplingParams
from dmr.wire import (
    LITERAL_CLOSE,
    LITERAL_OPEN,
    EngineDetokenize,
    EngineRequest,
    EngineText,
    EngineTokenize,
    EngineTokens,
    ThoughtLimit,
)


class WordTokenizer:
    """One token for each character; 100 tokens of vocabulary. Notes which generators were made."""

    context_size = 20
    control_tokens = ("<",)

    def __init__(self, begin_token: int = -1, infill_tokens: tuple[int, int, int] = (-1, -1, -1)) -> None:
        self.generators: list[tuple[int, list[int]]] = []  # seed, prompt
        self.begin_token = begin_token
        self.infill_tokens = infill_tokens

    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        begin = [self.begin_token] if add_special and self.begin_token >= 0 else []
        return begin + [99 if parse_special and c in self.control_tokens else ord(c) % 100 for c in text]

    def piece(self, token: int) -> bytes:
        return bytes([token])

    def detokenize(self, token_ids: list[int]) -> str:
        return f"text of {token_ids}"

    def check_tokens(self, token_ids: tuple[int, ...], param: str = "prompt") -> list[int]:
        if not all(0 <= token < 100 for token in token_ids):
            raise InvalidRequest("Token is not in the model's vocabulary.", param=param)
        return list(token_ids)

    def make_generator(self, request: EngineRequest, seed: int, prompt: list[int]) -> Generator:
        if request.stop == ("bad",):
            raise InvalidRequest("a stop string is too long")
        self.generators.append((seed, prompt))
        return make_generator()


def prepare(
    *prompts: str | tuple[int, ...], seed: int | None = 7, tokenizer: WordTokenizer | None = None, **changes: Any
) -> tuple[Any, list[int]]:
    tokenizer = tokenizer or WordTokenizer()
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
        (("a",), {"max_tokens": -1}, "max_tokens", "at least 0"),
        (("x" * 20,), {}, "messages", "20 tokens"),
        (("a", (1,) * 500), {}, "messages", "500 tokens"),
        (("a",), {"stop": ("bad",)}, None, "too long"),
        (("a",), {"max_tokens": -1, "echo": True}, "max_tokens", "at least 0"),
        (("a",), {"shift": -1}, "shift", "negative"),
        (("a",), {"thought_limit": ThoughtLimit(-1, "<", ">", True)}, "thinking", "negative"),
        (("a",), {"prefix_tokens": (100,)}, "prefix_tokens", "vocabulary"),
        (("a" * 10,), {"prefix_tokens": (1,) * 10}, "messages", "20 tokens"),
        (("a",), {"suffix": "b"}, "suffix", "not trained"),
        ((f"{LITERAL_OPEN}1{LITERAL_CLOSE}",), {"literals": ("x",)}, "prompt", "literal 1 of 1"),
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


# --- what stands around a prompt -------------------------------------------------------------------------------------


def tokens_of(*prompts: str | tuple[int, ...], **changes: Any) -> list[list[int]]:
    return [sequence.token_ids for sequence in prepare(*prompts, **changes)[0].sequences]


def test_literals_are_plain_text() -> None:
    prompt = f"<{LITERAL_OPEN}0{LITERAL_CLOSE}<"
    assert tokens_of(prompt, literals=("<a",)) == [[99, 60, 97, 99]]


def test_earlier_tokens_stand_before_each_prompt_and_nothing_begins_twice() -> None:
    assert tokens_of("a", (5, 6), prefix_tokens=(1, 2), tokenizer=WordTokenizer(7)) == [[1, 2, 97], [1, 2, 5, 6]]
    assert tokens_of("a", tokenizer=WordTokenizer(7)) == [[7, 97]]
    assert tokens_of("", prefix_tokens=(1, 2)) == [[1, 2]]


def test_what_is_filled_in_stands_between_prefix_and_suffix() -> None:
    assert tokens_of("ab", suffix="<", tokenizer=WordTokenizer(-1, (11, 12, 13))) == [[11, 97, 98, 12, 60, 13]]
    assert tokens_of((5, 6), suffix="", tokenizer=WordTokenizer(7, (11, 12, 13))) == [[7, 11, 5, 6, 12, 13]]
    assert tokens_of("", suffix="c", tokenizer=WordTokenizer(7, (11, 12, 13))) == [[7, 11, 12, 99, 13]]


@pytest.mark.parametrize("missing", range(3))
def test_a_model_without_the_tokens_cannot_fill_in(missing: int) -> None:
    tokens = [11, 12, 13]
    tokens[missing] = -1
    with pytest.raises(Unsupported) as caught:
        prepare("a", suffix="b", tokenizer=WordTokenizer(-1, (tokens[0], tokens[1], tokens[2])))
    assert caught.value.param == "suffix"


@pytest.mark.parametrize(("changes", "param"), [({"echo": True}, "echo"), ({"prefix_tokens": (1,)}, "suffix")])
def test_what_a_suffix_cannot_be_combined_with(changes: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        prepare("a", suffix="b", tokenizer=WordTokenizer(-1, (11, 12, 13)), **changes)
    assert caught.value.param == param


# --- what does not fit -----------------------------------------------------------------------------------------------

LETTERS = "abcdefghijklmnopqrstuvwxyz"  # 26 tokens; the context has 20


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, "abcd" + LETTERS[-11:]),  # a quarter of the context is left for the answer
        ({"max_tokens": 2}, "abcd" + LETTERS[-14:]),
        ({"max_tokens": 1000}, "abcd" + LETTERS[-11:]),
        ({"max_tokens": 0, "echo": True}, "abcd" + LETTERS[-15:]),
        ({"shift": 0}, LETTERS[-15:]),
        ({"shift": 6}, "abcdef" + LETTERS[-9:]),
        ({"shift": 1000}, "abcdefg" + LETTERS[-8:]),
    ],
)
def test_the_middle_of_what_is_too_long_is_cut_out(changes: dict[str, Any], kept: str) -> None:
    request, _ = prepare(LETTERS, "ab", truncate=True, **changes)
    assert request.sequences[0].token_ids == [ord(letter) % 100 for letter in kept]
    assert request.sequences[1].token_ids == [97, 98]
    assert request.num_dropped_tokens == 26 - len(kept)
    assert request.num_prompt_tokens == len(kept) + 2


def test_the_begin_token_is_never_cut() -> None:
    assert tokens_of(LETTERS, truncate=True, shift=0, tokenizer=WordTokenizer(7))[0][:2] == [7, (122 - 13) % 100]


def test_of_what_is_filled_in_the_far_ends_are_cut() -> None:
    tokenizer = WordTokenizer(7, (11, 12, 13))
    (tokens,) = tokens_of("a" * 30 + "b", suffix="c" + "d" * 30, truncate=True, tokenizer=tokenizer)
    assert tokens == [7, 11, *[97] * 8, 98, 12, 99, 0, 13]  # 15 in all
    (tokens,) = tokens_of("ab", suffix="c" + "d" * 30, truncate=True, tokenizer=tokenizer)
    assert tokens == [7, 11, 97, 98, 12, 99, *[0] * 8, 13]
    with pytest.raises(ContextLengthExceeded):
        prepare("a" * 30, suffix="b", tokenizer=tokenizer)


def test_a_prompt_that_fits_is_left_alone() -> None:
    request, _ = prepare(LETTERS[:19], truncate=True)
    assert (request.sequences[0].num_tokens, request.num_dropped_tokens) == (19, 0)


def test_a_shifting_answer_may_be_longer_than_the_context_but_has_an_end() -> None:
    for max_tokens, end in ((None, MAX_SHIFTED_CONTEXTS * 20), (5, 5), (1000, 1000)):
        (sequence,) = prepare("abc", shift=2, max_tokens=max_tokens, tokenizer=WordTokenizer(7))[0].sequences
        assert (sequence.max_length, sequence.max_new_tokens, sequence.shift) == (20, end, 3)  # 2 and the begin token


# --- the prompt given back, and other wishes -------------------------------------------------------------------------


def test_the_text_that_is_given_back() -> None:
    request, _ = prepare("ab", (5, 6), f"{LITERAL_OPEN}0{LITERAL_CLOSE}!", echo=True, num_choices=2, literals=("<",))
    texts = [request.echoes[index].text for index in range(6)]
    assert texts == ["ab", "ab", "text of [5, 6]", "text of [5, 6]", "<!", "<!"]
    request, _ = prepare("ab", echo=True, prefix_tokens=(1,))
    assert request.echoes[0].text == "text of [1, 97, 98]"
    request, _ = prepare(LETTERS, echo=True, truncate=True)
    assert request.echoes[0].text == f"text of {request.sequences[0].token_ids}"
    assert prepare("ab")[0].echoes == {}


@pytest.mark.parametrize(("changes", "wanted"), [({}, False), ({"echo": True}, False), ({"num_logprobs": 0}, False)])
def test_a_prompt_is_scored_if_echo_and_probabilities_are_wanted(changes: dict[str, Any], wanted: bool) -> None:
    assert prepare("abc", **changes)[0].sequences[0].wants_scores is wanted
    assert prepare("abc", echo=True, num_logprobs=0)[0].sequences[0].wants_scores


def test_only_the_prompt_may_be_wanted_if_it_is_given_back() -> None:
    (sequence,) = prepare("abc", echo=True, max_tokens=0)[0].sequences
    assert sequence.is_done


def test_token_ids_for_who_asks() -> None:
    assert prepare("a", return_token_ids=True)[0].wants_token_ids
    assert not prepare("a")[0].wants_token_ids


# --- texts and tokens without an answer ------------------------------------------------------------------------------


def test_texts_to_tokens_and_back() -> None:
    intake = Intake(WordTokenizer(7))
    assert intake.tokenize(EngineTokenize("a<")) == EngineTokens((97, 99))
    assert intake.tokenize(EngineTokenize("a<", parse_special=False)) == EngineTokens((97, 60))
    assert intake.tokenize(EngineTokenize("a", add_special=True, with_pieces=True)) == EngineTokens(
        (7, 97), (b"\x07", b"a")
    )
    place = f"{LITERAL_OPEN}0{LITERAL_CLOSE}"
    assert intake.tokenize(EngineTokenize(f"<{place}", literals=("<",))) == EngineTokens((99, 60))
    assert intake.tokenize(EngineTokenize("")) == EngineTokens(())
    assert intake.detokenize(EngineDetokenize((1, 2))) == EngineText("text of [1, 2]")
    with pytest.raises(InvalidRequest) as caught:
        intake.detokenize(EngineDetokenize((1, 100)))
    assert caught.value.param == "tokens"
    with pytest.raises(InvalidRequest):
        intake.tokenize(EngineTokenize(place))


def test_a_request_can_have_less_context_than_there_is() -> None:
    request, _ = prepare("abc", context_size=5)
    assert request.sequences[0].max_length == 5
    with pytest.raises(ContextLengthExceeded) as refusal:
        prepare("abcde", context_size=5)
    assert (refusal.value.num_prompt_tokens, refusal.value.context_size) == (5, 5)
    larger, _ = prepare("abc", context_size=10**6)
    assert larger.sequences[0].max_length == prepare("abc")[0].sequences[0].max_length
