"""Who holds which cells of the KV memory. Counts only: the cells themselves live in the native context.

The layout is one unified pool: any slot (llama.cpp's sequence id) may use any cell, and a cell may belong to several
slots. So a prompt that begins like another one shares its cells instead of computing them again. What a sequence leaves
behind stays parked for those who come later, until its cells or its slot are needed.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from typing import NamedTuple, Union

from dmr.engine.sequence import Sequence

LEAST_SHARED = 8  # tokens; for fewer, sharing is not worth a native call


class Clear(NamedTuple):
    """Take all cells from a slot."""

    slot: int


class Copy(NamedTuple):
    """Let `target`, which is empty, share the first `num_tokens` cells of `source`."""

    source: int
    target: int
    num_tokens: int


Operation = Union[Clear, Copy]


class Match(NamedTuple):
    slot: int
    num_tokens: int


NO_MATCH = Match(-1, 0)


class Run:
    """Cells that are held together: consecutive tokens, the same for all their holders."""

    __slots__ = ("length", "num_active", "num_holders")

    def __init__(self, length: int) -> None:
        self.length = length
        self.num_holders = 1
        self.num_active = 1  # of the holders, those that a running sequence has


class Holding:
    """What one slot holds: the first `num_tokens` of `token_ids`, as runs."""

    __slots__ = ("num_ready", "num_tokens", "runs", "token_ids")

    def __init__(self, token_ids: list[int]) -> None:
        self.token_ids = token_ids
        self.num_tokens = 0
        self.num_ready = 0  # of them, those that are computed and not only planned
        self.runs: list[Run] = []


class KVCache:
    """Slots and cells.

    Invariants: `_num_used_cells` is the length of all runs, `_num_active_cells` of those with an active holder. A slot
    is free, active or parked. What is parked can always be had.
    """

    def __init__(self, num_cells: int, num_slots: int, shares_prefixes: bool = True) -> None:
        """`shares_prefixes` is false for a memory that cannot give away a part of a sequence."""
        self.num_cells = num_cells
        self.shares_prefixes = shares_prefixes
        self._free_slots = list(range(num_slots))  # a heap: low ids first keep the native batch compact
        self._active: dict[int, Holding] = {}
        self._parked: OrderedDict[int, Holding] = OrderedDict()  # least recently used first
        self._num_used_cells = 0
        self._num_active_cells = 0
        self._operations: list[Operation] = []

    @property
    def num_free_cells(self) -> int:
        """Cells that can be had, parked ones among them."""
        return self.num_cells - self._num_active_cells

    @property
    def has_free_slot(self) -> bool:
        return bool(self._free_slots or self._parked)

    def take_operations(self) -> list[Operation]:
        """What the native memory must do, in this order, before the next chunks run."""
        operations, self._operations = self._operations, []
        return operations

    def settle(self) -> None:
        """All planned tokens are computed by now, so others may share them."""
        for holding in self._active.values():
            holding.num_ready = holding.num_tokens

    def num_ready(self, sequence: Sequence) -> int:
        """How many of a running sequence's tokens others may share."""
        return self._holding_of(sequence).num_ready

    def match(self, sequence: Sequence) -> Match:
        """The slot whose cells the sequence could share most of. What it wants an output for is left to compute."""
        best = NO_MATCH
        if self.shares_prefixes:
            longest = sequence.num_shareable_tokens
            for holdings in (self._parked, self._active):
                for slot, holding in holdings.items():
                    limit = min(longest, holding.num_ready)
                    if limit > best.num_tokens:
                        shared = num_shared(sequence.token_ids, holding.token_ids, limit)
                        best = max(best, Match(slot, shared), key=lambda match: match.num_tokens)
        return best if best.num_tokens >= LEAST_SHARED else NO_MATCH

    def num_cells_needed(self, sequence: Sequence, match: Match) -> int:
        """How many of the free cells admitting the sequence would take: to compute, and to hold what was parked."""
        held_by_others, left = 0, match.num_tokens
        for run in self._holding(match.slot).runs if match.num_tokens else ():
            held_by_others += min(left, run.length) if run.num_active else 0
            left -= min(left, run.length)
        return sequence.num_tokens - held_by_others

    def open(self, sequence: Sequence, match: Match = NO_MATCH) -> None:
        """Give the sequence a slot and the cells of the match. Call only when `has_free_slot`."""
        assert sequence.slot is None, f"{sequence} has a slot already"
        if match.num_tokens:
            source = self._holding(match.slot)
            if match.slot in self._parked:
                self._parked.move_to_end(match.slot)
        if not self._free_slots and len(self._parked) == 1 and match.slot in self._parked:
            match = NO_MATCH  # the only slot to be had is the one that would be shared
        holding = Holding(sequence.token_ids)
        if match.num_tokens:
            self._share(source, holding, match.num_tokens)
        if not self._free_slots:
            self._evict_oldest()
        slot = sequence.slot = heapq.heappop(self._free_slots)
        self._active[slot] = holding
        sequence.num_computed_tokens = match.num_tokens
        if match.num_tokens:
            self._operations.append(Copy(match.slot, slot, match.num_tokens))

    def allocate(self, sequence: Sequence, num_cells: int) -> None:
        """Take cells for tokens about to be computed. Call only when there are that many free ones."""
        holding = self._holding_of(sequence)
        assert num_cells <= self.num_free_cells, "more cells taken than there are"
        while self.num_cells - self._num_used_cells < num_cells:
            self._evict_oldest()
        if holding.runs and holding.runs[-1].num_holders == 1:
            holding.runs[-1].length += num_cells
        else:
            holding.runs.append(Run(num_cells))
        holding.num_tokens += num_cells
        self._num_used_cells += num_cells
        self._num_active_cells += num_cells

    def release(self, sequence: Sequence, num_cells: int) -> None:
        """Give back cells that were taken but never filled. Nobody can share them yet."""
        holding = self._holding_of(sequence)
        assert num_cells <= holding.num_tokens - holding.num_ready, "more cells given back than were taken"
        holding.runs[-1].length -= num_cells
        holding.num_tokens -= num_cells
        self._num_used_cells -= num_cells
        self._num_active_cells -= num_cells

    def close(self, sequence: Sequence) -> None:
        """Take slot and cells from the sequence, between two steps; what is computed stays parked."""
        holding = self._holding_of(sequence)
        assert sequence.slot is not None
        slot, sequence.slot = sequence.slot, None
        del self._active[slot]
        for run in holding.runs:
            run.num_active -= 1
            if run.num_active == 0:
                self._num_active_cells -= run.length
        # The sequence's own list goes on growing when it is computed again.
        holding.token_ids = holding.token_ids[: holding.num_tokens]
        self._parked[slot] = holding
        holding.num_ready = holding.num_tokens
        if not self.shares_prefixes or holding.num_tokens < LEAST_SHARED:
            self._drop(slot)
        else:
            self._drop_beginnings_of(holding, slot)

    def forget_all(self) -> None:
        """Empty everything that is parked. Call when no sequence runs and the native memory is empty."""
        assert not self._active, "sequences are running"
        self.drop_parked()

    @property
    def has_parked(self) -> bool:
        return bool(self._parked)

    def drop_parked(self) -> None:
        for slot in list(self._parked):
            self._drop(slot)

    def check_integrity(self, running: list[Sequence]) -> None:
        """Raises AssertionError when the counts do not add up to what the running sequences hold."""
        held = {slot: holding.num_tokens for slot, holding in self._active.items()}
        expected = {sequence.slot: sequence.num_computed_tokens for sequence in running}
        assert held == expected, f"cells are lost or counted twice: {expected} != {held}"
        holdings = [*self._active.values(), *self._parked.values()]
        assert all(sum(run.length for run in h.runs) == h.num_tokens for h in holdings), "runs do not add up"
        runs = {id(run): run for holding in holdings for run in holding.runs}
        used = sum(run.length for run in runs.values())
        active = sum(run.length for run in runs.values() if run.num_active)
        assert (used, active) == (self._num_used_cells, self._num_active_cells), "the sums of cells are wrong"
        for run in runs.values():
            assert run.num_holders == sum(run in h.runs for h in holdings), "holders are miscounted"
            assert run.num_active == sum(run in h.runs for h in self._active.values()), "active holders are miscounted"
        slots = [*self._active, *self._parked, *self._free_slots]
        assert len(slots) == len(set(slots)), "a slot is free and used"

    def _holding(self, slot: int) -> Holding:
        return self._active[slot] if slot in self._active else self._parked[slot]

    def _holding_of(self, sequence: Sequence) -> Holding:
        assert sequence.slot is not None, f"{sequence} has no slot"
        return self._active[sequence.slot]

    def _share(self, source: Holding, target: Holding, num_tokens: int) -> None:
        """Make an active holding of the first tokens of another one."""
        left = num_tokens
        while left:
            run = source.runs[len(target.runs)]
            if run.length > left:
                self._split(run, left)
            run.num_holders += 1
            run.num_active += 1
            if run.num_active == 1:
                self._num_active_cells += run.length
            target.runs.append(run)
            left -= run.length
        target.num_tokens = target.num_ready = num_tokens

    def _split(self, run: Run, length: int) -> None:
        """Cut a run in two, for all that hold it."""
        rest = Run(run.length - length)
        rest.num_holders, rest.num_active = run.num_holders, run.num_active
        run.length = length
        for holdings in (self._active, self._parked):
            for holding in holdings.values():
                if run in holding.runs:
                    holding.runs.insert(holding.runs.index(run) + 1, rest)

    def _evict_oldest(self) -> None:
        self._drop(next(iter(self._parked)))

    def _drop(self, slot: int) -> None:
        for run in self._parked.pop(slot).runs:
            run.num_holders -= 1
            if run.num_holders == 0:
                self._num_used_cells -= run.length
        heapq.heappush(self._free_slots, slot)
        self._operations.append(Clear(slot))

    def _drop_beginnings_of(self, newest: Holding, slot: int) -> None:
        """What is parked elsewhere and only the beginning of this needs no slot of its own."""
        for other, holding in list(self._parked.items()):
            is_beginning = holding.num_tokens <= newest.num_tokens and (
                newest.token_ids[: holding.num_tokens] == holding.token_ids
            )
            if other != slot and is_beginning:
                self._drop(other)


def num_shared(one: list[int], other: list[int], limit: int) -> int:
    """How many of the first `limit` tokens are the same."""
    if one[:limit] == other[:limit]:
        return limit
    low, high = 0, limit  # the first `low` are the same, the first `high` are not
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low
