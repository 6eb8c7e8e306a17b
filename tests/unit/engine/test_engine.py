from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.engine.scripted_runner import Bench, answer_to, choose, next_token, text_of

from dmr.engine.engine import MAX_FAILED_STEPS, Request
from dmr.engine.model_runner import NewTokens, NoRoom, StepFailed
from dmr.engine.sequence import Sequence
from dmr.errors import InternalError
from dmr.types import FinishReason, TokenLogprob, TokenProbability
from dmr.wire import EngineCompleted, EngineOutput, WireError

LOGPROB = TokenLogprob(TokenProbability(5, b"x", -0.5))


def outputs(bench: Bench, request: Request, index: int = 0) -> list[EngineOutput]:
    return [m for m in bench.messages[request] if isinstance(m, EngineOutput) and m.index == index]


def text(bench: Bench, request: Request, index: int = 0) -> str:
    return "".join(output.text for output in outputs(bench, request, index))


def completed(bench: Bench, request: Request) -> EngineCompleted:
    """The last message; checks that every choice ended once, and that nothing else ends the request."""
    *others, last = bench.messages[request]
    assert isinstance(last, EngineCompleted)
    assert all(isinstance(message, EngineOutput) for message in others)
    for sequence in request.sequences:
        reasons = [output.finish_reason for output in outputs(bench, request, sequence.index)]
        assert reasons[-1] is not None
        assert reasons[:-1] == [None] * (len(reasons) - 1)
    return last


def error_of(bench: Bench, request: Request) -> WireError:
    *others, last = bench.messages[request]
    assert isinstance(last, WireError)
    assert all(isinstance(message, EngineOutput) for message in others)
    return last


def test_one_request_from_its_prompt_to_its_last_token() -> None:
    bench = Bench()
    request = bench.add([1, 2, 3], max_new=4)
    bench.run()
    assert text(bench, request) == text_of(answer_to([1, 2, 3], 4))
    assert [output.finish_reason for output in outputs(bench, request)] == [None, None, None, FinishReason.LENGTH]
    usage = completed(bench, request).usage
    assert (usage.num_prompt_tokens, usage.num_completion_tokens) == (3, 4)


def test_choices_end_one_by_one_and_the_request_with_the_last() -> None:
    bench = Bench()
    request = bench.add([1], [1, 2, 3], [4] * 100, max_new=3)

    def end_the_first(sequence: Sequence) -> NewTokens:
        return choose(sequence, is_end=sequence.index == 0, **({"text": ""} if sequence.index == 0 else {}))

    bench.runner.choose = end_the_first
    bench.run()
    assert outputs(bench, request, 0) == [EngineOutput(0, "", finish_reason=FinishReason.STOP)]
    assert [o.finish_reason for o in outputs(bench, request, 1)] == [None, None, FinishReason.LENGTH]
    assert text(bench, request, 2) == text_of(answer_to([4] * 100, 3))
    usage = completed(bench, request).usage
    assert (usage.num_prompt_tokens, usage.num_completion_tokens) == (104, 7)


def test_a_stop_string_is_named() -> None:
    bench = Bench()
    request = bench.add([1], max_new=5)
    bench.runner.choose = lambda s: choose(s, text="until ", stop_sequence="END" if s.num_tokens == 3 else None)
    bench.run()
    assert outputs(bench, request)[-1] == EngineOutput(0, "until ", (), FinishReason.STOP, "END")
    assert sum(output.num_tokens for output in outputs(bench, request)) == 3
    assert completed(bench, request).usage.num_completion_tokens == 3


def test_text_that_was_held_back_comes_with_the_last_token() -> None:
    bench = Bench()
    request = bench.add([1], max_new=2, held="EN")
    bench.runner.choose = lambda s: choose(s, text="")
    bench.run()
    assert outputs(bench, request) == [EngineOutput(0, "EN", (), FinishReason.LENGTH, num_tokens=2)]  # and none before


