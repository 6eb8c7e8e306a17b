from __future__ import annotations

import time

from unit.engine.scripted_runner import Bench
from unit.engine.test_step_loop import running

from dmr.engine.deadlines import Deadlines, Expired
from dmr.errors import DeadlineExceeded, Overloaded
from dmr.wire import EngineCompleted, EngineOutput, WireError


def test_each_is_due_once_and_in_order() -> None:
    bench = Bench()
    deadlines = Deadlines(queue_timeout=10.0, request_timeout=60.0)
    one, two, three = (bench.make_request([i]) for i in range(1, 4))
    deadlines.add(one, 0.0)
    deadlines.add(two, 1.0)
    deadlines.add(three, 2.0)
    assert deadlines.take_expired(9.9) == []
    two.started = 5.0
    deadlines.forget(three)
    assert deadlines.take_expired(30.0) == [Expired(one, False)]
    assert deadlines.take_expired(60.9) == []
    assert deadlines.take_expired(61.0) == [Expired(two, True)]
    assert deadlines.take_expired(1e9) == []


def test_what_is_due_for_both_reasons_is_told_once() -> None:
    deadlines = Deadlines(queue_timeout=10.0, request_timeout=20.0)
    request = Bench().make_request([1])
    deadlines.add(request, 0.0)
    assert deadlines.take_expired(100.0) == [Expired(request, True)]


def test_0_is_any_time() -> None:
    deadlines = Deadlines(queue_timeout=0.0, request_timeout=0.0)
    deadlines.add(Bench().make_request([1]), 0.0)
    assert deadlines.take_expired(1e9) == []


def test_looking_costs_the_same_however_many_there_are() -> None:
    bench = Bench()
    deadlines = Deadlines(queue_timeout=1000.0, request_timeout=1000.0)

    def look() -> float:
        began = time.perf_counter()
        for _ in range(2000):
            deadlines.take_expired(1.0)
        return time.perf_counter() - began

    deadlines.add(bench.make_request([1]), 0.0)
    few = min(look() for _ in range(5))
    for i in range(2, 2000):
        deadlines.add(bench.make_request([i]), 0.0)
    assert min(look() for _ in range(5)) < 10 * few


def test_who_waits_too_long_is_told_when_to_come_again() -> None:
    with running(max_num_seqs=1, num_slots=1, queue_timeout=0.05) as loops:
        first = loops.submit([1], max_new=900)
        loops.wait_for(lambda: len(loops.messages[first]) > 2)
        second = loops.submit([2])
        loops.wait_for(lambda: loops.has_ended(second))
        (message,) = loops.messages[second]
        assert isinstance(message, WireError)
        error = message.to_error()
        assert isinstance(error, Overloaded)
        assert "0.05 seconds" in error.message
        assert error.retry_after is not None
        assert error.retry_after >= 1.0
        loops.wait_for(lambda: loops.has_ended(first))  # whose own wait was short
        assert isinstance(loops.messages[first][-1], EngineCompleted)
    assert loops.loop.num_sequences == 0


def test_an_answer_that_takes_too_long_ends_with_an_error_and_frees_its_cells() -> None:
    with running(request_timeout=0.1) as loops:
        loops.delay = 0.005
        request = loops.submit([1], [2], max_new=400)
        loops.wait_for(lambda: loops.has_ended(request))
        *outputs, last = loops.messages[request]
        assert outputs
        assert all(isinstance(message, EngineOutput) for message in outputs)
        assert isinstance(last, WireError)
        error = last.to_error()
        assert isinstance(error, DeadlineExceeded)
        assert error.retry_after is None
        assert "0.1 seconds" in error.message
        later = loops.submit([3])
        loops.wait_for(lambda: loops.has_ended(later))
        assert isinstance(loops.messages[later][-1], EngineCompleted)
        assert loops.messages[request][-1] is last
    assert loops.crash is None
    assert loops.loop.num_sequences == 0
    assert not loops.bench.engine.has_work
