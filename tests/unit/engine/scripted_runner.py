"""A model runner without native code. Its memory is real enough to notice every slip of the bookkeeping."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable
from typing import Any

from unit.engine.cell_memory import CellMemory

from dmr.engine.engine import Engine, PrefillPacer, Request
from dmr.engine.kv_cache import KVCache
from dmr.engine.model_runner import Generator, NextToken, NoRoom
from dmr.engine.scheduler import Schedule, Scheduler
from dmr.engine.sequence import Sequence
from dmr.wire import EngineMessage

Choose = Callable[[Sequence], NextToken]


def next_token(tokens: list[int]) -> int:
    """The "model": depends on every token before, in order."""
    return zlib.crc32(repr(tokens).encode()) % 1000


def answer_to(prompt: list[int], num_tokens: int) -> list[int]:
    """What the model answers when it is alone."""
    tokens = list(prompt)
    for _ in range(num_tokens):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


def text_of(tokens: list[int]) -> str:
    return "".join(f"<{token}>" for token in tokens)


def choose(sequence: Sequence, **changes: Any) -> NextToken:
    """The model's own choice, with `changes` to what comes of it."""
    token = next_token(sequence.token_ids)
    return NextToken(token, text_of([token]), False, None, None, "")._replace(**changes)


class ScriptedRunner:
    """`failures` are raised by the next steps, None lets one pass; `choose` may be replaced."""

    def __init__(self, num_cells: int) -> None:
        self.num_cells = num_cells
        self.memory = CellMemory()
        self.failures: deque[Exception | None] = deque()
        self.choose: Choose = choose
        self.num_steps = 0

    def run(self, schedule: Schedule, generators: dict[int, Generator]) -> dict[int, NextToken]:
        self.num_steps += 1
        self.memory.perform(schedule.operations)
        failure = self.failures.popleft() if self.failures else None
        if failure is not None:
            raise failure
        wanted = sum(chunk.num_tokens for chunk in schedule.chunks)
        if self.memory.num_used + wanted > self.num_cells:
            raise NoRoom
        return {
            chunk.sequence.id: self.choose(chunk.sequence)
            for chunk in schedule.chunks
            if self._compute(*chunk) and generators[chunk.sequence.id]
        }

    def forget_all(self) -> None:
        self.memory.clear()

    def _compute(self, sequence: Sequence, start: int, num_tokens: int, wants_output: bool) -> bool:
        assert sequence.slot is not None
        self.memory.add(sequence.slot, start, sequence.token_ids[start : start + num_tokens])
        assert not wants_output or self.memory.tokens(sequence.slot) == sequence.token_ids, (
            "an output before all was computed, or from foreign cells"
        )
        return wants_output


class HeldText:
    """A detokenizer that holds back a text until it is flushed."""

    def __init__(self, text: str = "") -> None:
        self.text = text

    def flush(self) -> str:
        text, self.text = self.text, ""
        return text


def make_generator(held: str = "") -> Generator:
    native: Any = HeldText(held)
    return Generator(sampler=native, detokenizer=native, stop=(), wants_logprobs=False)


class Bench:
    """An engine on a scripted runner, and the messages of each request."""

    def __init__(self, num_cells: int = 1000, num_slots: int = 8, max_batch: int = 64, real_cells: int = 0) -> None:
        """`real_cells`: what the native memory really has, if that is less than it says."""
        self.runner = ScriptedRunner(real_cells or num_cells)
        self.scheduler = Scheduler(KVCache(num_cells, num_slots), num_slots, max_batch)
        self.messages: dict[Request, list[EngineMessage]] = {}
        pacer = PrefillPacer(target=0.1, smallest=8, largest=max_batch)
        self.engine = Engine(self.runner, self.scheduler, pacer, lambda r, m: self.messages[r].append(m))
        self._num_sequences = 0

    def add(self, *prompts: list[int], max_new: int = 3, held: str = "") -> Request:
        """A request with one choice for each prompt."""
        request = self.make_request(*prompts, max_new=max_new, held=held)
        self.messages[request] = []
        self.engine.add(request)
        return request

    def make_request(self, *prompts: list[int], max_new: int = 3, held: str = "") -> Request:
        sequences = []
        for index, prompt in enumerate(prompts):
            sequences.append(Sequence(self._num_sequences, index, list(prompt), len(prompt) + max_new))
            self._num_sequences += 1
        return Request(sequences, [make_generator(held) for _ in prompts], sum(map(len, prompts)))

    def run(self, max_steps: int = 2000) -> None:
        """Step until nothing is left to do; integrity is checked after each step."""
        for _ in range(max_steps):
            if not self.engine.has_work:
                return
            self.engine.step()
            self.engine.check_integrity()
        raise AssertionError(f"no end after {max_steps} steps")
