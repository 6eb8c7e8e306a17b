from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.engine.cell_memory import CellMemory

from dmr.engine.kv_cache import Clear, KVCache
from dmr.engine.scheduler import Chunk, Scheduler
from dmr.engine.sequence import Sequence


def make_scheduler(num_cells: int = 1000, num_slots: int = 4, max_batch: int = 16) -> Scheduler:
    return Scheduler(KVCache(num_cells, num_slots), num_slots, max_batch)


def add(scheduler: Scheduler, identity: int, num_tokens: int, max_new: int = 50) -> Sequence:
    sequence = Sequence(identity, 0, [identity] * num_tokens, num_tokens + max_new)
    scheduler.add(sequence)
    return sequence


def step(scheduler: Scheduler, prefill_budget: int = 8) -> list[Chunk]:
    """One step of a model that generates for ever."""
    chunks = scheduler.schedule(prefill_budget).chunks
    for chunk in chunks:
        if chunk.wants_output:
            chunk.sequence.append(0)
    scheduler.check_integrity()
    return chunks


def taken(chunks: list[Chunk]) -> dict[int, int]:
    return {chunk.sequence.id: chunk.num_tokens for chunk in chunks}


def test_a_long_prompt_comes_in_chunks_and_only_the_last_one_wants_an_output() -> None:
    scheduler = make_scheduler(max_batch=16)
    sequence = add(scheduler, 0, 40)
    chunks = [step(scheduler)[0] for _ in range(4)]
    assert [(chunk.start, chunk.num_tokens, chunk.wants_output) for chunk in chunks] == [
        (0, 16, False),
        (16, 16, False),
        (32, 8, True),
        (40, 1, True),
    ]
    assert sequence.num_completion_tokens == 2


def test_who_is_at_the_prompt() -> None:
    scheduler = make_scheduler(num_slots=3, max_batch=16)
    for identity, num_tokens in enumerate((3, 40, 5, 6, 7)):
        add(scheduler, identity, num_tokens)
    assert scheduler.standing().num_at_prompt == 3  # there are no more places
    step(scheduler)
    assert scheduler.standing() == (3, 0)  # the short ones came first


def test_those_who_generate_come_first_and_prompts_share_what_the_budget_leaves() -> None:
    scheduler = make_scheduler(max_batch=16)
    add(scheduler, 0, 3)
    add(scheduler, 1, 4)
    assert taken(step(scheduler)) == {0: 3, 1: 4}
    add(scheduler, 2, 30)
    add(scheduler, 3, 30)
    assert taken(step(scheduler, prefill_budget=8)) == {0: 1, 1: 1, 2: 8}
    assert taken(step(scheduler, prefill_budget=100)) == {0: 1, 1: 1, 2: 14}
    assert taken(step(scheduler, prefill_budget=10)) == {0: 1, 1: 1, 2: 8, 3: 2}


def test_nobody_generates_so_the_whole_batch_is_for_prompts() -> None:
    scheduler = make_scheduler(max_batch=16)
    add(scheduler, 0, 10)
    add(scheduler, 1, 10)
    assert taken(step(scheduler, prefill_budget=1)) == {0: 10, 1: 6}


def test_more_sequences_than_slots_wait_in_the_order_they_came() -> None:
    scheduler = make_scheduler(num_slots=2)
    sequences = [add(scheduler, i, 2) for i in range(5)]
    assert taken(step(scheduler)) == {0: 2, 1: 2}
    scheduler.remove(sequences[0])
    assert taken(step(scheduler)) == {1: 1, 2: 2}
    scheduler.remove(sequences[3])  # out of the middle of those that wait
    scheduler.remove(sequences[1])
    assert taken(step(scheduler)) == {2: 1, 4: 2}


