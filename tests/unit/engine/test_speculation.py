"""Engine and scheduler with guesses: what is said is what would be said without, and the books stay true."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.engine.guessing import Eager, guessing
from unit.engine.scripted_runner import Bench, answer_to, choose, text_of

from dmr.engine.engine import Request
from dmr.engine.model_runner import NewTokens, NoRoom, StepFailed
from dmr.engine.sequence import Sequence
from dmr.engine.speculation import MAX_SEQUENCES, DraftFailed, Drafts, DraftWish, Speculation
from dmr.errors import InternalError
from dmr.types import FinishReason, TokenLogprob, TokenProbability
from dmr.wire import EngineCompleted, EngineOutput, WireError


def make_bench(width: int = 5, wrong: float = 0.2, seed: int = 0, **fields: Any) -> tuple[Bench, Speculation]:
    speculation = guessing(answer_to, width, wrong, seed)
    return Bench(**{"max_outputs": 30, "speculation": speculation, **fields}), speculation


def outputs(bench: Bench, request: Request, index: int = 0) -> list[EngineOutput]:
    return [m for m in bench.messages[request] if isinstance(m, EngineOutput) and m.index == index]


def text(bench: Bench, request: Request, index: int = 0) -> str:
    return "".join(output.text for output in outputs(bench, request, index))


def num_completed(bench: Bench, request: Request) -> int:
    last = bench.messages[request][-1]
    assert isinstance(last, EngineCompleted)
    told = sum(m.num_tokens for m in bench.messages[request] if isinstance(m, EngineOutput))
    assert told == last.usage.num_completion_tokens
    return told


def test_right_guesses_make_several_tokens_of_a_step() -> None:
    bench, speculation = make_bench(width=4, wrong=0.0)
    request = bench.add([1, 2, 3], max_new=40)
    bench.run()
    assert text(bench, request) == text_of(answer_to([1, 2, 3], 40))
    assert num_completed(bench, request) == 40
    assert bench.runner.num_steps < 20
    assert len(outputs(bench, request)) == bench.runner.num_steps, "one output for each step"
    assert speculation.num_drafted_tokens == speculation.num_accepted_tokens == 40 - bench.runner.num_steps


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 7), st.sampled_from([0.0, 0.2, 0.9]))
def test_guesses_change_no_answer(seed: int, width: int, wrong: float) -> None:
    dice = random.Random(seed)
    num_cells = dice.choice([60, 100, 1000])
    bench, speculation = make_bench(width, wrong, seed, num_cells=num_cells, max_outputs=dice.choice([8, 10, 30]))
    lengths = [(dice.randint(1, 20), dice.randint(1, 25)) for _ in range(dice.randint(1, 8))]
    requests = [
        (bench.add([7 + i] * size, max_new=max_new), [7 + i] * size, max_new)
        for i, (size, max_new) in enumerate(lengths)
    ]
    doomed = bench.add([99, 98], max_new=30)
    for _ in range(dice.randint(0, 6)):
        bench.engine.step()
        bench.engine.check_integrity()
    bench.engine.abort(doomed)
    bench.run()
    for request, prompt, max_new in requests:
        assert text(bench, request) == text_of(answer_to(prompt, max_new))
        assert num_completed(bench, request) == max_new
    assert speculation.num_accepted_tokens <= speculation.num_drafted_tokens


@pytest.mark.parametrize("kind", ["end", "stop string", "error"])
def test_what_ends_an_answer_ends_it_amid_the_guesses(kind: str) -> None:
    bench, _ = make_bench(width=6, wrong=0.0)
    request = bench.add([1], max_new=30)

    def end_after_ten(sequence: Sequence) -> NewTokens:
        ends = {
            "end": {"is_end": True, "text": ""},
            "stop string": {"stop_sequence": "X", "text": ""},
            "error": {"error": "no token", "token_ids": (), "text": ""},
        }
        return choose(sequence, **(ends[kind] if sequence.num_tokens == 10 else {}))

    bench.runner.choose = end_after_ten
    bench.run()
    said = text(bench, request)
    if kind == "error":
        assert isinstance(bench.messages[request][-1], WireError)
        assert text_of(answer_to([1], 9)).startswith(said)
    else:
        assert said == text_of(answer_to([1], 9))
        assert num_completed(bench, request) == 10
        assert outputs(bench, request)[-1].finish_reason is FinishReason.STOP
        assert outputs(bench, request)[-1].stop_sequence == ("X" if kind == "stop string" else None)


def test_the_end_has_no_log_probability_but_those_before_it_have() -> None:
    bench, _ = make_bench(width=6, wrong=0.0)
    request = bench.add([1], max_new=30)
    bench.runner.choose = lambda s: choose(
        s, logprobs=(TokenLogprob(TokenProbability(s.num_tokens, b"", -1.0)),), is_end=s.num_tokens == 12
    )
    bench.run()
    logprobs = [entry.chosen.token for output in outputs(bench, request) for entry in output.logprobs]
    assert logprobs == list(range(1, 12))


def test_the_most_tokens_end_an_answer_amid_what_could_be_guessed() -> None:
    for max_new in range(1, 12):
        bench, _ = make_bench(width=8, wrong=0.0)
        request = bench.add([5, 6], max_new=max_new, held="tail")
        bench.run()
        assert text(bench, request) == text_of(answer_to([5, 6], max_new)) + "tail"
        assert outputs(bench, request)[-1].finish_reason is FinishReason.LENGTH
        assert num_completed(bench, request) == max_new


def test_a_context_that_is_full_shifts_as_it_would_without() -> None:
    plain, (guessed, speculation) = Bench(), make_bench(width=6, wrong=0.1)
    texts = []
    for bench in (plain, guessed):
        request = bench.add([1, 2, 3, 4], max_new=80, max_length=20, shift=2)
        bench.run()
        texts.append(text(bench, request))
        assert num_completed(bench, request) == 80
    assert texts[0] == texts[1]
    assert speculation.num_accepted_tokens > 10


def test_prompts_that_arrive_end_the_guesses_for_a_while() -> None:
    bench, speculation = make_bench(wrong=0.0)
    bench.add([1], max_new=60)
    for _ in range(3):
        bench.engine.step()
    before = speculation.num_drafted_tokens
    assert before > 0
    bench.add(list(range(200, 400)), max_new=5)
    for _ in range(3):  # the prompt is computed in parts
        bench.engine.step()
        assert speculation.num_drafted_tokens == before
    bench.run()
    assert speculation.num_drafted_tokens > before


def test_many_sequences_get_no_guesses() -> None:
    bench, speculation = make_bench(num_slots=MAX_SEQUENCES + 1)
    bench.add(*([i] for i in range(MAX_SEQUENCES + 1)), max_new=5)
    bench.run()
    assert speculation.num_drafted_tokens == 0


def test_steps_that_fail_with_guesses_in_them() -> None:
    bench, _ = make_bench(wrong=0.1)
    requests = [bench.add([i, 3], max_new=20) for i in range(3)]
    bench.engine.step()
    bench.runner.failures.extend([None, NoRoom(), None, StepFailed("flames"), None, NoRoom(), None])
    bench.run()
    for i, request in enumerate(requests):
        assert text(bench, request) == text_of(answer_to([i, 3], 20))


def test_an_interrupted_step_with_guesses_is_done_again() -> None:
    bench, _ = make_bench(wrong=0.0)
    request = bench.add([1, 2], max_new=30)
    bench.engine.step()
    for _ in range(3):
        bench.runner.interrupt()
        bench.engine.step()
        bench.engine.check_integrity()
        bench.engine.step()
    bench.run()
    assert text(bench, request) == text_of(answer_to([1, 2], 30))


def test_all_can_be_given_up_amid_a_step_with_guesses() -> None:
    bench, _ = make_bench(wrong=0.0)
    request = bench.add([1, 2], max_new=30)
    bench.engine.step()
    bench.runner.failures.append(RuntimeError("nobody expected that"))
    with pytest.raises(RuntimeError):
        bench.engine.step()
    bench.engine.give_up_all(InternalError("The engine failed."))
    bench.engine.check_integrity()
    assert isinstance(bench.messages[request][-1], WireError)
    again = bench.add([1, 2], max_new=9)
    bench.run()
    assert text(bench, again) == text_of(answer_to([1, 2], 9))


def test_what_was_guessed_wrongly_is_shared_with_nobody() -> None:
    """The cells of wrong guesses must not be taken for those of the tokens that came instead."""
    bench, _ = make_bench(width=7, wrong=0.6)
    first = list(range(10, 30))
    request = bench.add(first, max_new=25)
    bench.run()
    conversation = [*first, *answer_to(first, 25), 1, 2]
    following = bench.add(conversation, max_new=10)
    bench.run()
    assert text(bench, request) == text_of(answer_to(first, 25))
    assert text(bench, following) == text_of(answer_to(conversation, 10))
    assert following.num_cached_tokens == len(first) + 24


# --- where guesses come from -----------------------------------------------------------------------------------------


class Source:
    """A draft model that guesses 7, 7, 7 and takes its time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.wishes: list[DraftWish] = []
        self.fails = False

    def draft(self, wishes: Any) -> Drafts:
        if self.fails:
            raise DraftFailed("broken")
        self.wishes += wishes
        self.now += 0.5
        return Drafts({wish.sequence_id: [7] * wish.num_guesses for wish in wishes}, num_read=1)


