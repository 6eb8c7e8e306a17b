"""What only some requests ask for: the prompt given back, a context that shifts, token ids; and who is to blame."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.engine.scripted_runner import Bench, answer_to, choose, next_token, score_of, text_of

from dmr.engine.engine import MAX_FAILED_STEPS, Request
from dmr.engine.model_runner import NoRoom, StepFailed
from dmr.engine.scheduler import Schedule
from dmr.types import FinishReason, TokenLogprob
from dmr.wire import EngineCompleted, EngineEcho, EngineOutput, WireError


def outputs(bench: Bench, request: Request, index: int = 0) -> list[EngineOutput]:
    return [m for m in bench.messages[request] if isinstance(m, EngineOutput) and m.index == index]


def text(bench: Bench, request: Request, index: int = 0) -> str:
    return "".join(output.text for output in outputs(bench, request, index))


def echo_of(bench: Bench, request: Request, index: int = 0) -> EngineEcho:
    """The only echo of a choice; it is the choice's first message."""
    first, *others = [m for m in bench.messages[request] if getattr(m, "index", None) == index]
    assert isinstance(first, EngineEcho)
    assert not any(isinstance(message, EngineEcho) for message in others)
    return first


def scores_of(prompt: list[int]) -> tuple[TokenLogprob | None, ...]:
    return (None, *(score_of(prompt[: end + 1]) for end in range(1, len(prompt))))


# --- the prompt given back -------------------------------------------------------------------------------------------


def test_the_prompt_comes_before_the_answer() -> None:
    bench = Bench()
    request = bench.add([1, 2], [3], echo=True)
    bench.run()
    for index, prompt in enumerate([[1, 2], [3]]):
        assert echo_of(bench, request, index) == EngineEcho(index, text_of(prompt))
        assert text(bench, request, index) == text_of(answer_to(prompt, 3))


@pytest.mark.parametrize("size", [1, 2, 3, 9, 100])
@pytest.mark.parametrize("max_outputs", [8, 9, 30])
def test_each_prompt_token_has_its_log_probability(size: int, max_outputs: int) -> None:
    bench = Bench(num_slots=8, max_batch=16, max_outputs=max_outputs)
    neighbour = bench.add([7] * 5, max_new=200)
    bench.engine.step()
    request = bench.add(list(range(size)), echo=True, num_logprobs=2)
    bench.run()
    assert echo_of(bench, request).logprobs == scores_of(list(range(size)))
    assert text(bench, request) == text_of(answer_to(list(range(size)), 3))
    assert text(bench, neighbour) == text_of(answer_to([7] * 5, 200))


def test_what_is_scored_is_computed_even_if_others_have_it() -> None:
    bench = Bench(max_outputs=20)
    prompt = list(range(50))
    first = bench.add(prompt)
    bench.run()
    scored, plain = bench.add(prompt, echo=True, num_logprobs=0), bench.add(prompt)
    bench.run()
    assert echo_of(bench, scored).logprobs == scores_of(prompt)
    cached = [bench.messages[r][-1].usage.num_cached_tokens for r in (first, scored, plain)]  # type: ignore[union-attr]
    assert cached == [0, 0, 49]


@pytest.mark.parametrize("num_logprobs", [None, 3])
def test_no_token_but_only_the_prompt(num_logprobs: int | None) -> None:
    bench = Bench(max_outputs=10)
    prompts = [list(range(40)), [5]]
    request = bench.add(*prompts, max_new=0, echo=True, num_logprobs=num_logprobs)
    bench.run()
    for index, prompt in enumerate(prompts):
        assert echo_of(bench, request, index).logprobs == (scores_of(prompt) if num_logprobs else ())
        assert outputs(bench, request, index) == [EngineOutput(index, "", (), FinishReason.LENGTH, num_tokens=0)]
    last = bench.messages[request][-1]
    assert isinstance(last, EngineCompleted)
    assert (last.usage.num_prompt_tokens, last.usage.num_completion_tokens) == (41, 0)


def test_who_is_pushed_out_in_the_middle_does_not_score_twice() -> None:
    bench = Bench(num_cells=1000, real_cells=60, max_batch=16, max_outputs=20)
    prompts = [[i, *range(25)] for i in range(4)]
    requests = [bench.add(prompt, echo=True, num_logprobs=1, max_new=10) for prompt in prompts]
    bench.run()
    assert bench.scheduler.num_preemptions > 0
    for prompt, request in zip(prompts, requests, strict=True):
        assert echo_of(bench, request).logprobs == scores_of(prompt)
        assert text(bench, request) == text_of(answer_to(prompt, 10))


