"""A request that is aborted while a step computes its prompt."""

from __future__ import annotations

from unit.engine.scripted_runner import Bench, answer_to, text_of

from dmr.engine.engine import Request
from dmr.engine.scheduler import Schedule
from dmr.wire import EngineOutput


def text(bench: Bench, request: Request) -> str:
    return "".join(message.text for message in bench.messages[request] if isinstance(message, EngineOutput))


def step_in_which(bench: Bench, *leaving: Request) -> int:
    """One step, during which these requests are aborted by another thread; the number of tokens it was to compute."""
    sizes: list[int] = []

    def leave(schedule: Schedule) -> None:
        sizes.append(sum(chunk.num_tokens for chunk in schedule.chunks))
        for request in leaving:
            bench.engine.interrupt_for(request)

    bench.runner.on_run = leave
    bench.engine.step()
    bench.runner.on_run = lambda schedule: None
    bench.engine.check_integrity()
    return sizes[0]


def test_a_step_that_is_mostly_unwanted_ends_at_once_and_nobody_loses_anything() -> None:
    bench = Bench(max_batch=256)
    short, long = bench.add([3] * 20, max_new=9), bench.add([1] * 500, max_new=9)
    assert step_in_which(bench, long) == 256
    assert [sequence.num_computed_tokens for sequence in (*short.sequences, *long.sequences)] == [0, 0]
    bench.engine.abort(long)
    bench.run()
    assert text(bench, short) == text_of(answer_to([3] * 20, 9))
    assert not bench.messages[long]


def test_a_step_that_is_mostly_wanted_goes_on() -> None:
    bench = Bench(max_batch=256)
    leaving, staying = bench.add([3] * 70, max_new=9), bench.add([1] * 500, max_new=9)
    assert step_in_which(bench, leaving) == 256
    assert staying.sequences[0].num_computed_tokens == 186


def test_several_that_leave_add_up() -> None:
    bench = Bench(max_batch=256)
    leaving = [bench.add([token] * 70, max_new=9) for token in (3, 4)]
    bench.add([1] * 500, max_new=9)
    step_in_which(bench, *leaving)
    assert all(request.sequences[0].num_computed_tokens == 0 for request in leaving)


def test_a_small_step_is_not_worth_it() -> None:
    bench = Bench()
    request = bench.add([3] * 20, max_new=9)
    step_in_which(bench, request)
    assert request.sequences[0].num_computed_tokens == 20


def test_after_its_end_a_step_cannot_be_interrupted() -> None:
    bench = Bench(max_batch=256)
    request = bench.add([1] * 500, max_new=9)
    bench.engine.step()
    bench.engine.interrupt_for(request)
    assert not bench.runner.is_interrupted