def sequence(token_ids: list[int], max_new: int = 50) -> Sequence:
    return Sequence(0, 0, token_ids, 100, max_new_tokens=max_new)


def test_a_long_repetition_is_not_asked_of_the_model() -> None:
    source = Source()
    speculation = Speculation(Eager(), 3, source, clock=lambda: source.now)
    assert speculation.propose([sequence([1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 4])]) == {0: [5, 6, 7]}
    assert source.wishes == []
    speculation.forget(sequence([1]))
    assert speculation.propose([sequence([1, 2, 3, 4, 5, 9, 1, 2])]) == {0: [7, 7, 7]}
    assert [wish.num_guesses for wish in source.wishes] == [3]


def test_without_a_model_short_repetitions_count() -> None:
    speculation = Speculation(Eager(), 3)
    assert speculation.propose([sequence([1, 2, 3, 4, 5, 9, 1, 2])]) == {0: [3, 4, 5]}
    assert speculation.propose([]) == {}


def test_there_are_no_more_guesses_than_tokens_that_may_come() -> None:
    speculation = Speculation(Eager(), 5)
    text = [1, 2, 3, 4, 5, 9, 1, 2]
    assert speculation.propose([sequence(list(text), max_new=3)]) == {0: [3, 4]}
    speculation.forget(sequence([1]))
    assert speculation.propose([sequence(list(text), max_new=1)]) == {}
    full = Sequence(1, 0, list(text), len(text) + 2, max_new_tokens=50)
    assert speculation.propose([full]) == {1: [3]}


