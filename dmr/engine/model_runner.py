"""The only door to the native context: chunks in, tokens and text out. llama.cpp's own names end here."""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from typing import NamedTuple

from dmr import _core
from dmr.config import EngineSettings
from dmr.engine.core_budget import CoreBudget
from dmr.engine.draft_model import DraftModel, load_draft_model
from dmr.engine.host_cache import HostCache
from dmr.engine.kv_cache import KVCache, Sharing
from dmr.engine.loading import (
    LoadedModel,
    ModelVocabulary,
    cannot_generate,
    computes_on_device,
    describe,
    load_failure,
    load_model,
)
from dmr.engine.media_steps import MediaSteps, is_media
from dmr.engine.native_memory import NativeMemory, host_cache_size, sharing_of
from dmr.engine.native_options import context_options, num_usable_cores, sampler_options, set_option
from dmr.engine.scheduler import Chunk, Schedule
from dmr.engine.sequence import Sequence
from dmr.engine.speculation import Drafts, DraftWish
from dmr.engine.statistics import NativeCounters
from dmr.errors import InvalidRequest, ModelLoadFailed
from dmr.memory.context_planner import ContextPlan
from dmr.types import TokenLogprob, TokenProbability
from dmr.wire import EngineInfo, EngineRequest, EngineSpec

MAX_SLOTS = 256  # llama.cpp's LLAMA_MAX_SEQ
# On a CPU each step looks at all cells up to the highest used one, so parked ones cost everybody: a full pool of 8,192
# makes the token of one user half as slow again. This share of the pool may stay parked beside the active cells.
PARKED_SHARE_ON_CPU = 4
LEAST_PARKED_ON_CPU = 1024
BLOCK_ON_CPU = 16  # tokens of a step that kernels of matrices take at a time
NO_DECODE = -1  # a number that no decode has
LEAST_MEASURED = 32  # tokens of a step whose cost is theirs, not that of reading the weights


class NewTokens(NamedTuple):
    """What one sequence got out of a step. With `error` set, nothing else counts."""

    token_ids: tuple[int, ...]  # one, and one more for each right guess
    text: str
    is_end: bool  # the model has ended its turn; the last token says so
    stop_sequence: str | None
    logprobs: tuple[TokenLogprob, ...]  # of each token, if they are wanted
    error: str


class StepOutput(NamedTuple):
    """What a step gave, by sequence id."""

    tokens: dict[int, NewTokens]  # of the chunks that want an output
    scores: dict[int, list[TokenLogprob]]  # of those whose prompt is scored: one for each of `scored_positions`
    score_errors: dict[int, str]  # of those whose prompt could not be scored


class StepFailed(Exception):
    """The step gave nothing, and what the native memory holds is unknown."""


class NoRoom(Exception):
    """The native memory found no cells for this step; it holds what it held before."""


class Interrupted(Exception):
    """The step was stopped before its end; the native memory holds what it held before."""


class Generator(NamedTuple):
    """The native state of one sequence: random numbers, grammar, unfinished characters."""

    sampler: _core.Sampler
    detokenizer: _core.Detokenizer
    stop: tuple[str, ...]
    num_logprobs: int | None  # None = none; k = the chosen token's and those of the k likeliest


