"""Random days of a scheduler with every kind of KV memory, with and without a host tier, against cells that know their
tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.engine.cell_memory import CellMemory

from dmr.engine.host_cache import HostCache, TransferCosts
from dmr.engine.kv_cache import KVCache, Operation, Restore, Save, Sharing
from dmr.engine.scheduler import Schedule, Scheduler
from dmr.engine.sequence import Sequence


@pytest.fixture(autouse=True, scope="module")
def _small_numbers() -> Iterator[None]:
    """So that short prompts do what long ones do."""
    with (
        mock.patch("dmr.engine.pool.LEAST_EVICTED", 5),
        mock.patch("dmr.engine.pool.LEAST_SHARED", 2),
        mock.patch("dmr.engine.kv_cache.LEAST_WORTH_WAITING_FOR", 2),
        mock.patch("dmr.engine.kv_cache.LEAST_APART", 4),
        mock.patch("dmr.engine.host_tier.LEAST_SAVED", 2),
        mock.patch("dmr.engine.host_tier.LEAST_FETCHED", 3),
        mock.patch("dmr.engine.host_tier.SLICE", 6),
    ):
        yield


class Setting(NamedTuple):
    sharing: Sharing
    num_seqs: int
    spare_slots: int
    max_parked: int | None
    host_bytes: int  # 0 = none; ten for each token


class Visit(NamedTuple):
    arrives: int  # step
    family: int  # prompts of one family begin alike
    front: int  # tokens
    own: int
    new: int
    leaves_after: int | None  # steps
    turns: int  # of a conversation: each prompt begins with the one before and its answer


VISITS = st.lists(
    st.builds(
        Visit,
        arrives=st.integers(0, 15),
        family=st.integers(0, 2),
        front=st.integers(1, 30),
        own=st.integers(0, 8),
        new=st.integers(1, 8),
        leaves_after=st.none() | st.none() | st.integers(0, 20),
        turns=st.integers(1, 3),
    ),
    min_size=1,
    max_size=12,
)
SETTINGS = st.builds(
    Setting,
    sharing=st.sampled_from(Sharing),
    num_seqs=st.integers(1, 4),
    spare_slots=st.integers(0, 5),
    max_parked=st.sampled_from([None, None, 0, 20]),
    host_bytes=st.sampled_from([0, 150, 400, 100_000]),
)
# What goes wrong: by the number of the step or of the transfer.
MISHAPS = st.sets(st.integers(0, 60), max_size=10)


class Day:
    def __init__(self, setting: Setting, num_cells: int, max_batch: int) -> None:
        self.host = None
        if setting.host_bytes:
            saves_whole = setting.sharing is Sharing.AT_END
            self.host = HostCache(setting.host_bytes, TransferCosts(), saves_whole=saves_whole)
        num_slots = setting.num_seqs + setting.spare_slots + 1
        self.cache = KVCache(num_cells, num_slots, setting.sharing, max_parked_cells=setting.max_parked, host=self.host)
        self.scheduler = Scheduler(self.cache, setting.num_seqs, max_batch)
        self.memory = CellMemory(is_whole=setting.sharing is Sharing.AT_END)
        self.memory.fails = self._transfer_fails
        self.failing_transfers: set[int] = set()
        self.num_transfers = 0
        self.visits: dict[int, Visit] = {}  # by sequence
        self.unfinished: dict[int, Sequence] = {}
        self.num_sequences = 0
        self.num_computed = 0
        self.num_wanted = 0
        self.num_cached = 0

    def arrive(self, visit: Visit, prompt: list[int] | None = None) -> Sequence:
        number = self.num_sequences
        self.num_sequences += 1
        own = range(1000 * number + 100, 1000 * number + 100 + visit.own)
        # Every fifth token of a front tells the place, so that a shift would be noticed.
        front = [visit.family if at % 5 else 10 + at for at in range(visit.front)]
        tokens = prompt if prompt is not None else [*front, *own]
        sequence = Sequence(number, 0, tokens, len(tokens) + visit.new)
        self.visits[number] = visit
        self.unfinished[number] = sequence
        self.scheduler.add(sequence)
        return sequence

    def leave(self, sequence: Sequence) -> None:
        self.scheduler.remove(sequence)
        if self.unfinished.pop(sequence.id, None) is not None and sequence.num_cached_tokens >= 0:
            self.num_cached += sequence.num_cached_tokens

    def step(self, budget: int, mishap: bool) -> None:
        schedule = self.scheduler.schedule(budget)
        self.memory.perform(schedule.operations)
        assert schedule.chunks or self.host is not None or not self.scheduler.has_work, "a step without progress"
        if mishap:
            self.scheduler.take_back(schedule)
        else:
            self._compute(schedule)
        self.check()

    def idle(self) -> None:
        for _ in range(200):
            operations = self.scheduler.idle_operations()
            self.memory.perform(operations)
            self.check()
            if not operations:
                return
        raise AssertionError("no end of idle work")

    def check(self) -> None:
        self.scheduler.check_integrity()
        assert self.memory.num_used <= self.cache.num_cells, "more cells than there are"
        for sequence in self.scheduler.running:
            assert sequence.slot is not None
            assert self.memory.tokens(sequence.slot) == sequence.token_ids[: sequence.num_computed_tokens]

    def _compute(self, schedule: Schedule) -> None:
        for chunk in schedule.chunks:
            sequence, end = chunk.sequence, chunk.start + chunk.num_tokens
            assert sequence.slot is not None
            self.memory.add(sequence.slot, chunk.start, sequence.token_ids[chunk.start : end])
            assert self.memory.tokens(sequence.slot) == sequence.token_ids[:end], "foreign cells"
            self.num_computed += chunk.num_tokens
        for chunk in schedule.chunks:
            if chunk.wants_output:
                self._answer(chunk.sequence)

    def _answer(self, sequence: Sequence) -> None:
        sequence.append(7 if len(sequence.token_ids) % 3 else sequence.id)
        if not sequence.is_done:
            return
        visit = self.visits[sequence.id]
        self.leave(sequence)
        if visit.turns > 1:
            prompt = [*sequence.token_ids, *[3] * (visit.own + 1)]
            if len(prompt) + visit.new <= self.cache.num_cells:
                self.arrive(visit._replace(turns=visit.turns - 1, leaves_after=None), prompt)

    def _transfer_fails(self, operation: Operation) -> bool:
        assert isinstance(operation, (Save, Restore))
        self.num_transfers += 1
        return self.num_transfers in self.failing_transfers


def live(
    setting: Setting, visits: list[Visit], spare_cells: int, budgets: list[int], mishaps: set[int], failing: set[int]
) -> Day:
    largest = max(visit.front + visit.own + visit.new for visit in visits)
    day = Day(setting, largest + spare_cells, setting.num_seqs + budgets[0])
    day.failing_transfers = failing
    leaving: dict[int, list[Sequence]] = {}
    now = 0
    while now <= 15 or day.unfinished:
        assert now < 5000, f"no end in sight of {list(day.unfinished.values())}"
        for visit in visits:
            if visit.arrives == now:
                sequence = day.arrive(visit)
                if visit.leaves_after is not None:
                    leaving.setdefault(now + visit.leaves_after, []).append(sequence)
        for sequence in leaving.get(now, ()):
            day.leave(sequence)
        if day.scheduler.has_work:
            day.step(budgets[now % len(budgets)], now in mishaps)
        else:
            day.idle()
        now += 1
    day.idle()
    return day


@settings(max_examples=600, deadline=None)
@given(
    setting=SETTINGS,
    visits=VISITS,
    spare_cells=st.integers(0, 120),
    budgets=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    mishaps=MISHAPS,
    failing=MISHAPS,
)
def test_every_sequence_computes_with_its_own_tokens_whatever_is_shared_saved_or_lost(
    setting: Setting, visits: list[Visit], spare_cells: int, budgets: list[int], mishaps: set[int], failing: set[int]
) -> None:
    day = live(setting, visits, spare_cells, budgets, mishaps, failing)
    assert day.cache.num_free_cells == day.cache.num_cells
    day.cache.forget_all()
    day.memory.perform(day.cache.take_operations())
    assert day.memory.num_used == 0
    if day.host is not None:
        assert day.host.num_bytes == 0


@pytest.mark.parametrize("sharing", [Sharing.ANYWHERE, Sharing.AT_END])
@pytest.mark.parametrize("host_bytes", [0, 100_000])
def test_such_days_do_share_save_and_restore(sharing: Sharing, host_bytes: int) -> None:
    """Or else the test above would prove nothing."""
    visits = [Visit(arrives, arrives % 2, 30, 4, 4, None, 3) for arrives in range(12)]
    setting = Setting(sharing, 3, 5, None, host_bytes)
    day = live(setting, visits, 80, [20], set(), set())
    alone = live(setting._replace(sharing=Sharing.NONE, host_bytes=0), visits, 80, [20], set(), set())
    print(day.num_cached, day.num_computed, alone.num_computed, day.memory.num_restored)
    assert day.num_cached > 300
    assert day.num_computed < 0.8 * alone.num_computed
    assert day.memory.num_restored > 100 or not host_bytes
