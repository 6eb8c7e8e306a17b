"""An engine on a real context, and how alike two distributions are."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path

from dmr.config import EngineSettings
from dmr.engine.engine import Engine, Request
from dmr.engine.intake import Intake
from dmr.engine.kv_cache import KVCache
from dmr.engine.model_runner import ModelRunner
from dmr.engine.prefill_pacer import PrefillPacer
from dmr.engine.scheduler import Scheduler
from dmr.engine.speculation import Speculation
from dmr.types import TokenLogprob
from dmr.wire import EngineCompleted, EngineMessage, EngineOutput, EngineRequest, EngineSpec

SETTINGS = EngineSettings(context_size=256, max_num_seqs=8, max_batch_tokens=48, num_threads=1)
TOLERANCE = 0.1  # of a log probability; KV memory of 16-bit floats leaves about 0.03


def make_spec(weights: Path, settings: EngineSettings = SETTINGS, template: Path | None = None) -> EngineSpec:
    return EngineSpec("tiny", (str(weights),), str(template) if template else None, "", settings)


class NativeBench:
    def __init__(self, runner: ModelRunner, speculation: Speculation | None = None) -> None:
        runner.forget_all()  # another bench may have used it
        self.intake = Intake(runner)
        kv_cache = KVCache(runner.num_cells, runner.max_num_seqs)
        self.scheduler = Scheduler(kv_cache, runner.max_num_seqs, runner.max_batch_tokens, runner.max_outputs)
        pacer = PrefillPacer(0.1, smallest=16, largest=16)  # the machine's speed is not to matter
        self.messages: dict[Request, list[EngineMessage]] = defaultdict(list)
        self.engine = Engine(runner, self.scheduler, pacer, lambda r, m: self.messages[r].append(m), speculation)

    def add(self, message: EngineRequest) -> Request:
        request = self.intake.prepare(message)
        self.engine.add(request)
        return request

    def run(self) -> None:
        while self.engine.has_work:
            self.engine.step()
            self.engine.check_integrity()
        self.engine.check_integrity()

    def answer(self, request: Request) -> list[list[int]]:
        """The tokens of each choice."""
        assert isinstance(self.messages[request][-1], EngineCompleted)
        return [sequence.token_ids[sequence.num_prompt_tokens :] for sequence in request.sequences]

    def text(self, request: Request, index: int = 0) -> str:
        outputs = [m for m in self.messages[request] if isinstance(m, EngineOutput) and m.index == index]
        return "".join(output.text for output in outputs)

    def logprobs(self, request: Request, index: int = 0) -> list[TokenLogprob]:
        outputs = [m for m in self.messages[request] if isinstance(m, EngineOutput) and m.index == index]
        return [entry for output in outputs for entry in output.logprobs]


def distance(one: TokenLogprob, other: TokenLogprob) -> float:
    """The largest difference between the probabilities of the likeliest tokens; infinite if those are others."""
    mine, theirs = ({entry.token: entry.logprob for entry in each.top} for each in (one, other))
    shared = mine.keys() & theirs.keys()
    return max(abs(mine[token] - theirs[token]) for token in shared) if len(shared) > 2 else math.inf


def assert_same_distribution(expected: list[TokenLogprob], actual: list[TokenLogprob]) -> int:
    """Compare token by token up to where the answers part; returns how many tokens were the same.

    They may part: the order of floating-point sums depends on the batch, and the last bits of a logit may decide. What
    the model has computed up to there must be the same all the same.
    """
    assert len(actual) == len(expected)
    for i, (one, other) in enumerate(zip(expected, actual, strict=True)):
        assert distance(one, other) < TOLERANCE, f"token {i}"
        if one.chosen.token != other.chosen.token:
            return i
    return len(expected)
