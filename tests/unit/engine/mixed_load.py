"""A load of all kinds of requests on one engine, and the same requests one at a time."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import NamedTuple

from unit.engine.native_bench import NativeBench

from dmr import _core
from dmr.engine.engine import Engine, Request
from dmr.engine.intake import Intake
from dmr.engine.kv_cache import KVCache, Sharing
from dmr.engine.model_runner import ModelRunner
from dmr.engine.prefill_pacer import PrefillPacer
from dmr.engine.scheduler import Scheduler
from dmr.engine.speculation import Speculation
from dmr.types import SamplingParams, TokenLogprob
from dmr.wire import EngineCompleted, EngineEcho, EngineMessage, EngineOutput, EngineRequest

NUM_FAMILIES = 6  # prompts of one begin alike


class Visit(NamedTuple):
    """One request of the load."""

    arrives: int  # step
    message: EngineRequest
    leaves_after: int | None  # steps after its arrival; None = it stays to its end


class Answer(NamedTuple):
    """One choice of a request as its client gets it."""

    tokens: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...]  # of each token but one that ends the answer; empty if they were not wanted
    prompt_logprobs: tuple[TokenLogprob, ...]  # of its tokens from the second on, if they were wanted
    reason: tuple[str | None, str | None]  # why it ended, and by which stop string


def make_visits(number: int, seed: int, pauses: tuple[int, ...] = (0, 0, 0, 1, 2, 6)) -> list[Visit]:
    """Everything differs: lengths, prefixes, parameters, choices, when they come and when they leave.

    `pauses`: steps from one arrival to the next.
    """
    dice = random.Random(seed)
    families = [_text(dice, dice.randrange(20, 70)) for _ in range(NUM_FAMILIES)]
    visits: list[Visit] = []
    now = 0
    for index in range(number):
        now += dice.choice(pauses)
        leaves = dice.randrange(25) if dice.random() < 0.2 else None
        visits.append(Visit(now, _message(dice, families, index), leaves))
    return visits


def _message(dice: random.Random, families: list[str], index: int) -> EngineRequest:
    prompt = _text(dice, dice.randrange(1, 90))
    if dice.random() < 0.5:
        family = dice.choice(families)
        prompt = family[: dice.randrange(10, len(family) + 1)] + prompt[: dice.randrange(len(prompt) + 1)]
    return EngineRequest(
        (prompt,),
        _greedy(dice) if dice.random() < 0.4 else _sampled(dice, index),
        num_choices=dice.choice([1, 1, 1, 2, 3]),
        max_tokens=dice.choice([1, 5, 20, 20, 40]),
        stop=tuple(_text(dice, dice.choice([1, 2])) for _ in range(dice.choice([0, 0, 1, 3]))),
        num_logprobs=dice.choice([5, 5, 5, None]),
        echo=dice.random() < 0.1,
        client=dice.choice(["", "a", "b"]),
    )


def _greedy(dice: random.Random) -> SamplingParams:
    return SamplingParams(temperature=0.0, ignore_eos=dice.random() < 0.5)


def _sampled(dice: random.Random, seed: int) -> SamplingParams:
    return SamplingParams(
        seed=seed,
        temperature=dice.choice([0.3, 0.8, 1.5]),
        top_k=dice.choice([0, 3, 40]),
        top_p=dice.choice([1.0, 0.9]),
        min_p=dice.choice([0.0, 0.05]),
        repeat_penalty=dice.choice([1.0, 1.0, 1.2]),
        presence_penalty=dice.choice([0.0, 0.0, 0.5]),
        xtc_probability=dice.choice([0.0, 0.0, 0.0, 0.5]),
        ignore_eos=dice.random() < 0.5,
    )


def _text(dice: random.Random, length: int) -> str:
    return "".join(dice.choices("abcdefgh ", k=length))


class MixedBench(NativeBench):
    """All slots of the context are in use, so that what finished sequences leave is shared too."""

    def __init__(
        self, runner: ModelRunner, *, shares_prefixes: bool = True, speculation: Speculation | None = None
    ) -> None:
        runner.forget_all()
        self.intake = Intake(runner)
        self.kv_cache = KVCache(runner.num_cells, runner.num_slots, runner.sharing if shares_prefixes else Sharing.NONE)
        self.scheduler = Scheduler(self.kv_cache, runner.max_num_seqs, runner.max_batch_tokens, runner.max_outputs)
        pacer = PrefillPacer(0.1, smallest=16, largest=16)  # the machine's speed is not to matter
        self.messages: dict[Request, list[EngineMessage]] = defaultdict(list)
        self.engine = Engine(runner, self.scheduler, pacer, lambda r, m: self.messages[r].append(m), speculation)
        self._runner = runner

    def play(self, visits: list[Visit]) -> dict[int, list[Answer]]:
        """The answers to those that stayed to their end, by number; checks the books against the native memory."""
        requests: dict[int, Request] = {}
        now = 0
        while len(requests) < len(visits) or self.engine.has_work:
            for index, visit in enumerate(visits):
                if visit.arrives == now:
                    requests[index] = self.add(visit.message)
                if visit.leaves_after is not None and visit.arrives + visit.leaves_after == now:
                    self.engine.abort(requests[index])
            if self.engine.has_work:
                self.engine.step()
                self.engine.check_integrity()
            if now % 16 == 0:
                self.check_native_memory()
            now += 1
        self.check_native_memory()
        return {index: self.answers(request) for index, request in requests.items() if self.is_complete(request)}

    def is_complete(self, request: Request) -> bool:
        messages = self.messages[request]
        return bool(messages) and isinstance(messages[-1], EngineCompleted)

    def answers(self, request: Request) -> list[Answer]:
        outputs: dict[int, list[EngineOutput]] = defaultdict(list)
        echoes: dict[int, EngineEcho] = {}
        for message in self.messages[request]:
            if isinstance(message, EngineOutput):
                outputs[message.index].append(message)
            elif isinstance(message, EngineEcho):
                echoes[message.index] = message
        answers = []
        for sequence in request.sequences:
            parts = outputs[sequence.index]
            echo = echoes[sequence.index].logprobs if sequence.index in echoes else ()
            answers.append(
                Answer(
                    tuple(sequence.token_ids[sequence.num_prompt_tokens :]),
                    "".join(part.text for part in parts),
                    tuple(entry for part in parts for entry in part.logprobs),
                    tuple(entry for entry in echo if entry is not None),
                    (parts[-1].finish_reason, parts[-1].stop_sequence),
                )
            )
        return answers

    def score(self, prompt: tuple[int, ...]) -> list[TokenLogprob]:
        """What the model says of each token of a text, from the second on."""
        greedy = SamplingParams(temperature=0.0)
        request = self.add(EngineRequest((prompt,), greedy, max_tokens=0, echo=True, num_logprobs=5))
        self.run()
        (echo,) = (message for message in self.messages[request] if isinstance(message, EngineEcho))
        assert echo.logprobs[0] is None
        return [entry for entry in echo.logprobs if entry is not None]

    def check_native_memory(self) -> None:
        """Each slot holds exactly what the books say."""
        memory, context = self._runner._memory, self._runner._context
        memory.perform(self.kv_cache.take_operations())
        held = self.kv_cache.num_held_by_slot()
        assert native_lengths(context) == [held.get(slot, 0) for slot in range(context.max_sequences)]


def native_lengths(context: _core.Context) -> list[int]:
    """How many positions each slot has, from the first on."""
    slots = range(context.max_sequences)
    assert all(context.position_min(slot) in (-1, 0) for slot in slots)
    return [context.position_max(slot) + 1 for slot in slots]
