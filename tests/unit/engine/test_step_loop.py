from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from unit.engine.scripted_runner import Bench, answer_to, choose, text_of

from dmr.config import EngineSettings
from dmr.engine.engine import Request
from dmr.engine.model_runner import NewTokens
from dmr.engine.sequence import Sequence
from dmr.engine.step_loop import Deliveries, StepLoop
from dmr.errors import Overloaded, TooManyRequests
from dmr.wire import EngineCompleted, EngineMessage, EngineOutput, WireError


class LoopBench:
    """A step loop on its thread. The native side waits for `gate`; what is published is kept."""

    def __init__(self, num_slots: int = 4, **settings: Any) -> None:
        self.bench = Bench(num_slots=num_slots)
        self.delay = 0.0  # seconds of each token
        self.gate = threading.Event()
        self.gate.set()
        self.bench.runner.choose = self._wait_and_choose
        self.messages: dict[Request, list[EngineMessage]] = defaultdict(list)
        self.published = threading.Condition()
        self.crash: BaseException | None = None
        self.loop = StepLoop(self._make_engine, EngineSettings(**{"max_queue": 100, **settings}))
        self.thread = threading.Thread(target=self._run)

    def submit(self, *prompts: list[int], max_new: int = 3, client: str = "") -> Request:
        request = self.bench.make_request(*prompts, max_new=max_new)
        for sequence in request.sequences:
            sequence.client = client
        self.loop.submit(request)
        return request

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self.published:
            assert self.published.wait_for(condition, timeout=10)

    def has_ended(self, request: Request) -> bool:
        return any(isinstance(message, (EngineCompleted, WireError)) for message in self.messages[request])

    def text(self, request: Request) -> str:
        return "".join(message.text for message in self.messages[request] if isinstance(message, EngineOutput))

    def _make_engine(self, deliver: Callable[[Request, EngineMessage], None]):  # type: ignore[no-untyped-def]
        self.bench.engine._deliver = deliver
        return self.bench.engine

    def _wait_and_choose(self, sequence: Sequence) -> NewTokens:
        assert self.gate.wait(10)
        time.sleep(self.delay)
        return choose(sequence)

    def _publish(self, deliveries: Deliveries) -> None:
        with self.published:
            for request, messages in deliveries.items():
                self.messages[request] += messages
            self.published.notify_all()

    def _run(self) -> None:
        try:
            self.loop.run(self._publish)
        except BaseException as error:  # the test looks at it
            self.crash = error


@contextmanager
def running(**settings: Any) -> Iterator[LoopBench]:
    loops = LoopBench(**settings)
    loops.thread.start()
    try:
        yield loops
    finally:
        loops.gate.set()
        loops.loop.stop()
        loops.thread.join(10)
        assert not loops.thread.is_alive()


def test_what_is_submitted_is_answered() -> None:
    with running() as loops:
        requests = [loops.submit([i], [i, i], max_new=4) for i in range(1, 8)]
        for i, request in enumerate(requests, 1):
            loops.wait_for(lambda request=request: loops.has_ended(request))  # type: ignore[misc]
            one, two = text_of(answer_to([i], 4)), text_of(answer_to([i, i], 4))
            assert sorted(loops.text(request)) == sorted(one + two)
    assert loops.crash is None


def test_a_request_after_an_idle_time_is_answered() -> None:
    with running() as loops:
        for i in range(1, 4):
            request = loops.submit([i])
            loops.wait_for(lambda request=request: loops.has_ended(request))  # type: ignore[misc]


def test_an_abort_is_heard_in_the_middle_and_no_message_follows() -> None:
    with running() as loops:
        request = loops.submit([1], max_new=900)
        loops.wait_for(lambda: len(loops.messages[request]) > 2)
        loops.loop.abort(request)
        other = loops.submit([2])
        loops.wait_for(lambda: loops.has_ended(other))
        heard = len(loops.messages[request])
        assert not loops.has_ended(request)
        again = loops.submit([3])
        loops.wait_for(lambda: loops.has_ended(again))
        assert len(loops.messages[request]) == heard


def test_the_queue_is_bounded_and_opens_again() -> None:
    with running(max_queue=3) as loops:
        loops.gate.clear()
        first, second = loops.submit([1], [2]), loops.submit([3])
        with pytest.raises(Overloaded, match="3 sequences") as caught:
            loops.submit([4])
        assert caught.value.retry_after
        loops.gate.set()
        loops.wait_for(lambda: loops.has_ended(first) and loops.has_ended(second))
        third = loops.submit([5])
        loops.wait_for(lambda: loops.has_ended(third))


def test_one_client_cannot_fill_the_queue() -> None:
    with running(max_queue=6, max_num_seqs=2) as loops:
        loops.gate.clear()
        for i in range(1, 5):  # two places to run, and half of those to wait
            loops.submit([i], client="heavy")
        with pytest.raises(TooManyRequests) as caught:
            loops.submit([5], client="heavy")
        assert caught.value.retry_after
        light = loops.submit([6], client="light")
        loops.gate.set()
        loops.wait_for(lambda: loops.has_ended(light))
        loops.wait_for(lambda: loops.loop.num_sequences == 0)
        loops.submit([7], client="heavy")


def test_aborted_requests_leave_the_queue_once() -> None:
    with running(max_queue=2) as loops:
        loops.gate.clear()
        first, second = loops.submit([1]), loops.submit([2])
        for _ in range(3):
            loops.loop.abort(first)
        loops.gate.set()
        loops.wait_for(lambda: loops.has_ended(second))
        loops.gate.clear()
        kept = [loops.submit([3]), loops.submit([4])]
        with pytest.raises(Overloaded):
            loops.submit([5])
        loops.gate.set()
        loops.wait_for(lambda: all(map(loops.has_ended, kept)))


