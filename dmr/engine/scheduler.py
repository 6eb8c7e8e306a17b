"""What runs in the next step. Bookkeeping only: no I/O, no native code, no clock.

One rule serves all: a step gives each running sequence the chance to compute tokens it has not computed yet. A sequence
that generates has one such token, a fresh prompt has many and gets them in chunks. Whose prompt gets them is the fair
queue's choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as SequenceOf
from typing import NamedTuple

from dmr.engine.fair_queue import FairQueue
from dmr.engine.kv_cache import KVCache, Match, Operation
from dmr.engine.sequence import Sequence

MAX_LOOKED_AT = 64  # waiting sequences of one client that one step considers


class Chunk(NamedTuple):
    """Compute `num_tokens` tokens of the sequence from `start` on; sample after the last one if `wants_output`.

    `draft`: guesses at what will be sampled. They are computed too, but count for nothing before they are confirmed.
    """

    sequence: Sequence
    start: int
    num_tokens: int
    wants_output: bool
    draft: tuple[int, ...] = ()

    @property
    def scored_positions(self) -> range:
        """The positions whose outputs give the log probability of the prompt's token after each."""
        first = max(self.start, self.sequence.num_scored_tokens - 1)
        return range(first, min(self.start + self.num_tokens, self.sequence.num_prompt_tokens - 1))


class Admission(NamedTuple):
    sequence: Sequence
    match: Match


class Schedule(NamedTuple):
    chunks: list[Chunk]
    operations: list[Operation]  # on the native memory, in this order, before the chunks run


class Standing(NamedTuple):
    """How many sequences are at which point before a step."""

    num_generating: int  # they get their next token in the next step
    num_at_prompt: int  # they run, or could as far as places go, and have some of their prompt to be computed yet