def test_the_youngest_makes_room_and_starts_again_from_its_first_token() -> None:
    scheduler = make_scheduler(num_cells=70, num_slots=2, max_batch=32)
    old, young = add(scheduler, 0, 10, max_new=55), add(scheduler, 1, 10, max_new=55)
    freed = []
    while not freed:
        schedule = scheduler.schedule(8)
        freed = [young] if young.slot is None and young.num_tokens > 10 else []
        for chunk in schedule.chunks:
            chunk.sequence.append(0)
    assert (scheduler.num_preemptions, list(scheduler.waiting)) == (1, [young])
    assert (old.num_tokens, young.num_tokens) == (37, 36)
    assert (young.slot, young.num_computed_tokens, young.num_completion_tokens) == (None, 0, 26)
    while old.num_tokens < 60:
        assert [chunk.sequence for chunk in step(scheduler)] == [old]
    scheduler.remove(old)
    assert [(c.sequence, c.start, c.num_tokens) for c in step(scheduler)] == [(young, 0, 32)]


def test_half_computed_prompts_cannot_block_each_other() -> None:
    scheduler = make_scheduler(num_cells=100, num_slots=2, max_batch=16)
    first, second = add(scheduler, 0, 60, max_new=39), add(scheduler, 1, 4, max_new=90)
    for _ in range(200):
        if not scheduler.has_work:
            break
        step(scheduler)
        for sequence in (first, second):
            if sequence.is_full:
                scheduler.remove(sequence)
    assert first.is_full
    assert second.is_full


def test_after_a_full_native_memory_nobody_joins_until_somebody_leaves() -> None:
    scheduler = make_scheduler()
    sequences = [add(scheduler, i, 2) for i in range(3)]
    assert scheduler.make_room(scheduler.schedule(8))
    scheduler.check_integrity()
    assert taken(step(scheduler)) == {0: 2, 1: 2}
    assert taken(step(scheduler)) == {0: 1, 1: 1}
    scheduler.remove(sequences[0])
    assert taken(step(scheduler)) == {1: 1, 2: 2}


def test_when_the_native_memory_is_full_what_is_parked_goes_first() -> None:
    scheduler = make_scheduler()
    scheduler.add(done := Sequence(0, 0, [5] * 20, 40))
    step(scheduler), step(scheduler)
    scheduler.remove(done)
    alone = add(scheduler, 1, 2)
    assert scheduler.make_room(scheduler.schedule(8))
    assert alone.slot is not None
    schedule = scheduler.schedule(8)
    assert schedule.operations == [Clear(0)]
    assert taken(schedule.chunks) == {1: 2}
    assert scheduler.num_preemptions == 0


def test_the_native_memory_is_full_for_one_alone() -> None:
    scheduler = make_scheduler()
    sequence = add(scheduler, 0, 2)
    schedule = scheduler.schedule(8)
    assert not scheduler.make_room(schedule)
    assert sequence.num_computed_tokens == 2  # left as it was, for who decides what becomes of it


def test_starting_all_again_keeps_the_order() -> None:
    scheduler = make_scheduler()
    sequences = [add(scheduler, i, 2) for i in range(6)]
    step(scheduler)
    scheduler.preempt_all()
    scheduler.check_integrity()
    assert list(scheduler.waiting) == sequences
    assert {operation.slot for operation in scheduler.schedule(8).operations} == {0, 1, 2, 3}


def test_a_sequence_can_be_removed_twice_or_before_it_was_known() -> None:
    scheduler = make_scheduler()
    sequence = add(scheduler, 0, 2)
    step(scheduler)
    scheduler.remove(sequence)
    scheduler.remove(sequence)
    scheduler.remove(Sequence(9, 0, [1], 5))
    assert not scheduler.has_work
    assert scheduler.schedule(8).operations == [Clear(0)]


def test_a_step_has_room_for_every_sequence() -> None:
    with pytest.raises(AssertionError, match="room for one token of each"):
        make_scheduler(num_slots=17, max_batch=16)