def test_a_model_that_fails_is_not_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    source = Source()
    speculation = Speculation(Eager(), 3, source, clock=lambda: source.now)
    source.fails = True
    assert speculation.propose([sequence([1, 2, 3])]) == {}
    assert "draft model has failed" in caplog.text
    source.fails = False
    assert speculation.propose([sequence([1, 2, 3])]) == {}


def test_what_a_model_takes_for_its_guesses_counts() -> None:
    told: list[float] = []

    class Policy(Eager):
        def choose(self, num_tokens: int, chances: Any, seconds_per_round: float = 0.0) -> list[int]:
            told.append(seconds_per_round)
            return super().choose(num_tokens, chances)

    source = Source()
    speculation = Speculation(Policy(), 5, source, clock=lambda: source.now)
    for _ in range(2):
        speculation.propose([sequence([1, 2, 3])])
    assert told == [0.0, 0.1]


def test_the_source_of_right_guesses_is_trusted_more() -> None:
    told: list[float] = []

    class Policy(Eager):
        def choose(self, num_tokens: int, chances: Any, seconds_per_round: float = 0.0) -> list[int]:
            told.append(chances[0][-1])
            return super().choose(num_tokens, chances)

    speculation = Speculation(Policy(), 4)
    one = sequence([1, 2, 3, 4, 5, 6, 1, 2, 3, 4])
    for _ in range(10):
        speculation.propose([one])
        speculation.observe(one, 4, 4, is_over=False)
    assert told == sorted(told)
    assert told[-1] > 0.6 > told[0]
    for _ in range(10):
        speculation.observe(one, 4, 1, is_over=True)  # the answer ended, so nothing was wrong
    speculation.propose([one])
    assert told[-1] >= told[-2]
    assert (speculation.num_drafted_tokens, speculation.num_accepted_tokens) == (80, 50)
