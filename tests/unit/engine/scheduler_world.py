"""A scheduler, the model that it schedules for, and a native memory whose cells know their tokens: all of it counts."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from typing import NamedTuple

from unit.engine.cell_memory import CellMemory

from dmr.engine.kv_cache import KVCache, Sharing
from dmr.engine.scheduler import Chunk, Schedule, Scheduler
from dmr.engine.sequence import Sequence


class Order(NamedTuple):
    """What a client asks for."""

    client: str
    family: int  # prompts of one family begin with the same tokens
    num_prompt_tokens: int
    num_new_tokens: int  # 0: only the prompt is wanted
    kind: str = "plain"  # "scored": each token of the prompt wants an output; "shift": goes on when it is full
    weight: float = 1.0


class World:
    """Does what an engine does with a scheduler, and checks what must hold after each act."""

    def __init__(self, num_cells: int, num_slots: int, max_batch: int, max_outputs: int, parks: bool = True) -> None:
        self.kv_cache = KVCache(num_cells, 2 * num_slots, sharing=Sharing.ANYWHERE if parks else Sharing.NONE)
        self.scheduler = Scheduler(self.kv_cache, num_slots, max_batch, max_outputs)
        self.max_batch = max_batch
        self.max_outputs = max_outputs
        self.memory = CellMemory()
        self.unfinished: dict[int, Sequence] = {}
        self.orders: dict[int, Order] = {}
        self.arrived: dict[int, int] = {}  # steps
        self.waits: dict[int, int] = {}  # steps from arrival to end
        self.now = 0
        self._right: dict[int, list[bool]] = {}  # by sequence: which of its guesses in this step are right

    # --- acts --------------------------------------------------------------------------------------------------------

    def add(self, order: Order) -> Sequence:
        number = len(self.orders)
        own = range(1000 + number, 1000 + number + order.num_prompt_tokens // 3)
        prompt = [*[order.family] * (order.num_prompt_tokens - len(own)), *own]
        length = order.num_prompt_tokens + (3 if order.kind == "shift" else order.num_new_tokens)
        sequence = Sequence(
            number,
            0,
            prompt,
            max(length, order.num_prompt_tokens + 1),
            max_new_tokens=order.num_new_tokens,
            shift=2 if order.kind == "shift" else None,
            is_scored=order.kind == "scored",
            client=order.client,
            weight=order.weight,
        )
        self.orders[number] = order
        self.unfinished[number] = sequence
        self.arrived[number] = self.now
        self.scheduler.add(sequence)
        return sequence

    def abort(self, sequence: Sequence) -> None:
        self.scheduler.remove(sequence)
        self.unfinished.pop(sequence.id, None)

    def step(self, prefill_budget: int, guesses: SequenceOf[bool] = ()) -> None:
        """A step that goes well. `guesses`: whether each of them is right; every sequence that generates gets them."""
        schedule = self._schedule(prefill_budget, guesses)
        for chunk in schedule.chunks:
            self._compute(chunk)
        self._check()

    def interrupted_step(self, prefill_budget: int, guesses: SequenceOf[bool] = ()) -> None:
        """One that is stopped before its end; the native memory has done what was asked before the chunks."""
        self.scheduler.take_back(self._schedule(prefill_budget, guesses))
        self._check()

    def step_without_room(self, prefill_budget: int, guesses: SequenceOf[bool] = ()) -> None:
        """The native memory finds no cells."""
        schedule = self._schedule(prefill_budget, guesses)
        if schedule.chunks and not self.scheduler.make_room(schedule):
            for chunk in schedule.chunks:
                self._confirm(chunk, 0)
            self.fail()
        self._check()

    def fail(self) -> None:
        """What the native memory holds is unknown: all starts again."""
        self.scheduler.preempt_all()
        self.memory.clear()
        self._check()

    def preempt(self) -> None:
        if self.scheduler.running:
            self.scheduler.preempt_youngest()
        self._check()

    def finish(self, prefill_budget: int) -> None:
        """Everything that was accepted ends, within a bound, and nothing is left."""
        num_unfinished = len(self.unfinished)
        # Each token is computed anew at most once for each other sequence that may push its owner out, and a whole
        # prompt for each shift.
        work = sum(
            order.num_prompt_tokens + order.num_new_tokens * (order.num_prompt_tokens if order.kind == "shift" else 1)
            for order in (self.orders[number] for number in self.unfinished)
        )
        bound = 20 + work * (num_unfinished + 1)
        begin = self.now
        while self.unfinished:
            assert self.now - begin < bound, f"no end in sight of {list(self.unfinished.values())}"
            self.step(prefill_budget)
        assert not self.scheduler.has_work
        assert self.kv_cache.num_free_cells == self.kv_cache.num_cells
        self.kv_cache.drop_parked()
        self.memory.perform(self.kv_cache.take_operations())
        assert self.memory.num_used == 0

    # --- checks ------------------------------------------------------------------------------------------------------

    def _schedule(self, prefill_budget: int, guesses: SequenceOf[bool]) -> Schedule:
        scheduler = self.scheduler
        had_work = scheduler.has_work
        generating = [sequence for sequence in scheduler.running if sequence.num_uncomputed_tokens == 1]
        num_preemptions = scheduler.num_preemptions
        self._right = {sequence.id: list(guesses) for sequence in generating}
        drafts = {number: self._draft(self.unfinished[number], right) for number, right in self._right.items()}
        schedule = scheduler.schedule(prefill_budget, drafts)
        chunks = schedule.chunks
        self.now += 1
        assert bool(chunks) == had_work, "a step without progress"
        assert sum(chunk.num_tokens + len(chunk.draft) for chunk in chunks) <= self.max_batch
        assert all(len(chunk.draft) < chunk.sequence.num_tokens_left for chunk in chunks if chunk.draft)
        assert all(chunk.num_tokens > 0 for chunk in chunks)
        scheduled = {chunk.sequence.id for chunk in chunks}
        assert len(scheduled) == len(chunks), "two chunks of one sequence"
        left_out = [sequence for sequence in generating if sequence.id not in scheduled]
        assert len(left_out) <= scheduler.num_preemptions - num_preemptions, "a token waits behind another chunk"
        fed = [chunk for chunk in chunks if chunk.sequence in generating and chunk.num_tokens == 1]
        if fed:
            assert sum(chunk.num_tokens for chunk in chunks) - len(fed) <= prefill_budget, "prompts take too much"
        outputs = sum(c.num_tokens if c.sequence.wants_scores else c.wants_output for c in chunks)
        outputs += sum(len(chunk.draft) for chunk in chunks)
        assert outputs <= self.max_outputs, "more outputs than a step can have"
        self.memory.perform(schedule.operations)
        return schedule

    def _compute(self, chunk: Chunk) -> None:
        sequence = chunk.sequence
        end = chunk.start + chunk.num_tokens
        assert sequence.slot is not None
        self.memory.add(sequence.slot, chunk.start, [*sequence.token_ids[chunk.start : end], *chunk.draft])
        num_right = self._num_right(chunk)
        self.memory.cut(sequence.slot, end + num_right)
        self._confirm(chunk, num_right)
        known = [*sequence.token_ids[:end], *chunk.draft[:num_right]]
        assert self.memory.tokens(sequence.slot) == known, "foreign cells are shared"
        assert self.memory.num_used <= self.kv_cache.num_cells, "more cells than there are"
        if sequence.wants_scores:
            assert chunk.scored_positions.start == sequence.num_scored_tokens - 1, "a prompt's token is left out"
            sequence.num_scored_tokens += len(chunk.scored_positions)
        is_last = end == sequence.num_tokens
        assert chunk.wants_output == (is_last and sequence.max_new_tokens > 0)
        if chunk.wants_output:
            assert not sequence.wants_scores, "the answer begins before all is scored"
            for _ in range(1 + num_right):
                sequence.append(self._next_token(sequence, sequence.num_tokens))
        if sequence.is_done and is_last:
            self._end(sequence)
        elif sequence.is_full:
            self.scheduler.shift(sequence)

    def _next_token(self, sequence: Sequence, place: int) -> int:
        """What the model says."""
        return self.orders[sequence.id].family if place % 5 else 500 + sequence.id

    def _draft(self, sequence: Sequence, right: SequenceOf[bool]) -> list[int]:
        truth = [self._next_token(sequence, sequence.num_tokens + place) for place in range(len(right))]
        return [token if is_right else token + 1 for token, is_right in zip(truth, right, strict=True)]

    def _num_right(self, chunk: Chunk) -> int:
        """How many guesses were right before the first that was not."""
        right = self._right.get(chunk.sequence.id, [])[: len(chunk.draft)]
        return [*right, False].index(False)

    def _confirm(self, chunk: Chunk, num_right: int) -> None:
        if chunk.draft:
            self.scheduler.confirm(chunk, num_right)

    def _end(self, sequence: Sequence) -> None:
        assert sequence.num_completion_tokens == self.orders[sequence.id].num_new_tokens
        self.abort(sequence)
        self.waits[sequence.id] = self.now - self.arrived[sequence.id]

    def _check(self) -> None:
        self.scheduler.check_integrity()
        known = [*self.scheduler.running, *self.scheduler.waiting]
        assert sorted(sequence.id for sequence in known) == sorted(self.unfinished), "a sequence is lost or twice there"
        self.memory.perform(self.kv_cache.take_operations())
        for sequence in self.scheduler.running:
            assert sequence.slot is not None
            held = self.memory.tokens(sequence.slot)
            assert held == sequence.token_ids[: sequence.num_computed_tokens], "the memory holds something else"
        active = [sequence.slot for sequence in self.scheduler.running if sequence.slot is not None]
        num_free = self.kv_cache.num_cells - self.memory.num_used_by(active)
        assert self.kv_cache.num_free_cells == num_free, "cells are lost or counted twice"