def test_who_needs_what_another_is_computing_waits_for_it_and_lets_others_pass() -> None:
    scheduler = make_scheduler(num_slots=8, max_batch=16)
    burst = [Sequence(i, 0, [7] * 60 + [i], 100) for i in range(4)]
    for sequence in burst:
        scheduler.add(sequence)
    stranger = add(scheduler, 9, 3)
    assert taken(step(scheduler)) == {9: 3, 0: 13}
    assert stranger.slot is not None
    assert taken(step(scheduler, prefill_budget=16)) == {9: 1, 0: 15}
    assert taken(step(scheduler, prefill_budget=16)) == {9: 1, 0: 15}
    assert taken(step(scheduler, prefill_budget=16)) == {9: 1, 0: 15}
    assert taken(step(scheduler, prefill_budget=16)) == {9: 1, 0: 3, 1: 3, 2: 3, 3: 3}
    assert [sequence.num_cached_tokens for sequence in burst] == [0, 58, 58, 58]


def test_who_waits_for_a_prefix_goes_on_without_it_when_its_owner_leaves() -> None:
    scheduler = make_scheduler(num_slots=8, max_batch=16)
    first, second = (Sequence(i, 0, [7] * 60 + [i], 100) for i in range(2))
    scheduler.add(first)
    scheduler.add(second)
    step(scheduler)
    scheduler.remove(first)
    assert taken(step(scheduler)) == {1: 16}
    assert second.num_cached_tokens == 16


# --- random schedules ------------------------------------------------------------------------------------------------


class Job(NamedTuple):
    arrives: int  # step
    num_prompt_tokens: int
    num_new_tokens: int
    aborted_after: int | None  # steps after its arrival
    family: int = 0  # jobs of one family have the same tokens
    kind: str = "plain"  # "scored": each token of the prompt wants an output; "shift": goes on when it is full


JOBS = st.lists(
    st.builds(
        Job,
        arrives=st.integers(0, 20),
        num_prompt_tokens=st.integers(1, 40),
        num_new_tokens=st.integers(1, 20),
        aborted_after=st.none() | st.integers(0, 30),
        family=st.integers(0, 2),
        kind=st.sampled_from(["plain", "plain", "scored", "shift"]),
    ),
    min_size=1,
    max_size=12,
)


