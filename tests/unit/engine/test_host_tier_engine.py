"""An engine that saves what it parks: answers, usage, idle moments, and a native memory that fails."""

from __future__ import annotations

import threading
from typing import Any

from unit.engine.scripted_runner import ScriptedRunner, answer_to, make_generator, text_of

from dmr.config import EngineSettings
from dmr.engine.engine import Engine, Request
from dmr.engine.host_cache import HostCache, TransferCosts
from dmr.engine.kv_cache import KVCache
from dmr.engine.model_runner import StepFailed
from dmr.engine.prefill_pacer import PrefillPacer
from dmr.engine.scheduler import Scheduler
from dmr.engine.sequence import Sequence
from dmr.engine.step_loop import StepLoop
from dmr.types import Statistics
from dmr.wire import EngineCompleted, EngineMessage, EngineOutput

PROMPT = list(range(100, 250))


class HostBench:
    def __init__(self) -> None:
        self.runner = ScriptedRunner(400)
        self.host = HostCache(1 << 20, TransferCosts())
        kv_cache = KVCache(400, 8, max_parked_cells=0, host=self.host)
        self.messages: dict[Request, list[EngineMessage]] = {}
        pacer = PrefillPacer(target=0.1, smallest=8, largest=64)
        scheduler = Scheduler(kv_cache, 4, 64)
        self.engine = Engine(self.runner, scheduler, pacer, lambda r, m: self.messages[r].append(m))
        self.num_sequences = 0

    def ask(self, prompt: list[int]) -> Request:
        sequence = Sequence(self.num_sequences, 0, list(prompt), len(prompt) + 3)
        self.num_sequences += 1
        request = Request([sequence], [make_generator()], len(prompt))
        self.messages[request] = []
        self.engine.add(request)
        for _ in range(100):
            if not self.engine.has_work:
                break
            self.engine.step()
            self.engine.check_integrity()
        assert self.text(request) == text_of(answer_to(prompt, 3))
        return request

    def text(self, request: Request) -> str:
        return "".join(message.text for message in self.messages[request] if isinstance(message, EngineOutput))

    def num_cached(self, request: Request) -> int:
        completed = self.messages[request][-1]
        assert isinstance(completed, EngineCompleted)
        return completed.usage.num_cached_tokens

    def idle(self) -> int:
        num_times = 0
        while self.engine.tidy():
            self.engine.check_integrity()
            num_times += 1
        return num_times


def test_what_an_idle_engine_saved_is_told_as_cached() -> None:
    bench = HostBench()
    bench.ask(PROMPT)
    assert bench.idle() > 0
    assert bench.runner.memory.num_used == 0
    assert bench.num_cached(bench.ask([*PROMPT, 7])) == len(PROMPT)
    assert bench.runner.memory.num_restored == len(PROMPT)


def test_what_does_not_come_back_is_computed_and_not_told_as_cached() -> None:
    bench = HostBench()
    bench.ask(PROMPT)
    bench.idle()
    bench.runner.memory.fails = lambda operation: True
    assert bench.num_cached(bench.ask([*PROMPT, 7])) == 0


def test_a_native_memory_that_fails_while_idle_is_emptied() -> None:
    bench = HostBench()
    bench.ask(PROMPT)
    run = bench.runner.run

    def fail_once(*arguments: Any) -> Any:
        bench.runner.run = run  # type: ignore[method-assign]
        raise StepFailed("a defect")

    bench.runner.run = fail_once  # type: ignore[method-assign]
    bench.idle()
    assert bench.host.num_bytes == 0
    assert bench.num_cached(bench.ask([*PROMPT, 7])) == 0


def test_a_failed_step_forgets_what_was_saved() -> None:
    """What a memory gave out before it failed may be wrong already."""
    bench = HostBench()
    bench.ask(PROMPT)
    bench.idle()
    bench.runner.failures.append(StepFailed("a defect"))
    assert bench.num_cached(bench.ask([*PROMPT, 7])) == 0


def test_what_host_memory_did_is_counted() -> None:
    bench = HostBench()
    bench.ask(PROMPT)
    bench.idle()
    num_cached = bench.num_cached(bench.ask([*PROMPT, 7]))
    told = bench.engine.statistics()
    assert (told.num_host_hits, told.num_cached_tokens) == (1, num_cached)
    assert told.num_saved_tokens >= told.num_restored_tokens >= num_cached > 100
    assert told.host_bytes == bench.host.num_bytes > 0
    assert told.max_host_bytes == 1 << 20


class BusyIdler:
    """An engine that always finds something to tidy."""

    has_work = False

    def __init__(self) -> None:
        self.num_tidied = 0
        self.is_tidying = threading.Event()

    def check_integrity(self) -> None: ...

    def statistics(self) -> Statistics:
        return Statistics()

    def tidy(self) -> bool:
        self.num_tidied += 1
        self.is_tidying.set()
        return True


def test_an_engine_with_much_to_tidy_hears_that_it_is_to_stop() -> None:
    engine: Any = BusyIdler()
    loop = StepLoop(lambda deliver: engine, EngineSettings())
    loop._take_news = iter([True, False]).__next__  # type: ignore[method-assign]
    thread = threading.Thread(target=loop.run, args=(lambda deliveries: None,))
    thread.start()
    assert engine.is_tidying.wait(10)
    loop.stop()
    thread.join(10)
    assert not thread.is_alive()