def test_a_token_without_text_still_brings_its_probability_but_the_end_has_none() -> None:
    bench = Bench()
    request = bench.add([1], max_new=5)
    bench.runner.choose = lambda s: choose(s, text="", logprobs=(LOGPROB,), is_end=s.num_tokens == 2)
    bench.run()
    assert outputs(bench, request) == [EngineOutput(0, "", (LOGPROB,)), EngineOutput(0, "", (), FinishReason.STOP)]


def test_a_token_that_is_end_and_last_is_a_stop() -> None:
    bench = Bench()
    request = bench.add([1], max_new=1)
    bench.runner.choose = lambda s: choose(s, text="", is_end=True)
    bench.run()
    assert outputs(bench, request)[-1].finish_reason is FinishReason.STOP


def test_a_choice_that_fails_ends_its_request_only() -> None:
    bench = Bench()
    bad = bench.add([1], [2], [3], max_new=5)
    good = bench.add([4], max_new=5)
    bench.runner.choose = lambda s: choose(
        s, error="the grammar allows nothing" if s.index == 1 and s.num_tokens == 2 and s.id < 3 else ""
    )
    bench.run()
    error = error_of(bench, bad)
    assert (error.code, error.message) == (
        "internal_error",
        "No next token could be chosen: the grammar allows nothing.",
    )
    assert text(bench, good) == text_of(answer_to([4], 5))
    assert completed(bench, good).usage.num_completion_tokens == 5


def test_several_failures_in_one_step_are_one_error() -> None:
    bench = Bench()
    request = bench.add([1], [2], [3])
    bench.runner.choose = lambda s: choose(s, error="broken")
    bench.run()
    assert len(bench.messages[request]) == 1
    assert "broken" in error_of(bench, request).message


@pytest.mark.parametrize("num_steps", [0, 1, 3])
def test_after_an_abort_no_message_follows_and_others_go_on(num_steps: int) -> None:
    bench = Bench()
    request, other = bench.add([1] * 70, [2], max_new=9), bench.add([3], max_new=9)
    for _ in range(num_steps):
        bench.engine.step()
    heard = list(bench.messages[request])
    bench.engine.abort(request)
    bench.engine.abort(request)
    bench.run()
    assert bench.messages[request] == heard
    assert text(bench, other) == text_of(answer_to([3], 9))
    assert set(bench.runner.memory.slots) <= {0, 1, 2}


def test_an_abort_of_the_only_request_leaves_nothing() -> None:
    bench = Bench()
    request = bench.add([1], max_new=9)
    bench.engine.step()
    bench.engine.abort(request)
    assert not bench.engine.has_work
    bench.engine.check_integrity()


# --- the native side fails -------------------------------------------------------------------------------------------


def test_no_room_makes_the_youngest_wait_and_nothing_is_lost() -> None:
    bench = Bench(num_cells=1000, real_cells=40)
    requests = [bench.add([i] * 10, max_new=20) for i in range(1, 5)]
    bench.run()
    for i, request in enumerate(requests, 1):
        assert text(bench, request) == text_of(answer_to([i] * 10, 20))
        assert completed(bench, request).usage.num_completion_tokens == 20
    assert bench.scheduler.num_preemptions > 0


@pytest.mark.parametrize("num_tokens", [20, 100])  # it fails at once, or each time after a first chunk went well
def test_no_room_for_one_alone_is_an_error_after_some_tries(num_tokens: int) -> None:
    bench = Bench(num_cells=1000, real_cells=num_tokens - 10, max_batch=64)
    too_long, short = bench.add([1] * num_tokens), bench.add([2] * 3)
    bench.run(max_steps=30)
    assert "no room" in error_of(bench, too_long).message
    assert text(bench, short) == text_of(answer_to([2] * 3, 3))


def test_a_failed_step_is_computed_anew() -> None:
    bench = Bench()
    requests = [bench.add([i], max_new=5) for i in range(3)]
    bench.engine.step()
    bench.runner.failures += [StepFailed("cosmic ray")] * (MAX_FAILED_STEPS - 1)
    bench.engine.step()
    assert not bench.runner.memory.slots
    bench.run()
    for i, request in enumerate(requests):
        assert text(bench, request) == text_of(answer_to([i], 5))
        completed(bench, request)