class Scheduler:
    """Owns the waiting and the running sequences; each known sequence is in exactly one of the two."""

    def __init__(
        self,
        kv_cache: KVCache,
        max_num_seqs: int,
        max_batch_tokens: int,
        max_outputs: int | None = None,
        *,
        least_picture: int = 1,
    ) -> None:
        """`max_outputs`: places of a step that can have an output; None = one for each sequence.

        `least_picture`: places of a picture that a step takes at least, whatever its budget.
        """
        self.waiting = FairQueue()
        self.running: list[Sequence] = []  # in order of admission: the last one is the youngest
        self.num_preemptions = 0
        # Each generating sequence gets its token in every step: none waits behind another.
        assert 0 < max_num_seqs <= max_batch_tokens, "a step must have room for one token of each sequence"
        self._kv_cache = kv_cache
        self._max_num_seqs = max_num_seqs
        self._max_batch_tokens = max_batch_tokens
        self._least_picture = min(least_picture, max_batch_tokens)
        # One output is kept for each sequence; the rest is for prompts whose every token wants one.
        self._num_extra_outputs = 0 if max_outputs is None else max_outputs - max_num_seqs
        assert self._num_extra_outputs >= 0, "a step must have an output for each sequence"
        self._num_outputs_left = 0  # of the extra ones, in the step that is being planned
        self._is_full = False  # the native memory said so; nobody joins until somebody leaves

    @property
    def kv_cache(self) -> KVCache:
        """To look at."""
        return self._kv_cache

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def standing(self) -> Standing:
        num_generating = num_begun = 0
        for sequence in self.running:
            num_uncomputed = len(sequence.token_ids) - sequence.num_computed_tokens
            if num_uncomputed == 1:
                num_generating += 1
            elif num_uncomputed > 1:
                num_begun += 1
        return Standing(num_generating, num_begun + min(len(self.waiting), self._max_num_seqs - len(self.running)))

    def add(self, sequence: Sequence) -> None:
        self.waiting.add(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence that has finished or was aborted. Unknown ones are ignored."""
        if not self.waiting.knows(sequence):
            return
        if sequence.slot is not None:
            self.running.remove(sequence)
            self._kv_cache.close(sequence)
            self._is_full = False
        else:
            self.waiting.take(sequence)
        self.waiting.forget(sequence)

    def only_generating(self) -> list[Sequence]:
        """The running sequences, if each gets its next token in the next step and nothing else is to be done."""
        if self.waiting or any(other.is_suspect or other.num_uncomputed_tokens != 1 for other in self.running):
            return []
        return list(self.running)

    def schedule(self, prefill_budget: int, drafts: Mapping[int, SequenceOf[int]] | None = None) -> Schedule:
        """Choose the chunks of the next step; their tokens count as computed from here on.

        `prefill_budget`: the most prompt tokens to take while others generate; at least 1, so that prompts get on.
        `drafts`: guesses by sequence id, of which as many are taken as there is room for.
        """
        self._kv_cache.settle()
        self._num_outputs_left = self._num_extra_outputs
        self._make_way()
        chunks = self._schedule_generating()
        budget = self._max_batch_tokens - len(chunks)
        if chunks:
            budget = min(budget, prefill_budget)
        self._schedule_prompts(chunks, budget)
        while not chunks and len(self.running) > 1:  # half-computed prompts hold all the cells
            self.preempt_youngest()
            self._schedule_prompts(chunks, self._max_batch_tokens)
        if drafts:
            self._add_drafts(chunks, drafts)
        return Schedule(chunks, self._kv_cache.take_operations())

    def confirm(self, chunk: Chunk, num_right: int) -> None:
        """Of a chunk's guesses, the first `num_right` are tokens of the sequence now; the native memory has no others.

        Call it for each chunk with guesses, before anything else is done with its sequence.
        """
        self._kv_cache.release(chunk.sequence, len(chunk.draft) - num_right)
        self.waiting.charge(chunk.sequence, num_right)
        chunk.sequence.num_computed_tokens += num_right

    def idle_operations(self) -> list[Operation]:
        """What the native memory may do while there is nothing to compute; empty = nothing is left."""
        return self._kv_cache.idle_operations()

    def take_back(self, schedule: Schedule) -> None:
        """Nothing of this step was computed, and the native memory is as it was before."""
        for chunk in schedule.chunks:
            self._kv_cache.release(chunk.sequence, chunk.num_tokens + len(chunk.draft))
            chunk.sequence.num_computed_tokens -= chunk.num_tokens
            self.waiting.charge(chunk.sequence, -chunk.num_tokens)

    def make_room(self, schedule: Schedule) -> bool:
        """Take back a step for which the native memory had no room, and let what is parked or the youngest go.

        False, and nothing is done, when there is nothing that could go.
        """
        if len(self.running) < 2 and not self._kv_cache.has_parked:
            return False
        self.take_back(schedule)
        if not self._kv_cache.has_parked:
            self.preempt_youngest()
            # By our count it would fit again at once, and so it would go on for ever.
            self._is_full = True
        self._kv_cache.drop_parked()
        return True

    def preempt_youngest(self) -> Sequence:
        """Let the youngest sequence's cells be taken; it starts again later, before all of its client that wait."""
        victim = self.running[-1]
        self._preempt(victim)
        return victim

    def shift(self, sequence: Sequence) -> None:
        """Let a running sequence that is full go on: it drops old tokens and is computed anew, before all that wait."""
        self.running.remove(sequence)
        self._kv_cache.close(sequence)
        sequence.drop_old_tokens()
        self.waiting.put_back(sequence)
        self._is_full = False

    def preempt_all(self) -> None:
        """Start all running sequences again, with nothing: what the native memory holds is no longer known."""
        while self.running:
            self.preempt_youngest()
        self._kv_cache.forget_all()

    def check_integrity(self) -> None:
        self._kv_cache.check_integrity(self.running)
        assert all(sequence.slot is None for sequence in self.waiting), "a waiting sequence holds cells"

    def _preempt(self, victim: Sequence) -> None:
        self.running.remove(victim)
        self._kv_cache.close(victim)
        victim.num_computed_tokens = 0
        self.waiting.put_back(victim)
        self.num_preemptions += 1

    def _make_way(self) -> None:
        """Nobody waits for the answers of a client that has several running and has got more.

        One sequence goes at a time, and never a client's last: the oldest always get on.
        """
        first = next(self.waiting.heads(1), None) if len(self.running) > 1 else None
        if first is None or self.waiting.num_running(first.client) or any(each.is_suspect for each in self.running):
            return
        match = self._kv_cache.match(first)
        if self._kv_cache.under_way(first, match) or self._fits(first, match):
            return
        account = self.waiting.account(first)
        richer = [
            other
            for other in self.running
            if self.waiting.account(other) > account and self.waiting.num_running(other.client) > 1
        ]
        if richer:
            self._preempt(max(reversed(richer), key=self.waiting.account))

    def _schedule_generating(self) -> list[Chunk]:
        chunks: list[Chunk] = []
        for sequence in list(self.running):
            if sequence.slot is None or len(sequence.token_ids) - sequence.num_computed_tokens != 1:
                continue
            # The youngest is this one or one whose turn is still to come, so no chunk loses its cells.
            while self._kv_cache.num_free_cells == 0 and sequence.slot is not None:
                self.preempt_youngest()
            if sequence.slot is not None:
                chunks.append(self._take(sequence, 1))
        return chunks

    def _add_drafts(self, chunks: list[Chunk], drafts: Mapping[int, SequenceOf[int]]) -> None:
        """Guesses take what is left: places of the step, outputs and cells."""
        num_left = self._max_batch_tokens - sum(chunk.num_tokens for chunk in chunks)
        for place, chunk in enumerate(chunks):
            sequence = chunk.sequence
            draft = drafts.get(sequence.id, ())
            limit = min(num_left, self._num_outputs_left, self._kv_cache.num_free_cells, sequence.num_tokens_left - 1)
            if draft and limit > 0 and chunk.wants_output and not sequence.wants_scores:
                chunks[place] = chunk._replace(draft=tuple(draft[:limit]))
                num_taken = len(chunks[place].draft)
                self._kv_cache.allocate(sequence, num_taken)
                self._num_outputs_left -= num_taken
                num_left -= num_taken

    def _schedule_prompts(self, chunks: list[Chunk], budget: int) -> None:
        """Fill the budget, in the fair queue's order; those who run and those who wait are one line."""
        begun = [each for each in self.running if len(each.token_ids) - each.num_computed_tokens > 1]
        while budget > 0 and (begun or self.waiting):
            admission = self._next_to_admit()
            first = min(begun, key=self.waiting.order, default=None)
            if admission is not None and (
                first is None or self.waiting.order(admission.sequence) < self.waiting.order(first)
            ):
                self._admit(admission)
                budget -= self._take_prompt(chunks, admission.sequence, budget)
            elif first is not None:
                begun.remove(first)
                budget -= self._take_prompt(chunks, first, budget)
            else:
                return

    def _admit(self, admission: Admission) -> None:
        sequence = admission.sequence
        self.waiting.take(sequence)
        self._kv_cache.open(sequence, admission.match)
        if sequence.num_cached_tokens < 0:
            sequence.num_cached_tokens = sequence.num_computed_tokens
        self.running.append(sequence)

    def _next_to_admit(self) -> Admission | None:
        """The first that waits and fits. Only who waits for a prefix is passed over, another's or one that was saved.

        Nobody joins a suspect: when its next step fails again, nobody else can have been the cause.
        """
        if not self.waiting or len(self.running) >= self._max_num_seqs or not self._kv_cache.has_free_slot:
            return None
        if any(other.is_suspect for other in self.running):
            return None
        for sequence in self.waiting.heads(MAX_LOOKED_AT):
            match = self._kv_cache.match(sequence)
            if self._kv_cache.under_way(sequence, match) is not None:
                continue
            if not self._has_room(sequence, match):
                return None
            if not self._kv_cache.fetch(sequence, match):
                return Admission(sequence, match)
        return None

    def _fits(self, sequence: Sequence, match: Match) -> bool:
        has_place = len(self.running) < self._max_num_seqs and self._kv_cache.has_free_slot
        return has_place and self._has_room(sequence, match)

    def _has_room(self, sequence: Sequence, match: Match) -> bool:
        if not self.running:
            return True  # alone, it fits by max_length
        if self._is_full:
            return False
        # Admitted prompts must fit as a whole, and every generating sequence should be able to go on for a while:
        # otherwise the newcomer would soon be preempted and its prefill thrown away.
        promised = sum(other.num_uncomputed_tokens for other in self.running)
        headroom = 16 * (len(self.running) + 1)
        return self._kv_cache.num_free_cells >= promised + self._kv_cache.num_cells_needed(sequence, match) + headroom

    def _take_prompt(self, chunks: list[Chunk], sequence: Sequence, budget: int) -> int:
        num_tokens = min(sequence.num_uncomputed_tokens, budget, self._kv_cache.num_free_cells)
        num_tokens = self._kv_cache.stop_at_checkpoint(sequence, num_tokens)
        if sequence.wants_scores and num_tokens > 0:
            num_tokens = min(num_tokens, 1 + self._num_outputs_left)
            self._num_outputs_left -= num_tokens - 1
        if sequence.media is not None and num_tokens > 0:
            least = self._kv_cache.stop_at_checkpoint(sequence, min(self._least_picture, self._kv_cache.num_free_cells))
            num_tokens = sequence.media.chunk_from(sequence.num_computed_tokens, num_tokens, least)
            if num_tokens > self._kv_cache.num_free_cells:  # an indivisible piece waits for all of its cells
                return 0
        if num_tokens > 0:
            chunks.append(self._take(sequence, num_tokens))
        return num_tokens

    def _take(self, sequence: Sequence, num_tokens: int) -> Chunk:
        self._kv_cache.allocate(sequence, num_tokens)
        self.waiting.charge(sequence, num_tokens)
        start = sequence.num_computed_tokens
        end = sequence.num_computed_tokens = start + num_tokens
        return Chunk(sequence, start, num_tokens, end == len(sequence.token_ids) and sequence.max_new_tokens > 0)
