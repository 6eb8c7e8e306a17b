"""What an engine counts: with plain numbers, over scripted runs, and asked while a step runs."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from unit.engine.guessing import guessing
from unit.engine.scripted_runner import Bench, answer_to
from unit.engine.test_step_loop import running

from dmr.engine.model_runner import Interrupted, NoRoom, StepFailed
from dmr.engine.scheduler import Chunk
from dmr.engine.sequence import Sequence
from dmr.engine.statistics import STEP_BOUNDS, TOKEN_BOUNDS, Recorder, Tally
from dmr.errors import InternalError, Overloaded
from dmr.types import Histogram, Statistics


def recorded(recorder: Recorder) -> Statistics:
    """What was recorded, of an engine that is empty otherwise."""
    bench = Bench()
    return recorder.statistics(bench.scheduler, None, bench.runner.counters())


def num_values(histogram: Histogram) -> int:
    return sum(histogram.counts)


def test_a_value_is_counted_where_it_is_at_most_the_bound() -> None:
    tally = Tally((1.0, 2.0))
    for value in (0.0, 1.0, 1.5, 2.0, 2.1):
        tally.add(value)
    tally.add(1.25, times=4)
    assert tally.histogram() == Histogram((1.0, 2.0), (2, 6, 1), 11.6)


def test_the_tokens_of_one_step_share_the_time_since_the_last() -> None:
    recorder = Recorder()
    sequence = Sequence(7, 0, [1, 2], 10)
    recorder.observe_tokens(sequence, 1, now=100.0)
    recorder.observe_tokens(sequence, 1, now=100.5)
    recorder.observe_tokens(sequence, 4, now=102.5)
    told = recorded(recorder)
    latency = told.inter_token_latency
    assert (told.num_generated_tokens, num_values(latency), latency.total) == (6, 5, 2.5)
    assert latency.counts[STEP_BOUNDS.index(0.5)] == 5
    recorder.forget(sequence)
    recorder.observe_tokens(sequence, 1, now=500.0)
    assert recorded(recorder).inter_token_latency == latency


def test_of_a_chunk_only_what_is_prompt_counts_as_that() -> None:
    recorder = Recorder()
    again = Sequence(1, 0, [1, 2, 3], 10)
    again.append(4)
    again.append(5)
    chunks = [Chunk(again, 1, 4, True), Chunk(again, 4, 1, True)]
    recorder.observe_step(chunks, 5, 0.02)
    told = recorded(recorder)
    assert (told.num_computed_prompt_tokens, told.num_step_sequences, told.num_steps) == (2, 2, 1)
    assert told.step_time == Histogram(STEP_BOUNDS, told.step_time.counts, 0.02)
    assert told.batch_tokens.counts[TOKEN_BOUNDS.index(8.0)] == 1
    assert (told.prompt_seconds, told.generation_seconds) == pytest.approx((0.008, 0.012))
    assert told.max_sequence_tokens == 5


def test_two_requests_of_which_one_shares() -> None:
    bench = Bench(num_cells=1000, max_batch=64)
    prompt = list(range(100, 140))
    bench.add(prompt, max_new=4)
    bench.run()
    bench.add([*prompt, 1, 2], max_new=3)
    bench.run()
    told = bench.engine.statistics()
    assert told.num_prompt_tokens == 40 + 42
    assert told.num_cached_tokens == 40
    assert told.num_computed_prompt_tokens == 40 + 2
    assert told.num_generated_tokens == 4 + 3
    assert told.num_steps == told.num_step_sequences == bench.runner.num_steps == 4 + 3
    assert (told.num_decodes, told.num_reused_graphs, told.num_threads) == (7, 6, 1)
    assert num_values(told.time_to_first_token) == num_values(told.queue_time) == 2
    assert num_values(told.inter_token_latency) == 3 + 2
    assert num_values(told.step_time) == 7
    assert told.batch_tokens.total == 42 + 5
    assert (told.num_running, told.num_waiting, told.num_cells, told.num_active_cells) == (0, 0, 1000, 0)
    assert told.num_used_cells == told.num_parked_cells > 40
    assert told.num_interrupted_steps == told.num_full_steps == told.num_failed_steps == told.num_preemptions == 0


def test_what_is_under_way_is_counted_too() -> None:
    bench = Bench(num_slots=2)
    bench.add([1, 2], [3, 4, 5], [6], max_new=5)
    bench.engine.step()
    told = bench.engine.statistics()
    assert (told.num_running, told.num_waiting, told.num_active_cells) == (2, 1, 3)  # the shortest first
    assert (told.num_prompt_tokens, told.num_generated_tokens) == (3, 2)
    assert num_values(told.time_to_first_token) == 1  # a request has one, however many choices


def test_a_prompt_without_an_answer_is_counted() -> None:
    bench = Bench()
    bench.add([1, 2, 3], max_new=0)
    bench.run()
    told = bench.engine.statistics()
    assert (told.num_prompt_tokens, told.num_computed_prompt_tokens, told.num_generated_tokens) == (3, 3, 0)
    assert num_values(told.time_to_first_token) == 1


@pytest.mark.parametrize(
    ("failure", "field"),
    [
        (Interrupted(), "num_interrupted_steps"),
        (NoRoom(), "num_full_steps"),
        (StepFailed("a defect"), "num_failed_steps"),
    ],
)
def test_steps_that_gave_nothing(failure: Exception, field: str) -> None:
    bench = Bench()
    bench.add([1, 2], [3, 4], max_new=3)
    bench.runner.failures.append(failure)
    bench.run()
    told = bench.engine.statistics()
    assert getattr(told, field) == 1
    assert told.num_interrupted_steps + told.num_full_steps + told.num_failed_steps == 1
    assert told.num_steps == bench.runner.num_steps - 1
    assert told.num_generated_tokens == 6


def test_preemptions_and_what_is_computed_anew() -> None:
    bench = Bench(num_cells=40, num_slots=2)
    bench.add([1, 2, 3], max_new=25)
    bench.add([4, 5, 6], max_new=25)
    bench.run()
    told = bench.engine.statistics()
    assert told.num_preemptions == bench.scheduler.num_preemptions > 0
    assert told.num_prompt_tokens == 6  # once, however often they were computed
    assert told.num_generated_tokens == 50


def test_guesses() -> None:
    bench = Bench(max_outputs=30, speculation=guessing(answer_to, width=4, wrong=0.0))
    bench.add([1, 2, 3], max_new=40)
    bench.run()
    told = bench.engine.statistics()
    assert told.num_drafted_tokens == told.num_accepted_tokens == 40 - bench.runner.num_steps
    assert told.num_generated_tokens == 40
    assert num_values(told.inter_token_latency) == 39
    assert told.batch_tokens.total == 3 + 39  # the last token of an answer is not computed, each guess is


def ends(told: Statistics) -> tuple[int, int, int, int]:
    return told.num_completed, told.num_failed, told.num_aborted, told.num_refused


def test_requests_are_counted_by_their_end() -> None:
    with running(max_queue=2) as loops:
        done = loops.submit([1, 2], max_new=3)
        loops.wait_for(lambda: loops.has_ended(done))
        assert ends(loops.loop.statistics()) == (1, 0, 0, 0)
        loops.bench.runner.failures.append(RuntimeError("a defect"))
        failed = loops.submit([3])
        loops.wait_for(lambda: loops.has_ended(failed))
        assert ends(loops.loop.statistics()) == (1, 1, 0, 0)
        assert loops.loop.statistics().num_failed_steps == 1
        loops.gate.clear()
        left = loops.submit([4], [5])
        with pytest.raises(Overloaded):
            loops.submit([6])
        loops.loop.abort(left)
        loops.loop.abort(done)  # it has ended before
        loops.gate.set()
        deadline = time.monotonic() + 5
        while ends(loops.loop.statistics()) != (1, 1, 1, 1):
            assert time.monotonic() < deadline, loops.loop.statistics()
            time.sleep(0.005)


def test_who_has_the_end_of_an_answer_finds_all_of_it_counted() -> None:
    with running() as loops:
        for number in range(20):
            request = loops.submit([number, 7], max_new=3)
            loops.wait_for(lambda request=request: loops.has_ended(request))  # type: ignore[misc]
            told = loops.loop.statistics()
            assert (told.num_completed, told.num_generated_tokens) == (number + 1, 3 * (number + 1))
            assert (told.num_running, told.num_waiting) == (0, 0)


def test_a_running_step_is_not_waited_for() -> None:
    with running(num_slots=4) as loops:
        entered = threading.Event()

        def enter(schedule: Any) -> None:
            entered.set()

        loops.bench.runner.on_run = enter
        loops.gate.clear()
        first = loops.submit([1, 2], max_new=2)
        assert entered.wait(5)
        loops.submit([3], [4])
        began = time.monotonic()
        told = loops.loop.statistics()
        assert time.monotonic() - began < 1  # the step goes on for as long as the gate is shut
        assert (told.num_running, told.num_waiting, told.num_steps) == (1, 2, 0)
        loops.gate.set()
        loops.wait_for(lambda: loops.has_ended(first))


def test_giving_up_is_a_failed_step() -> None:
    bench = Bench()
    bench.add([1], max_new=3)
    bench.engine.give_up_all(InternalError("a defect"))
    assert bench.engine.statistics().num_failed_steps == 1
