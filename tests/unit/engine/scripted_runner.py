"""A model runner without native code. Its memory is real enough to notice every slip of the bookkeeping."""

from __future__ import annotations

import copy
import re
import zlib
from collections import deque
from collections.abc import Callable
from typing import Any

from unit.engine.cell_memory import CellMemory

from dmr.engine.engine import Engine, PendingEcho, Request
from dmr.engine.kv_cache import KVCache
from dmr.engine.model_runner import Generator, Interrupted, NewTokens, NoRoom, StepOutput
from dmr.engine.prefill_pacer import PrefillPacer
from dmr.engine.scheduler import Chunk, Schedule, Scheduler
from dmr.engine.sequence import Sequence
from dmr.engine.speculation import Speculation
from dmr.engine.statistics import NativeCounters
from dmr.errors import InvalidRequest
from dmr.types import TokenLogprob, TokenProbability
from dmr.wire import EngineMessage, EngineRequest

Choose = Callable[[Sequence], NewTokens]


def next_token(tokens: list[int]) -> int:
    """The "model": depends on every token before, in order."""
    return zlib.crc32(repr(tokens).encode()) % 1000


def answer_to(prompt: list[int], num_tokens: int) -> list[int]:
    """What the model answers when it is alone."""
    tokens = list(prompt)
    for _ in range(num_tokens):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


def score_of(tokens: list[int]) -> TokenLogprob:
    """The log probability of the last token after those before it."""
    return TokenLogprob(TokenProbability(tokens[-1], b"", -float(next_token(tokens))))


def text_of(tokens: list[int]) -> str:
    return "".join(f"<{token}>" for token in tokens)


def choose(sequence: Sequence, **changes: Any) -> NewTokens:
    """The model's own choice, with `changes` to what comes of it."""
    token = next_token(sequence.token_ids)
    return NewTokens((token,), text_of([token]), False, None, (), "")._replace(**changes)


class ScriptedRunner:
    """`failures` are raised by the next steps, None lets one pass; `choose` and `fails` may be replaced."""

    def __init__(self, num_cells: int) -> None:
        self.num_cells = num_cells
        self.max_outputs: int | None = None
        self.fails: Callable[[Schedule], Exception | None] = lambda schedule: None
        self.memory = CellMemory()
        self.failures: deque[Exception | None] = deque()
        self.choose: Choose = choose
        self.num_steps = 0
        self.is_interrupted = False
        self.on_run: Callable[[Schedule], None] = lambda schedule: None  # what happens while a step runs
        self.score_errors: Callable[[Schedule], dict[int, str]] = lambda schedule: {}  # by sequence id

    def run(self, schedule: Schedule, generators: dict[int, Generator]) -> StepOutput:
        self.num_steps += 1
        self.memory.perform(schedule.operations)
        failure = self.failures.popleft() if self.failures else self.fails(schedule)
        if failure is not None:
            raise failure
        self.on_run(schedule)
        if self.is_interrupted:
            self.is_interrupted = False
            raise Interrupted
        wanted = sum(chunk.num_tokens + len(chunk.draft) for chunk in schedule.chunks)
        if self.memory.num_used + wanted > self.num_cells:
            raise NoRoom
        num_outputs = sum(
            c.num_tokens if c.sequence.wants_scores else c.wants_output + len(c.draft) for c in schedule.chunks
        )
        assert self.max_outputs is None or num_outputs <= self.max_outputs, "more outputs than a step can have"
        tokens = {
            chunk.sequence.id: self._new_tokens(chunk)
            for chunk in schedule.chunks
            if self._compute(chunk) and generators[chunk.sequence.id]
        }
        errors = self.score_errors(schedule)
        scored = [c for c in schedule.chunks if c.sequence.wants_scores and c.sequence.id not in errors]
        return StepOutput(tokens, {c.sequence.id: self._score(c) for c in scored}, errors)

    def interrupt(self) -> None:
        self.is_interrupted = True

    def forget_all(self) -> None:
        self.memory.clear()

    def counters(self) -> NativeCounters:
        return NativeCounters(self.num_steps, max(0, self.num_steps - 1), 1)

    def _compute(self, chunk: Chunk) -> bool:
        sequence, start, num_tokens, wants_output, draft = chunk
        assert sequence.slot is not None
        assert wants_output or not draft, "guesses at what nobody wants"
        self.memory.add(sequence.slot, start, [*sequence.token_ids[start : start + num_tokens], *draft])
        assert not wants_output or self.memory.tokens(sequence.slot) == [*sequence.token_ids, *draft], (
            "an output before all was computed, or from foreign cells"
        )
        return wants_output

    def _new_tokens(self, chunk: Chunk) -> NewTokens:
        """As many as guesses are right, and one; the memory forgets the others."""
        ahead = copy.copy(chunk.sequence)
        new = self.choose(ahead)
        text = new.text
        for guess in chunk.draft:
            if new.error or new.is_end or new.stop_sequence is not None or new.token_ids[-1] != guess:
                break
            ahead.token_ids = [*chunk.sequence.token_ids, *new.token_ids]
            following = self.choose(ahead)
            text += following.text
            new = following._replace(
                token_ids=new.token_ids + following.token_ids, logprobs=new.logprobs + following.logprobs
            )
        if chunk.draft:
            assert ahead.slot is not None
            num_right = len(new.token_ids) - 1
            self.memory.cut(ahead.slot, chunk.start + chunk.num_tokens + num_right)
        return new._replace(text=text)

    def _score(self, chunk: Chunk) -> list[TokenLogprob]:
        """From the cells, as far as they go; a place outside of the chunk has no output."""
        sequence, places = chunk.sequence, chunk.scored_positions
        assert sequence.slot is not None
        assert all(chunk.start <= place < chunk.start + chunk.num_tokens for place in places)
        cells = self.memory.tokens(sequence.slot)
        return [score_of([*cells[: place + 1], sequence.token_ids[place + 1]]) for place in places]


