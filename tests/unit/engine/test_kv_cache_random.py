"""Random lives of a KV cache against a memory of cells that know their tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.engine.cell_memory import CellMemory

from dmr.engine.kv_cache import KVCache
from dmr.engine.sequence import Sequence


class Act(NamedTuple):
    kind: str
    which: int
    amount: int
    letters: list[int]


ACTS = st.lists(
    st.builds(
        Act,
        kind=st.sampled_from(["open", "open", "compute", "compute", "compute", "append", "fail", "close", "drop"]),
        which=st.integers(0, 9),
        amount=st.integers(1, 30),
        letters=st.lists(st.integers(0, 1), min_size=1, max_size=5),
    ),
    max_size=60,
)
NUM_CELLS = 120


@pytest.fixture(autouse=True, scope="module")
def _small_evictions() -> Iterator[None]:
    with mock.patch("dmr.engine.pool.LEAST_EVICTED", 5):
        yield


class Life:
    """Opens, computes and closes as a scheduler would, and compares with the cells after each step."""

    def __init__(self, num_slots: int, max_parked: int) -> None:
        self.cache = KVCache(NUM_CELLS, num_slots, max_parked_cells=max_parked)
        self.max_parked = max_parked
        self.memory = CellMemory()
        self.running: list[Sequence] = []
        self.num_sequences = 0
        self.num_shared = 0

    def act(self, act: Act) -> None:
        one = self.running[act.which % len(self.running)] if self.running else None
        if act.kind == "open":
            self.open([letter for letter in act.letters for _ in range(10)])
        elif act.kind == "drop":
            self.cache.drop_parked()
        elif one and act.kind == "close":
            self.cache.close(one)
            self.running.remove(one)
            self.memory.perform(self.cache.take_operations())
            num_active = NUM_CELLS - self.cache.num_free_cells
            assert self.memory.num_used <= num_active + self.max_parked
        elif one and act.kind == "append" and one.num_uncomputed_tokens == 0:
            one.append(act.letters[0])
        elif one and act.kind in ("compute", "fail"):
            self.compute(one, act.amount, fails=act.kind == "fail")
        self.memory.perform(self.cache.take_operations())
        self.check()

    def open(self, prompt: list[int]) -> None:
        one = Sequence(self.num_sequences, 0, prompt, 1000)
        self.num_sequences += 1
        if not self.cache.has_free_slot:
            return
        match = self.cache.match(one)
        self.check_match(one, match.num_tokens)
        if self.cache.num_cells_needed(one, match) > self.cache.num_free_cells:
            return
        other = self.cache.under_way(one, match)
        assert other is None or other in self.running
        self.cache.open(one, match)
        self.running.append(one)
        self.num_shared += one.num_computed_tokens
        assert one.num_computed_tokens in (0, match.num_tokens)

    def check_match(self, one: Sequence, num_tokens: int) -> None:
        """What is found is what a search through all cells finds."""
        best = 0
        for slot in self.memory.slots:
            held, wanted = self.memory.tokens(slot), one.token_ids[:-1]
            best = max([best, *(n for n in range(len(wanted) + 1) if held[:n] == wanted[:n] and n <= len(held))])
        assert num_tokens == (best if best >= 8 else 0)

    def compute(self, one: Sequence, amount: int, fails: bool) -> None:
        num_tokens = min(amount, one.num_uncomputed_tokens, self.cache.num_free_cells)
        if not num_tokens:
            return
        self.cache.allocate(one, num_tokens)
        self.memory.perform(self.cache.take_operations())
        if fails:
            self.cache.release(one, num_tokens)
        else:
            assert one.slot is not None
            start = one.num_computed_tokens
            self.memory.add(one.slot, start, one.token_ids[start : start + num_tokens])
            one.num_computed_tokens += num_tokens
        self.cache.settle()

    def check(self) -> None:
        self.cache.check_integrity(self.running)
        active = [one.slot for one in self.running if one.slot is not None]
        assert NUM_CELLS - self.cache.num_free_cells == self.memory.num_used_by(active)
        assert self.memory.num_used <= NUM_CELLS
        for one in self.running:
            assert one.slot is not None
            assert self.memory.tokens(one.slot) == one.token_ids[: one.num_computed_tokens], "foreign cells"


@settings(max_examples=400, deadline=None)
@given(acts=ACTS, num_slots=st.integers(1, 6), max_parked=st.sampled_from([0, 30, NUM_CELLS]))
def test_the_counts_are_those_of_the_cells(acts: list[Act], num_slots: int, max_parked: int) -> None:
    life = Life(num_slots, max_parked)
    for act in acts:
        life.act(act)
    for one in list(life.running):
        life.act(Act("close", life.running.index(one), 1, [0]))
    assert life.cache.num_free_cells == NUM_CELLS