def test_a_step_that_always_fails_is_given_up_and_those_who_wait_survive() -> None:
    bench = Bench(num_slots=2)
    doomed = [bench.add([1]), bench.add([2])]
    waiting = bench.add([3])
    ids = {request.sequences[0].id for request in doomed}
    bench.runner.fails = lambda s: StepFailed("out of memory") if ids & {c.sequence.id for c in s.chunks} else None
    bench.run()
    for request in doomed:
        assert error_of(bench, request).message == "The model could not be computed: out of memory."
        assert len(bench.messages[request]) == 1
    assert text(bench, waiting) == text_of(answer_to([3], 3))


def test_failures_with_new_tokens_in_between_do_not_add_up() -> None:
    bench = Bench()
    request = bench.add([1], max_new=30)
    for _ in range(10):
        bench.runner.failures += [*[StepFailed("now and then")] * (MAX_FAILED_STEPS - 1), None]
    bench.run()
    assert text(bench, request) == text_of(answer_to([1], 30))


def test_giving_up_ends_each_request_once_and_the_engine_goes_on() -> None:
    bench = Bench(num_slots=2)
    requests = [bench.add([1], [2]), bench.add([3])]
    bench.engine.step()
    bench.engine.give_up_all(InternalError("The engine failed."))
    bench.engine.check_integrity()
    assert not bench.engine.has_work
    for request in requests:
        assert error_of(bench, request) == WireError("internal_error", "The engine failed.")
    later = bench.add([4])
    bench.run()
    assert text(bench, later) == text_of(answer_to([4], 3))


FAILURES = st.lists(st.sampled_from([None, None, None, "no room", "failed"]), max_size=25)


@settings(max_examples=150, deadline=None)
@given(
    requests=st.lists(st.tuples(st.lists(st.integers(1, 30), min_size=1, max_size=3), st.integers(1, 15)), max_size=8),
    num_cells=st.integers(45, 120),
    missing_cells=st.integers(0, 45),
    num_slots=st.integers(1, 6),
    failures=FAILURES,
)
def test_answers_are_those_computed_alone_or_an_error(
    requests: list[tuple[list[int], int]],
    num_cells: int,
    missing_cells: int,
    num_slots: int,
    failures: list[str | None],
) -> None:
    """Whatever the pool holds and the native side does: each choice answers right, or its request says why not."""
    bench = Bench(num_cells, num_slots, max_batch=16, real_cells=max(1, num_cells - missing_cells))
    kinds = {None: None, "no room": NoRoom(), "failed": StepFailed("by chance")}
    bench.runner.failures += [kinds[failure] for failure in failures]
    made = {bench.add(*([i] * size for i, size in enumerate(sizes)), max_new=new): new for sizes, new in requests}
    bench.run()
    for request, max_new in made.items():
        if isinstance(bench.messages[request][-1], WireError):
            error_of(bench, request)
            assert failures or missing_cells
            continue
        assert completed(bench, request).usage.num_completion_tokens == max_new * len(request.sequences)
        for sequence in request.sequences:
            prompt = sequence.token_ids[: sequence.num_prompt_tokens]
            assert text(bench, request, sequence.index) == text_of(answer_to(prompt, max_new))


# --- time ------------------------------------------------------------------------------------------------------------


def test_timings_add_up() -> None:
    bench = Bench(num_slots=1)
    first, second = bench.add([1] * 100, max_new=5), bench.add([2] * 101, max_new=5)
    bench.run()
    one, two = completed(bench, first).timings, completed(bench, second).timings
    assert min(*(getattr(t, name) for t in (one, two) for name in ("queued", "prefill", "decode")), 1.0) > 0.0
    assert two.queued >= one.queued + one.prefill + one.decode  # it waited for all of the other


def test_the_model_depends_on_every_token() -> None:
    """Or else the tests above would prove nothing."""
    assert len({next_token([1, 2, 3]), next_token([1, 3, 2]), next_token([2, 3]), next_token([1, 2, 3, 0])}) == 4
