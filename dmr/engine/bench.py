"""The engine's own bench: `python -m dmr.engine.bench ORDER`, an EngineOrder as JSON.

It measures the engine of a loaded model without HTTP and without other processes: scheduler, model runner and sampling
are those that serve requests. Writes EngineNews to standard output, a line of JSON each. Standard input is its life
line: when it closes, nobody wants the figures any more and the process ends.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable

import msgspec

from dmr.bench.engine_figures import (
    EngineLevel,
    EngineNews,
    EngineOrder,
    Failed,
    Loaded,
    Loading,
    Measured,
    MeasuredStep,
    step_figures,
)
from dmr.bench.prompts import PromptMaker, sample_text
from dmr.engine.core_budget import read_cpu_times
from dmr.engine.core_share import CoreShare
from dmr.engine.engine import Request, Runner
from dmr.engine.intake import Intake
from dmr.engine.loading import cannot_generate, load_model
from dmr.engine.machinery import SharingRunner, make_engine
from dmr.engine.model_runner import Generator, ModelRunner, StepOutput
from dmr.engine.native_options import num_usable_cores
from dmr.engine.quantize import end_with_parent
from dmr.engine.scheduler import Schedule
from dmr.engine.statistics import NativeCounters
from dmr.errors import DmrError, InternalError, InvalidRequest, Unsupported
from dmr.types import SamplingParams
from dmr.wire import EngineMessage, EngineRequest, EngineSpec, EngineTokenize, WireError

ENOUGH_SECONDS = 1.0  # of prefill, at each level
MAX_PREFILLS = 5  # at each level
NUM_WARMUP_STEPS = 4
HEADROOM = 16  # cells that the scheduler wants to be free for each running sequence
NO_TARGET = 3600.0  # seconds a step may last: nobody waits for a stream here

_SAMPLING = SamplingParams(temperature=0.0, ignore_eos=True)


class WatchedRunner:
    """A model runner that notes what the last step was to compute."""

    def __init__(self, runner: Runner) -> None:
        self.last = Schedule([], [])
        self._runner = runner

    def run(self, schedule: Schedule, generators: dict[int, Generator]) -> StepOutput:
        self.last = schedule
        return self._runner.run(schedule, generators)

    def forget_all(self) -> None:
        self._runner.forget_all()

    def interrupt(self) -> None:
        self._runner.interrupt()

    def counters(self) -> NativeCounters:
        return self._runner.counters()


def settings_for(order: EngineOrder) -> EngineSpec:
    """What the engine is loaded with: the order's settings, and room for what is to be measured."""
    settings = order.settings
    most = max(order.concurrency)
    settings = msgspec.structs.replace(
        settings,
        context_size=settings.context_size or 256 * math.ceil(num_cells_needed(order, most) / 256),
        max_num_seqs=max(settings.max_num_seqs, most),
        inter_token_target=NO_TARGET,
    )
    return EngineSpec("bench", order.weights, None, "", settings)


def num_cells_needed(order: EngineOrder, concurrency: int) -> int:
    """KV cells for a level: while the last prompts are computed, the first sequences generate already."""
    num_early = math.ceil(concurrency * order.prompt_tokens / max(1, order.settings.max_batch_tokens - concurrency))
    return concurrency * (order.prompt_tokens + order.output_tokens + num_early + NUM_WARMUP_STEPS + HEADROOM)