class HeldText:
    """A detokenizer that holds back a text until it is flushed."""

    def __init__(self, text: str = "") -> None:
        self.text = text

    def flush(self) -> str:
        text, self.text = self.text, ""
        return text


def make_generator(held: str = "", num_logprobs: int | None = None) -> Generator:
    native: Any = HeldText(held)
    return Generator(sampler=native, detokenizer=native, stop=(), num_logprobs=num_logprobs)


class PieceTokenizer:
    """Three characters are a token, counted from the last control token; as some tokenizers do, with a space before.

    `<r>` takes away the spaces after it, `<l>` those before it.
    """

    context_size = 20
    begin_token = 1
    infill_tokens = (-1, -1, -1)
    control_tokens = ("<s>", "</s>", "<u>", "<e>", "<r>", "<l>", "e><u")

    def __init__(self) -> None:
        self._pieces = ["", *self.control_tokens]

    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        places = [(m.start(), m.end()) for token in self.control_tokens for m in re.finditer(token, text)]
        tokens = self.tokenize_where(text, set(places if parse_special else ()))
        return [1, *tokens, 2] if add_special else tokens

    def tokenize_where(self, text: str, controls: set[tuple[int, int]]) -> list[int]:
        """`controls`: where control tokens could stand; the longest come first."""
        places: list[tuple[int, int]] = []
        for start, end in sorted(controls, key=lambda place: (place[0] - place[1], place)):
            if all(end <= other[0] or other[1] <= start for other in places):
                places.append((start, end))
        tokens: list[int] = []
        done, before = 0, ""
        for start, end in [*sorted(places), (len(text), len(text))]:
            after = text[start:end]
            part = text[done:start]
            part = part.lstrip(" \n") if before == "<r>" else part
            part = part.rstrip(" \n") if after == "<l>" else part
            if part:
                tokens += [self._id(f" {part}"[at : at + 3]) for at in range(0, len(part) + 1, 3)]
            tokens += [1 + self.control_tokens.index(after)] if after else []
            done, before = end, after
        return tokens

    def pieces(self, tokens: list[int]) -> list[str]:
        return [self._pieces[token] for token in tokens]

    def piece(self, token: int) -> bytes:
        return self._pieces[token].encode()

    def detokenize(self, token_ids: list[int]) -> str:
        return "".join(self.pieces(token_ids))

    def check_tokens(self, token_ids: tuple[int, ...], param: str = "prompt") -> list[int]:
        if not all(0 <= token < len(self._pieces) for token in token_ids):
            raise InvalidRequest("Token is not in the model's vocabulary.", param=param)
        return list(token_ids)

    def make_generator(self, request: EngineRequest, seed: int, prompt: list[int]) -> Generator:
        return make_generator(num_logprobs=request.num_logprobs)

    def _id(self, piece: str) -> int:
        """The control tokens' texts as plain text are tokens too, but others."""
        first_plain = 1 + len(self.control_tokens)
        if piece not in self._pieces[first_plain:]:
            self._pieces.append(piece)
        return self._pieces.index(piece, first_plain)


class Bench:
    """An engine on a scripted runner, and the messages of each request."""

    def __init__(
        self,
        num_cells: int = 1000,
        num_slots: int = 8,
        max_batch: int = 64,
        real_cells: int = 0,
        max_outputs: int | None = None,
        speculation: Speculation | None = None,
    ) -> None:
        """`real_cells`: what the native memory really has, if that is less than it says."""
        self.runner = ScriptedRunner(real_cells or num_cells)
        self.runner.max_outputs = max_outputs or num_slots
        self.scheduler = Scheduler(KVCache(num_cells, num_slots), num_slots, max_batch, max_outputs)
        self.messages: dict[Request, list[EngineMessage]] = {}
        pacer = PrefillPacer(target=0.1, smallest=8, largest=max_batch)
        self.engine = Engine(self.runner, self.scheduler, pacer, lambda r, m: self.messages[r].append(m), speculation)
        self._num_sequences = 0

    def add(self, *prompts: list[int], **options: Any) -> Request:
        """A request with one choice for each prompt; `options` as those of `make_request`."""
        request = self.make_request(*prompts, **options)
        self.messages[request] = []
        self.engine.add(request)
        return request

    def make_request(
        self,
        *prompts: list[int],
        max_new: int = 3,
        held: str = "",
        echo: bool = False,
        num_logprobs: int | None = None,
        max_length: int | None = None,
        shift: int | None = None,
        wants_token_ids: bool = False,
    ) -> Request:
        """`max_length`: of each choice at a time, if that is not what its prompt and its answer take."""
        sequences = []
        for index, prompt in enumerate(prompts):
            sequence = Sequence(
                self._num_sequences,
                index,
                list(prompt),
                len(prompt) + max_new if max_length is None else max_length,
                max_new_tokens=max_new,
                shift=shift,
                is_scored=echo and num_logprobs is not None,
            )
            sequences.append(sequence)
            self._num_sequences += 1
        return Request(
            sequences,
            [make_generator(held, num_logprobs) for _ in prompts],
            sum(map(len, prompts)),
            echoes={index: PendingEcho(text_of(prompt)) for index, prompt in enumerate(prompts)} if echo else {},
            wants_token_ids=wants_token_ids,
        )

    def run(self, max_steps: int = 2000) -> None:
        """Step until nothing is left to do; integrity is checked after each step."""
        for _ in range(max_steps):
            if not self.engine.has_work:
                return
            self.engine.step()
            self.engine.check_integrity()
        raise AssertionError(f"no end after {max_steps} steps")