def test_an_idle_engine_takes_a_request_of_any_size() -> None:
    with running(max_queue=2) as loops:
        request = loops.submit([1], [2], [3], [4], [5])
        loops.wait_for(lambda: loops.has_ended(request))


# --- defects ---------------------------------------------------------------------------------------------------------


def test_a_defect_in_a_step_ends_its_requests_once_and_spares_later_ones() -> None:
    with running() as loops:
        loops.gate.clear()
        doomed = [loops.submit([1], max_new=50), loops.submit([2], [3], max_new=50)]
        loops.bench.runner.failures += [None, None, RuntimeError("a defect")]
        loops.gate.set()
        loops.wait_for(lambda: all(map(loops.has_ended, doomed)))
        later = loops.submit([4])
        loops.wait_for(lambda: loops.has_ended(later))
        for request in doomed:
            endings = [m for m in loops.messages[request] if not isinstance(m, EngineOutput)]
            assert endings == [WireError("internal_error", "The engine failed.")]
        assert loops.text(later) == text_of(answer_to([4], 3))
    assert loops.crash is None


def test_a_request_that_arrives_while_a_step_fails_is_not_lost() -> None:
    with running() as loops:
        submitted: list[Request] = []

        def arrive_and_fail(sequence: Sequence) -> NewTokens:
            loops.bench.runner.choose = choose
            submitted.append(loops.submit([9]))
            raise RuntimeError("a defect")

        loops.bench.runner.choose = arrive_and_fail
        doomed = loops.submit([1])
        loops.wait_for(lambda: bool(submitted) and loops.has_ended(submitted[0]))
        assert isinstance(loops.messages[doomed][-1], WireError)
        assert loops.text(submitted[0]) == text_of(answer_to([9], 3))
        assert isinstance(loops.messages[submitted[0]][-1], EngineCompleted)


def test_a_request_that_has_just_completed_gets_no_error_from_its_last_step() -> None:
    with running() as loops:

        def fail_after_another_has_completed(request: Request, message: EngineMessage) -> None:
            deliver(request, message)
            if request is done and isinstance(message, EngineCompleted):
                raise RuntimeError("a defect")

        deliver = loops.bench.engine._deliver
        loops.gate.clear()
        done, other = loops.submit([1], max_new=1), loops.submit([2], max_new=9)
        loops.bench.engine._deliver = fail_after_another_has_completed
        loops.gate.set()
        loops.wait_for(lambda: loops.has_ended(done) and loops.has_ended(other))
        assert [type(message) for message in loops.messages[done]] == [EngineOutput, EngineCompleted]
        assert isinstance(loops.messages[other][-1], WireError)


def test_an_engine_whose_books_are_wrong_does_not_go_on() -> None:
    """The process ends then, which every client notices; a thread that dies in silence nobody would."""
    loops = LoopBench()
    request = loops.bench.make_request([1])
    loops.bench.engine._requests[12345] = loops.bench.make_request([2])  # which nobody computes
    loops.loop.submit(request)
    loops._run()
    assert isinstance(loops.crash, AssertionError)
    assert loops.has_ended(request)


def test_the_books_are_not_audited_after_each_of_many_short_requests() -> None:
    """It takes as long as a small step, and the next request would wait for it."""
    loops = LoopBench()
    audits: list[float] = []
    loops.bench.engine.check_integrity = lambda: audits.append(time.monotonic())  # type: ignore[method-assign]
    thread = threading.Thread(target=loops._run)
    thread.start()
    for number in range(20):
        request = loops.submit([number + 1], max_new=1)
        loops.wait_for(lambda request=request: loops.has_ended(request))  # type: ignore[misc]
    loops.loop.stop()
    thread.join()
    assert 1 <= len(audits) < 10


# --- races -----------------------------------------------------------------------------------------------------------


def test_many_threads_submit_and_abort() -> None:
    """Every request that is not aborted completes with the right text, and nothing is left behind."""
    with running(max_queue=10_000) as loops:
        kept: list[tuple[int, Request]] = []

        def client(seed: int) -> None:
            dice = random.Random(seed)
            for _ in range(25):
                prompt = dice.randrange(1, 1000)
                with lock:
                    request = loops.bench.make_request([prompt], max_new=dice.randrange(1, 30))
                loops.loop.submit(request)
                if dice.random() < 0.4:
                    time.sleep(dice.random() * 0.002)
                    loops.loop.abort(request)
                else:
                    kept.append((prompt, request))

        lock = threading.Lock()
        threads = [threading.Thread(target=client, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        loops.wait_for(lambda: all(loops.has_ended(request) for _, request in kept))
        for prompt, request in kept:
            (sequence,) = request.sequences
            assert loops.text(request) == text_of(answer_to([prompt], sequence.num_completion_tokens))
            assert sequence.is_full
    assert loops.crash is None
    loops.bench.engine.check_integrity()
    assert not loops.bench.engine.has_work


@pytest.mark.parametrize("is_busy", [True, False])
def test_stop_ends_the_loop(is_busy: bool) -> None:
    with running() as loops:
        if is_busy:
            request = loops.submit([1], max_new=900)
            loops.wait_for(lambda: bool(loops.messages[request]))
    assert loops.crash is None


def test_a_loop_that_was_stopped_before_it_ran_ends_at_once() -> None:
    loops = LoopBench()
    loops.loop.stop()
    loops.loop.run(loops._publish)