class EngineBench:
    """One loaded model."""

    def __init__(self, order: EngineOrder, progress: Callable[[float], bool]) -> None:
        """Raises ModelLoadFailed, Unsupported and InvalidRequest: a level has no room."""
        spec = settings_for(order)
        num_cores = spec.settings.num_threads or num_usable_cores()
        cores = CoreShare(num_cores, (lambda: None) if spec.settings.num_threads else read_cpu_times)
        loaded = load_model(spec, progress)
        runner = ModelRunner.over(loaded, spec.settings, cores)
        if runner is None:
            raise Unsupported(cannot_generate(loaded.model))
        self.info = runner.info()
        self.num_cells = runner.num_cells
        self._order = order
        self._check_room(runner)
        self._runner = runner
        self._watched = WatchedRunner(SharingRunner(runner, cores))
        self._engine = make_engine(self._watched, runner, spec.settings, self._take)
        self._intake = Intake(runner)
        token_ids = self._intake.tokenize(EngineTokenize(sample_text(), parse_special=False)).ids
        self._prompts = PromptMaker(token_ids, order.seed, order.prompt_tokens)

    def _check_room(self, runner: ModelRunner) -> None:
        most = max(self._order.concurrency)
        if runner.max_num_seqs < most:
            raise InvalidRequest(f"The engine computes {runner.max_num_seqs} sequences at a time, not {most}.")
        needed = num_cells_needed(self._order, most)
        if runner.num_cells < needed:
            raise InvalidRequest(
                f"{most} sequences of {self._order.prompt_tokens} + {self._order.output_tokens} tokens need a context "
                f"of {needed} tokens; there are {runner.num_cells}."
            )

    def measure(self, concurrency: int) -> EngineLevel:
        prefill: list[MeasuredStep] = []
        for _ in range(MAX_PREFILLS):
            prompts = [tuple(self._prompts.make()) for _ in range(concurrency)]
            prefill += self._prefill(prompts)
            if sum(step.seconds for step in prefill) >= ENOUGH_SECONDS:
                break
        decode = self._decode(prompts)
        return EngineLevel(concurrency=concurrency, prefill=step_figures(prefill), decode=step_figures(decode))

    def warm_up(self) -> None:
        prompts = [tuple(self._prompts.make())]
        self._prefill(prompts)
        self._decode(prompts)

    def _prefill(self, prompts: list[tuple[int, ...]]) -> list[MeasuredStep]:
        for prompt in prompts:
            self._add(prompt, max_tokens=1)
        steps: list[MeasuredStep] = []
        while self._engine.has_work:
            time_taken = self._step()
            num_tokens = sum(chunk.num_tokens for chunk in self._watched.last.chunks)
            steps.append(MeasuredStep(num_tokens, *time_taken))
        return steps

    def _decode(self, prompts: list[tuple[int, ...]]) -> list[MeasuredStep]:
        """`output_tokens` steps in which every sequence generates, without the first, which are still warming up.

        The prompts may have been computed before, which saves time.
        """
        requests = [self._add(prompt, max_tokens=None) for prompt in prompts]
        while not all(request.first_token for request in requests):
            self._step()
        steps: list[MeasuredStep] = []
        num_known = sum(request.num_completion_tokens for request in requests)
        for _ in range(NUM_WARMUP_STEPS + self._order.output_tokens):
            time_taken = self._step()
            # Not the tokens that were computed: some may have been guesses, in vain.
            num_tokens = sum(request.num_completion_tokens for request in requests)
            steps.append(MeasuredStep(num_tokens - num_known, *time_taken))
            num_known = num_tokens
        for request in requests:
            self._engine.abort(request)
        self._engine.check_integrity()
        return steps[NUM_WARMUP_STEPS:]

    def _add(self, prompt: tuple[int, ...], max_tokens: int | None) -> Request:
        request = self._intake.prepare(EngineRequest((prompt,), _SAMPLING, max_tokens=max_tokens))
        self._engine.add(request)
        return request

    def _step(self) -> tuple[float, float]:
        """Seconds that a step took, and those of them in native code."""
        native_before = self._runner.native_seconds
        began = time.perf_counter()
        self._engine.step()
        return time.perf_counter() - began, self._runner.native_seconds - native_before

    def _take(self, request: Request, message: EngineMessage) -> None:
        """A message of the engine; what a server would send is dropped here."""
        if isinstance(message, WireError):
            raise InternalError(f"A sequence failed: {message.message}")


def say(news: EngineNews) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(news) + b"\n")
    sys.stdout.buffer.flush()


def run(order: EngineOrder) -> None:
    """Measure what is ordered and tell it."""

    def progress(fraction: float) -> bool:
        say(Loading(fraction))
        return True

    bench = EngineBench(order, progress)
    say(Loaded(bench.info.description, bench.num_cells))
    bench.warm_up()
    for concurrency in order.concurrency:
        say(Measured(bench.measure(concurrency)))


def main(order: str) -> int:
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        run(msgspec.json.decode(order, type=EngineOrder))
    except DmrError as error:
        say(Failed(error.message))
        return 1
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stdout.flush()
    os._exit(code)  # native threads are not worth waiting for