class ModelRunner(ModelVocabulary):
    """Owns model and context.

    Tokenizing, detokenizing and `make_generator` are for any thread; all else belongs to the engine's one thread.
    """

    def __init__(self, model: _core.Model, context: _core.Context, settings: EngineSettings, template: str) -> None:
        super().__init__(model, context.sequence_context_size)
        self._context = context
        self._memory = NativeMemory(context)
        self._media = MediaSteps(context)
        self._batch = _core.Batch()
        self._pool = _core.ThreadPool(max(1, min(4, num_usable_cores())))
        self._template = template
        # Who names a number gets that number.
        names_threads = bool(settings.num_threads or settings.num_batch_threads)
        self._core_budget = None if names_threads else CoreBudget(num_usable_cores())
        self._num_first_threads = settings.num_threads or num_usable_cores()  # that the context was made with
        self._num_threads = 0  # as set in the context; 0 = as it was made
        self._full_context_size = 0  # tokens that it would have with more memory
        self._draft_model: DraftModel | None = None
        self._draft_follows = not settings.draft.num_threads  # it has as many threads as the model
        self.max_num_seqs = min(settings.max_num_seqs, context.max_sequences)
        self.num_slots = context.max_sequences
        self.sharing = sharing_of(model) if settings.shares_prefixes else Sharing.NONE
        self.can_speculate = context.can_truncate and settings.speculation != "off"
        self.host_cache_bytes = 0  # that saved states may take
        self._current_decode = 0  # the number of the one that the last step made
        self.max_batch_tokens = context.max_batch
        self.max_outputs = context.max_outputs
        self.step_block = 1 if computes_on_device() else BLOCK_ON_CPU
        # A recurrent state is as large after many tokens as after one: each slot has its own.
        self.num_cells = context.context_size * (context.max_sequences if model.is_recurrent else 1)
        self.native_seconds = 0.0  # that all steps spent in native code; what else they took is the host's share

    @classmethod
    def load(cls, spec: EngineSpec, progress: Callable[[float], bool]) -> ModelRunner:
        """Load weights and make a context. `progress` is told the fraction done; False cancels.

        Raises:
            ModelLoadFailed: with llama.cpp's own reason.
        """
        loaded = load_model(spec, progress)
        runner = cls.over(loaded, spec.settings)
        if runner is None:
            raise ModelLoadFailed(cannot_generate(loaded.model))
        return runner

    @classmethod
    def over(cls, loaded: LoadedModel, settings: EngineSettings, cores: CoreBudget | None = None) -> ModelRunner | None:
        """Make a context to generate with; None: this is a model for embeddings or reranking.

        `cores`: a budget that others have a part in; of no use where the settings name a number of threads.

        Raises:
            ModelLoadFailed
        """
        model = loaded.model
        if loaded.declared_pooling is not None or not model.has_decoder:
            return None
        # As many again as run at the same time, for what finished sequences leave behind.
        plan = loaded.plan_context(settings, min(2 * settings.max_num_seqs, MAX_SLOTS))
        try:
            context = _core.Context(model, _context_options(plan, settings))
        except (_core.Error, ValueError) as error:
            raise load_failure(error, loaded.weights) from error
        if not context.has_memory:
            context.close()
            return None
        runner = cls(model, context, settings, loaded.template)
        runner._full_context_size = plan.full_size
        runner.host_cache_bytes = host_cache_size(settings.host_cache_bytes, loaded.weights)
        if cores is not None and runner._core_budget is not None:
            runner._core_budget = cores
        if runner.can_speculate and settings.draft_model and settings.speculation != "ngram":
            runner._draft_model = load_draft_model(model, settings, plan.context_size)
        return runner

    @property
    def has_draft_model(self) -> bool:
        return self._draft_model is not None

    def make_kv_cache(self, max_parked_cells: int | None = None, *, counts_positions: bool = False) -> KVCache:
        """The books of an empty native memory. `max_parked_cells`, None = by where it computes; see KVCache."""
        host = None
        if max_parked_cells is None and not computes_on_device():
            max_parked_cells = max(LEAST_PARKED_ON_CPU, self.num_cells // PARKED_SHARE_ON_CPU)
        saves_whole = self.sharing is Sharing.AT_END  # pieces take a slot of their own, but sequences come first
        if self.host_cache_bytes and (saves_whole or self.num_slots > self.max_num_seqs):
            host = HostCache(self.host_cache_bytes, self._memory.costs, saves_whole=saves_whole)
        return KVCache(
            self.num_cells,
            self.num_slots,
            self.sharing,
            max_parked_cells=max_parked_cells,
            host=host,
            counts_positions=counts_positions,
        )

    def info(self) -> EngineInfo:
        tasks = ("generate", "embed")
        return describe(self._model, self._template, self.context_size, tasks, self._full_context_size)

    def make_generator(self, request: EngineRequest, seed: int, prompt: list[int]) -> Generator:
        """Sampler and detokenizer of one sequence. Parsing a grammar can take long; any thread.

        Raises:
            InvalidRequest: a parameter or the grammar cannot be used.
        """
        try:
            sampler = _core.Sampler(self._model, sampler_options(request, seed))
            sampler.observe(prompt)
            detokenizer = _core.Detokenizer(
                self._model, stop=list(request.stop), preserved_tokens=list(request.preserved_tokens)
            )
        except (ValueError, _core.GrammarError) as error:
            raise InvalidRequest(f"{error}.") from error
        return Generator(sampler, detokenizer, request.stop, request.num_logprobs)

    def run(self, schedule: Schedule, generators: dict[int, Generator]) -> StepOutput:
        """Compute the chunks; the next token of each sequence whose chunk wants one, and what prompts are scored.

        Without chunks, only what is asked of the native memory is done.

        Raises:
            NoRoom: nothing was computed.
            Interrupted: nothing was kept.
            StepFailed: the native memory is in an unknown state.
        """
        batch = self._batch
        batch.clear()
        rows: list[tuple[int, _core.Sampler, _core.Detokenizer]] = []
        sequences: list[Sequence] = []
        scored: list[tuple[Chunk, int]] = []  # and the place of its first token in the batch
        media = [chunk for chunk in schedule.chunks if chunk.sequence.media is not None and is_media(chunk)]
        texts = [chunk for chunk in schedule.chunks if not is_media(chunk)] if media else schedule.chunks
        num_step_tokens = sum(chunk.num_tokens for chunk in media)
        # Ascending slots are what the native side computes fastest.
        for chunk in sorted(texts, key=_slot_of):
            sequence, start, num_tokens, wants_output, draft = chunk
            num_step_tokens += num_tokens
            tokens = sequence.token_ids[start : start + num_tokens]
            wants_scores = sequence.wants_scores
            position = start if sequence.media is None else sequence.position_of(start)
            index = batch.add(_slot_of(chunk), tokens, position, wants_scores, wants_output, draft)
            if wants_scores:
                scored.append((chunk, index + 1 - num_tokens))
            if wants_output:
                generator = generators[sequence.id]
                rows.append((index, generator.sampler, generator.detokenizer))
                sequences.append(sequence)
        self._adapt_threads()
        # That of the text; pictures alone are short, and stopping none of them stops none that comes later.
        self._current_decode = self._context.next_decode + len(media) if batch else NO_DECODE
        try:
            self._memory.perform(schedule.operations)
            if not schedule.chunks:
                return StepOutput({}, {}, {})
            began = time.perf_counter()
            results = self._compute(media, rows)
            seconds = time.perf_counter() - began
            self.native_seconds += seconds
        except (_core.Error, ValueError) as error:
            raise StepFailed(str(error)) from error
        self._memory.costs.allow(seconds)
        if num_step_tokens >= LEAST_MEASURED:
            self._memory.costs.observe_step(num_step_tokens, seconds)
        # The samplers have gone on: from here on a failure is one sequence's own, or the others would lose tokens.
        tokens_by_id = {
            sequence.id: _new_tokens(row, generators[sequence.id])
            for sequence, row in zip(sequences, results, strict=True)
        }
        return StepOutput(tokens_by_id, *(self._score_all(scored, generators) if scored else ({}, {})))

    def _compute(
        self, media: list[Chunk], rows: list[tuple[int, _core.Sampler, _core.Detokenizer]]
    ) -> SequenceOf[_core.RowResult]:
        """The batch, after what pictures there are. Raises NoRoom, Interrupted, and as the native side does."""
        if media and (status := self._media.run(media)) != _core.DecodeStatus.DONE:
            self._current_decode = NO_DECODE
            raise NoRoom if status == _core.DecodeStatus.NO_ROOM else Interrupted
        if not self._batch:
            return ()
        result = _core.step(self._context, self._batch, rows, self._pool)
        if result.status == _core.DecodeStatus.DONE:
            return result.rows
        self._media.take_back()
        raise NoRoom if result.status == _core.DecodeStatus.NO_ROOM else Interrupted

    def _score_all(
        self, scored: list[tuple[Chunk, int]], generators: dict[int, Generator]
    ) -> tuple[dict[int, list[TokenLogprob]], dict[int, str]]:
        """By sequence: log probabilities, or why there are none."""
        scores: dict[int, list[TokenLogprob]] = {}
        errors: dict[int, str] = {}
        for chunk, first in scored:
            try:
                scores[chunk.sequence.id] = self._score(chunk, first, generators)
            except (_core.Error, ValueError) as error:
                errors[chunk.sequence.id] = str(error)
        return scores, errors

    def _score(self, chunk: Chunk, first: int, generators: dict[int, Generator]) -> list[TokenLogprob]:
        """Log probabilities of prompt tokens, from the outputs of the last step. `first`: the chunk's place in it.

        Raises:
            ValueError: an output is not a number.
        """
        token_ids = chunk.sequence.token_ids
        num_top = generators[chunk.sequence.id].num_logprobs or 0
        rows = [(first + place - chunk.start, token_ids[place + 1], num_top) for place in chunk.scored_positions]
        entries = _core.score(self._context, rows, self._pool)
        if any(entry.token < 0 for entry in entries):
            raise ValueError("the model's output is not a number")
        return [_logprob(entry, self.piece) for entry in entries]

    def _adapt_threads(self) -> None:
        if self._core_budget is None:
            return
        num_threads = self._core_budget.num_threads(time.monotonic())
        if num_threads != self._num_threads:
            self._num_threads = num_threads
            self._context.set_threads(num_threads)
            if self._draft_model is not None and self._draft_follows:
                self._draft_model.set_threads(num_threads)

    def draft(self, wishes: SequenceOf[DraftWish]) -> Drafts:
        """Guesses of the draft model; only if there is one.

        Raises:
            DraftFailed
        """
        assert self._draft_model is not None
        self._adapt_threads()
        return self._draft_model.draft(wishes)

    def interrupt(self) -> None:
        """Stop the running step, if there is one. Any thread; where a device computes, it goes on to its end."""
        if self._context.can_truncate:  # a recurrent state that was stopped is lost
            self._context.abort(self._current_decode)

    def interrupt_all(self) -> None:
        """Stop whatever is computed now. Only where the memory `can_truncate`; any thread."""
        self._context.abort()

    @property
    def num_threads(self) -> int:
        """That steps compute with now."""
        return self._num_threads or self._num_first_threads

    @property
    def adapts(self) -> bool:
        """Whether it takes fewer threads when others need the cores, and a step can be begun again with those."""
        return self._core_budget is not None and self._context.can_truncate and not computes_on_device()

    def forget_all(self) -> None:
        """Empty the native memory."""
        self._context.clear()

    def counters(self) -> NativeCounters:
        """Counts of the native context."""
        native = self._context.counters
        return NativeCounters(native.num_decodes, native.num_reused_graphs, self.num_threads)


def _context_options(plan: ContextPlan, settings: EngineSettings) -> _core.ContextOptions:
    options = context_options(settings)
    set_option(options, "context_size", plan.context_size)
    set_option(options, "max_batch", min(settings.max_batch_tokens, plan.context_size))
    set_option(options, "max_sequences", plan.max_sequences)
    if settings.speculation != "off":
        set_option(options, "max_outputs", min(options.max_batch, settings.max_num_seqs + settings.max_draft_tokens))
    return options


def _slot_of(chunk: Chunk) -> int:
    slot = chunk.sequence.slot
    assert slot is not None
    return slot


def _new_tokens(row: _core.RowResult, generator: Generator) -> NewTokens:
    if row.stopped_by < 0 and not row.sampled:  # as mostly
        return NewTokens(row.tokens, row.text, row.is_end, None, (), row.error)
    stop_sequence = generator.stop[row.stopped_by] if row.stopped_by >= 0 else None
    logprobs = tuple(_logprob(sampled, generator.detokenizer.piece) for sampled in row.sampled)
    return NewTokens(row.tokens, row.text, row.is_end, stop_sequence, logprobs, row.error)


def _logprob(row: _core.Sampled, piece: Callable[[int], bytes]) -> TokenLogprob:
    """`piece`: the bytes of a token, as they are to be shown."""
    top = tuple(TokenProbability(entry.token, piece(entry.token), entry.logprob) for entry in row.top)
    return TokenLogprob(TokenProbability(row.token, piece(row.token), row.logprob), top)