class Simulation:
    """Drives a scheduler as an engine would, and checks at each step what must hold."""

    def __init__(self, jobs: list[Job], num_cells: int, num_slots: int, max_batch: int, more_outputs: int = 0) -> None:
        self.kv_cache = KVCache(num_cells, num_slots + 2)
        self.max_outputs = num_slots + more_outputs
        self.scheduler = Scheduler(self.kv_cache, num_slots, max_batch, self.max_outputs)
        self.max_batch = max_batch
        self.jobs = dict(enumerate(jobs))
        self.sequences: dict[int, Sequence] = {}
        self.ended: set[int] = set()
        self.memory = CellMemory()
        self.now = 0

    def run(self, budgets: list[int]) -> None:
        jobs = self.jobs.values()
        # Each token is computed anew at most once for each other sequence that may push its owner out.
        bound = 21 + sum(job.num_prompt_tokens + job.num_new_tokens for job in jobs) * (len(self.jobs) + 1)
        # And once for each shift, at most one for each new token.
        bound += sum(job.num_prompt_tokens * job.num_new_tokens for job in jobs if job.kind == "shift")
        while len(self.ended) < len(self.jobs):
            assert self.now < bound, "no end in sight"
            self._arrive_and_leave()
            self._step(budgets[self.now % len(budgets)])
            self.scheduler.check_integrity()
            self.now += 1
        assert not self.scheduler.has_work
        assert self.kv_cache.num_free_cells == self.kv_cache.num_cells

    def _arrive_and_leave(self) -> None:
        for key, job in self.jobs.items():
            if job.arrives == self.now:
                length = job.num_prompt_tokens + (3 if job.kind == "shift" else job.num_new_tokens)
                self.sequences[key] = Sequence(
                    key,
                    0,
                    [job.family] * job.num_prompt_tokens,
                    length,
                    max_new_tokens=job.num_new_tokens,
                    shift=2 if job.kind == "shift" else None,
                    is_scored=job.kind == "scored",
                )
                self.scheduler.add(self.sequences[key])
            if job.aborted_after is not None and job.arrives + job.aborted_after == self.now:
                self._end(key)

    def _end(self, key: int) -> None:
        self.scheduler.remove(self.sequences[key])
        self.ended.add(key)

    def _step(self, budget: int) -> None:
        had_work = self.scheduler.has_work
        generating = [s for s in self.scheduler.running if s.num_uncomputed_tokens == 1]
        preemptions = self.scheduler.num_preemptions
        schedule = self.scheduler.schedule(budget)
        chunks = schedule.chunks
        assert bool(chunks) == had_work, "a step without progress"
        assert sum(chunk.num_tokens for chunk in chunks) <= self.max_batch
        assert len({chunk.sequence.id for chunk in chunks}) == len(chunks)
        scheduled = {chunk.sequence.id for chunk in chunks}
        starved = [s for s in generating if s.id not in scheduled]
        assert len(starved) <= self.scheduler.num_preemptions - preemptions, "a decode waits behind another chunk"
        fed = [chunk for chunk in chunks if chunk.sequence in generating and chunk.start > 0]
        if fed:
            assert sum(c.num_tokens for c in chunks) - len(fed) <= budget, "prompts took more than was theirs"
        wanted = sum(c.num_tokens if c.sequence.wants_scores else c.wants_output for c in chunks)
        assert wanted <= self.max_outputs, "more outputs than a step can have"
        self.memory.perform(schedule.operations)
        for chunk in chunks:
            self._compute(chunk)

    def _compute(self, chunk: Chunk) -> None:
        sequence = chunk.sequence
        assert sequence.slot is not None
        assert chunk.num_tokens > 0
        end = chunk.start + chunk.num_tokens
        self.memory.add(sequence.slot, chunk.start, sequence.token_ids[chunk.start : end])
        assert self.memory.tokens(sequence.slot) == sequence.token_ids[:end], "foreign cells were shared"
        assert self.memory.num_used <= self.kv_cache.num_cells
        assert chunk.wants_output == (chunk.start + chunk.num_tokens == sequence.num_tokens)
        if sequence.wants_scores:
            assert chunk.scored_positions.start == sequence.num_scored_tokens - 1, "a prompt's token is left out"
            sequence.num_scored_tokens += len(chunk.scored_positions)
        assert not (chunk.wants_output and sequence.wants_scores), "the answer begins before all is scored"
        if chunk.wants_output:
            sequence.append(self.jobs[sequence.id].family if len(sequence.token_ids) % 5 else sequence.id + 10)
            if sequence.is_done:
                assert sequence.num_completion_tokens == self.jobs[sequence.id].num_new_tokens
                self._end(sequence.id)
            elif sequence.is_full:
                self.scheduler.shift(sequence)


@settings(max_examples=400, deadline=None)
@given(
    jobs=JOBS,
    spare_cells=st.integers(0, 60),
    num_slots=st.integers(1, 6),
    spare_batch=st.integers(0, 20),
    more_outputs=st.integers(0, 20),
    budgets=st.lists(st.integers(1, 30), min_size=1, max_size=5),
)
def test_every_sequence_gets_its_tokens_whatever_comes(
    jobs: list[Job], spare_cells: int, num_slots: int, spare_batch: int, more_outputs: int, budgets: list[int]
) -> None:
    largest = max(job.num_prompt_tokens + job.num_new_tokens for job in jobs)
    Simulation(jobs, largest + spare_cells, num_slots, num_slots + spare_batch, more_outputs).run(budgets)


def test_a_pool_for_one_serves_many() -> None:
    jobs = [Job(0, 5, 15, None) for _ in range(12)]
    simulation = Simulation(jobs, num_cells=45, num_slots=12, max_batch=16)
    simulation.run([3])
    assert simulation.ended == set(range(12))