def test_an_aborted_echo_says_nothing_more() -> None:
    bench = Bench(max_batch=16, max_outputs=10)
    request = bench.add(list(range(50)), echo=True, num_logprobs=1)
    for _ in range(3):
        bench.engine.step()
    bench.engine.abort(request)
    bench.run()
    assert bench.messages[request] == []


def test_a_prompt_that_cannot_be_scored_fails_alone() -> None:
    bench = Bench()
    neighbour = bench.add([7] * 4, max_new=20)
    for _ in range(4):
        bench.engine.step()
    bad = bench.add(list(range(20)), [1, 2], echo=True, num_logprobs=1)
    number = bad.sequences[0].id
    bench.runner.score_errors = lambda schedule: {
        chunk.sequence.id: "no number" for chunk in schedule.chunks if chunk.sequence.id == number
    }
    steps = bench.runner.num_steps
    bench.run()
    assert bench.runner.num_steps - steps <= 20
    error = bench.messages[bad][-1]
    assert isinstance(error, WireError)
    assert "The prompt could not be scored: no number." in error.message
    assert text(bench, neighbour) == text_of(answer_to([7] * 4, 20))


# --- a context that shifts -------------------------------------------------------------------------------------------


def shifted_answer(prompt: list[int], num_tokens: int, max_length: int, shift: int) -> list[int]:
    """What the model answers when it is alone, and half of what is not kept is dropped whenever nothing fits."""
    tokens, answer = list(prompt), []
    keep = min(shift, max_length // 2)
    for _ in range(num_tokens):
        answer.append(next_token(tokens))
        tokens.append(answer[-1])
        if len(tokens) == max_length:
            del tokens[keep : keep + max(1, (max_length - keep) // 2)]
    return answer


@pytest.mark.parametrize("shift", [0, 1, 3, 10, 500])
@pytest.mark.parametrize("size", [1, 5, 29])
def test_a_full_context_goes_on_without_old_tokens(shift: int, size: int) -> None:
    bench = Bench(num_cells=100, num_slots=3)
    prompt = list(range(size))
    request = bench.add(prompt, max_new=150, max_length=30, shift=shift, wants_token_ids=True)
    neighbour = bench.add([7] * 4, max_new=40)
    bench.run()
    answer = shifted_answer(prompt, 150, 30, shift)
    assert text(bench, request) == text_of(answer)
    assert text(bench, neighbour) == text_of(answer_to([7] * 4, 40))
    last = outputs(bench, request)[-1]
    assert (last.finish_reason, last.is_context_full) == (FinishReason.LENGTH, False)
    assert list(last.token_ids) == prompt + answer
    usage = bench.messages[request][-1].usage  # type: ignore[union-attr]
    assert (usage.num_prompt_tokens, usage.num_completion_tokens) == (size, 150)


def test_the_smallest_context_can_shift() -> None:
    bench = Bench()
    request = bench.add([1], max_new=9, max_length=2, shift=5)
    bench.run()
    assert text(bench, request) == text_of(shifted_answer([1], 9, 2, 5))


def test_what_is_kept_at_the_front_is_not_computed_again() -> None:
    bench = Bench(num_cells=200)
    request = bench.add(list(range(50)), max_new=60, max_length=60, shift=20)
    computed = 0
    while bench.engine.has_work:
        before = bench.runner.memory.num_used
        bench.engine.step()
        computed += max(0, bench.runner.memory.num_used - before)
    # Each of the shifts computes what is neither kept nor dropped: half of 40.
    assert text(bench, request) == text_of(shifted_answer(list(range(50)), 60, 60, 20))
    assert computed < 49 + 60 + 3 * 21


# --- what the last output tells --------------------------------------------------------------------------------------


def test_a_full_context_is_told_from_enough_tokens() -> None:
    bench = Bench()
    cut, enough = bench.add([1] * 5, max_new=100, max_length=10), bench.add([2] * 5, max_new=5, max_length=10)
    ended = bench.add([3] * 5, max_new=100, max_length=6)
    bench.runner.choose = lambda s: choose(s, is_end=s.token_ids[0] == 3)
    bench.run()
    told = [(outputs(bench, r)[-1].finish_reason, outputs(bench, r)[-1].is_context_full) for r in (cut, enough, ended)]
    assert told == [(FinishReason.LENGTH, True), (FinishReason.LENGTH, False), (FinishReason.STOP, False)]


def test_tokens_without_text_are_counted_with_the_next_text() -> None:
    bench = Bench()
    request = bench.add([1], max_new=7)
    bench.runner.choose = lambda s: choose(s, text="é" if s.num_completion_tokens % 3 == 2 else "")
    bench.run()
    assert [(output.text, output.num_tokens) for output in outputs(bench, request)] == [("é", 3), ("é", 3), ("", 1)]


def test_token_ids_come_with_the_last_output_of_who_asked() -> None:
    bench = Bench()
    asked, other = bench.add([1, 2], [3], wants_token_ids=True), bench.add([4])
    bench.run()
    assert [output.token_ids for output in outputs(bench, asked, 0)] == [(), (), (1, 2, *answer_to([1, 2], 3))]
    assert outputs(bench, asked, 1)[-1].token_ids == (3, *answer_to([3], 3))
    assert all(output.token_ids == () for output in outputs(bench, other))


# --- who is to blame -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("culprit", range(5))
@pytest.mark.parametrize("at", [4, 8, 70])  # tokens: in the prompt's first chunk, at a new token, in a later chunk
def test_one_that_makes_every_step_fail_ends_alone(culprit: int, at: int) -> None:
    bench = Bench(num_slots=8, max_batch=32)
    size = 90 if at == 70 else 6
    requests = [bench.add([i] * size, max_new=10) for i in range(5)]
    bad = requests[culprit].sequences[0]

    def fails(schedule: Schedule) -> Exception | None:
        reached = any(c.sequence is bad and c.start < at <= c.start + c.num_tokens for c in schedule.chunks)
        return StepFailed("a bad place") if reached else None

    bench.runner.fails = fails
    late = bench.add([9] * size, max_new=10)
    bench.run()
    for i, request in enumerate(requests):
        if i == culprit:
            error = bench.messages[request][-1]
            assert isinstance(error, WireError)
            assert error.message == "The model could not be computed: a bad place."
        else:
            assert text(bench, request) == text_of(answer_to([i] * size, 10))
    assert text(bench, late) == text_of(answer_to([9] * size, 10))


def test_suspects_do_not_wait_for_each_others_last_token() -> None:
    bench = Bench()
    requests = [bench.add([i], max_new=50) for i in range(4)]
    bench.engine.step()
    bench.runner.failures.append(StepFailed("once"))
    bench.run()
    assert bench.runner.num_steps < 50 + 10
    for i, request in enumerate(requests):
        assert text(bench, request) == text_of(answer_to([i], 50))


def test_when_nothing_works_every_request_is_told() -> None:
    bench = Bench(num_slots=2)
    requests = [bench.add([i]) for i in range(6)]
    bench.runner.fails = lambda schedule: StepFailed("the device is gone")
    bench.run(max_steps=6 * MAX_FAILED_STEPS)
    assert all(isinstance(bench.messages[request][-1], WireError) for request in requests)


# --- all of it at once -----------------------------------------------------------------------------------------------

KINDS = st.sampled_from(["plain", "echo", "scored", "only the prompt", "shift"])


@settings(max_examples=150, deadline=None)
@given(
    jobs=st.lists(st.tuples(KINDS, st.integers(1, 30), st.integers(1, 40), st.integers(0, 2)), max_size=8),
    num_cells=st.integers(72, 150),
    missing_cells=st.integers(0, 30),
    num_slots=st.integers(1, 6),
    more_outputs=st.integers(0, 12),
    failures=st.lists(st.sampled_from([None, None, None, NoRoom(), StepFailed("by chance")]), max_size=25),
)
def test_every_kind_answers_as_it_does_alone(
    jobs: list[tuple[str, int, int, int]],
    num_cells: int,
    missing_cells: int,
    num_slots: int,
    more_outputs: int,
    failures: list[Exception | None],
) -> None:
    """Whatever pool and failures do: echo, scores, shifts and answers are right, or the request says why not."""
    real_cells = num_cells - missing_cells
    bench = Bench(num_cells, num_slots, max_batch=16, real_cells=real_cells, max_outputs=num_slots + more_outputs)
    bench.runner.failures += failures
    made = []
    for kind, size, max_new, family in jobs:
        options = {
            "plain": {"max_new": max_new},
            "echo": {"max_new": max_new, "echo": True},
            "scored": {"max_new": max_new, "echo": True, "num_logprobs": 1},
            "only the prompt": {"max_new": 0, "echo": True, "num_logprobs": 1},
            "shift": {"max_new": 2 * max_new, "max_length": 32, "shift": 10},
        }[kind]
        made.append((kind, [family] * size, max_new, bench.add([family] * size, **options)))
    bench.run(max_steps=4000)
    for kind, prompt, max_new, request in made:
        if isinstance(bench.messages[request][-1], WireError):
            assert failures or missing_cells
            continue
        answer = answer_to(prompt, 0 if kind == "only the prompt" else max_new)
        if kind == "shift":
            answer = shifted_answer(prompt, 2 * max_new, 32, 10)
        assert text(bench, request) == text_of(answer)
        assert sum(output.num_tokens for output in outputs(bench, request)) == len(answer)
        if kind in ("echo", "scored", "only the prompt"):
            assert echo_of(bench, request).logprobs == (() if kind == "echo" else scores_of(prompt))
