"""Who holds which cells of the KV memory. Counts only: the cells themselves live in the native context.

The layout is one unified pool: any slot (llama.cpp's sequence id) may use any cell, and a cell may belong to several
slots. So a prompt that begins like another one shares its cells instead of computing them again. What a sequence leaves
behind stays parked for those who come later, until its cells or its slot are needed.
"""

from __future__ import annotations

import heapq
from typing import NamedTuple, Union

from dmr.engine.cells import Cells, Run, length_of, num_inactive
from dmr.engine.prefix_tree import Place, PrefixTree, num_same
from dmr.engine.sequence import Sequence

LEAST_SHARED = 8  # tokens; for fewer, sharing is not worth a native call
LEAST_WORTH_WAITING_FOR = 8  # tokens that another sequence is about to compute
LEAST_EVICTED = 64  # cells at a time, so that a full memory does not cost a native call for each token


class Clear(NamedTuple):
    """Take all cells from a slot."""

    slot: int


class Trim(NamedTuple):
    """Leave a slot its first `num_tokens` cells."""

    slot: int
    num_tokens: int


class Copy(NamedTuple):
    """Let `target`, which is empty, share the first `num_tokens` cells of `source`."""

    source: int
    target: int
    num_tokens: int


Operation = Union[Clear, Trim, Copy]


class Match(NamedTuple):
    slot: int
    num_tokens: int


NO_MATCH = Match(-1, 0)


class Holding:
    """What one slot holds: the first `num_tokens` of a list of tokens, of which the first `num_ready` are in the tree.

    The list may grow, but what is held of it must not change.
    """

    __slots__ = ("num_tokens", "place", "planned", "run")

    def __init__(self, place: Place[int], planned: Place[Sequence]) -> None:
        self.place = place  # what others may share: computed, and not only planned
        self.planned = planned  # what the sequence was to compute when it was opened
        self.num_tokens = 0
        self.run: Run | None = None  # the last one

    @property
    def num_ready(self) -> int:
        return self.place.length


class KVCache:
    """Slots and cells. A slot is free, active or parked. What is parked can always be had."""

    def __init__(
        self, num_cells: int, num_slots: int, shares_prefixes: bool = True, max_parked_cells: int | None = None
    ) -> None:
        """`shares_prefixes` is false for a memory that cannot give away a part of a sequence.

        `max_parked_cells`: cells that may be kept for those who come later; None = all that are left. A step takes
        longer the more cells are in use, also those that it has no use for.
        """
        self.num_cells = num_cells
        self.max_parked_cells = num_cells if max_parked_cells is None else max_parked_cells
        self.shares_prefixes = shares_prefixes
        self._cells = Cells()
        self._free_slots = list(range(num_slots))  # a heap: low ids first keep the native batch compact
        self._active: dict[int, Holding] = {}
        self._parked: dict[int, Holding] = {}
        self._tree = PrefixTree[int]()  # slots by the tokens that are ready in them
        self._plans = PrefixTree[Sequence]()  # running sequences by the tokens that they are to compute
        self._unsettled: dict[int, Holding] = {}  # active ones that have taken cells since all were settled, by slot
        self._operations: list[Operation] = []

    @property
    def num_free_cells(self) -> int:
        """Cells that can be had, parked ones among them."""
        return self.num_cells - self._cells.num_active

    @property
    def has_free_slot(self) -> bool:
        return bool(self._free_slots or self._parked)

    def take_operations(self) -> list[Operation]:
        """What the native memory must do, in this order, before the next chunks run."""
        operations, self._operations = self._operations, []
        return operations

    def settle(self) -> None:
        """All planned tokens are computed by now, so others may share them."""
        for holding in self._unsettled.values():
            self._tree.extend(holding.place, holding.num_tokens)
        self._unsettled.clear()

    def num_ready(self, sequence: Sequence) -> int:
        """How many of a running sequence's tokens others may share."""
        return self._holding_of(sequence).num_ready

    def match(self, sequence: Sequence) -> Match:
        """The slot whose cells the sequence could share most of. What it wants an output for is left to compute."""
        if not self.shares_prefixes:
            return NO_MATCH
        num_tokens, slot = self._tree.longest_shared(sequence.token_ids, sequence.num_shareable_tokens)
        return NO_MATCH if slot is None or num_tokens < LEAST_SHARED else Match(slot, num_tokens)

    def under_way(self, sequence: Sequence, match: Match) -> Sequence | None:
        """A running sequence that is about to compute much more of what this one needs than is there already."""
        worth = match.num_tokens + LEAST_WORTH_WAITING_FOR
        if not self.shares_prefixes or sequence.num_shareable_tokens < worth:
            return None
        num_tokens, other = self._plans.longest_shared(sequence.token_ids, sequence.num_shareable_tokens)
        return other if num_tokens >= worth else None

    def num_cells_needed(self, sequence: Sequence, match: Match) -> int:
        """How many of the free cells admitting the sequence would take: to compute, and to hold what was parked."""
        needed = sequence.num_tokens - match.num_tokens
        source = self._holding(match.slot) if match.num_tokens else None
        if source is not None and source.run is not None:
            needed += num_inactive(source.run, source.num_tokens - match.num_tokens)
        return needed

    def open(self, sequence: Sequence, match: Match = NO_MATCH) -> None:
        """Give the sequence a slot and the cells of the match. Call only when `has_free_slot`."""
        assert sequence.slot is None, f"{sequence} has a slot already"
        if not self._free_slots and len(self._parked) == 1 and match.slot in self._parked:
            match = NO_MATCH  # the only slot to be had is the one that would be shared
        run = None
        if match.num_tokens:
            source = self._holding(match.slot)
            assert source.run is not None
            run = self._cells.share(source.run, source.num_tokens - match.num_tokens)
            self._cells.activate(run)
            self._cells.use(run, is_hit=True)
        if not self._free_slots:
            self._evict_slot(match.slot)
        slot = sequence.slot = heapq.heappop(self._free_slots)
        tokens = sequence.token_ids
        place = self._tree.insert(tokens, match.num_tokens, slot)
        holding = Holding(place, self._plans.insert(tokens, len(tokens), sequence))
        holding.run, holding.num_tokens = run, match.num_tokens
        self._active[slot] = holding
        sequence.num_computed_tokens = match.num_tokens
        if match.num_tokens:
            self._operations.append(Copy(match.slot, slot, match.num_tokens))

    def allocate(self, sequence: Sequence, num_cells: int) -> None:
        """Take cells for tokens about to be computed. Call only when there are that many free ones."""
        holding = self._holding_of(sequence)
        assert num_cells <= self.num_free_cells, "more cells taken than there are"
        self._evict_to(self.num_cells - num_cells)
        holding.run = self._cells.extend(holding.run, num_cells)
        holding.num_tokens += num_cells
        self._unsettled[holding.place.value] = holding

    def release(self, sequence: Sequence, num_cells: int) -> None:
        """Give back cells that were taken but never filled. Nobody can share them yet."""
        holding = self._holding_of(sequence)
        assert num_cells <= holding.num_tokens - holding.num_ready, "more cells given back than were taken"
        if num_cells:
            assert holding.run is not None
            holding.run = self._cells.shorten(holding.run, num_cells)
            holding.num_tokens -= num_cells

    def close(self, sequence: Sequence) -> None:
        """Take slot and cells from the sequence, between two steps; what is computed stays parked."""
        holding = self._holding_of(sequence)
        assert sequence.slot is not None
        slot, sequence.slot = sequence.slot, None
        del self._active[slot]
        self._unsettled.pop(slot, None)
        self._tree.extend(holding.place, holding.num_tokens)
        self._plans.remove(holding.planned)
        self._cells.deactivate(holding.run)
        self._parked[slot] = holding
        if not self.shares_prefixes or holding.num_tokens < LEAST_SHARED:
            self._drop(slot)
            return
        # What is parked elsewhere and only the beginning of this needs no slot of its own.
        for beginning in self._tree.beginnings_of(holding.place):
            if beginning.value in self._parked:
                self._drop(beginning.value)
        self._cells.use(holding.run, is_hit=False)
        self._evict_to(self._cells.num_active + self.max_parked_cells)

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
        holdings = {**self._active, **self._parked}
        assert all(length_of(h.run) == h.num_tokens >= h.num_ready for h in holdings.values()), "runs do not add up"
        parked = [holding.run for holding in self._parked.values()]
        self._cells.check_integrity([holding.run for holding in self._active.values()], parked)
        self._tree.check_integrity([holding.place for holding in holdings.values()])
        self._plans.check_integrity([holding.planned for holding in self._active.values()])
        assert {holding.planned.value for holding in self._active.values()} == set(running), "plans of others"
        assert all(holding.place.value == slot for slot, holding in holdings.items()), "a place leads elsewhere"
        slots = [*self._active, *self._parked, *self._free_slots]
        assert len(slots) == len(set(slots)), "a slot is free and used"

    def _holding(self, slot: int) -> Holding:
        return self._active[slot] if slot in self._active else self._parked[slot]

    def _holding_of(self, sequence: Sequence) -> Holding:
        assert sequence.slot is not None, f"{sequence} has no slot"
        return self._active[sequence.slot]

    def _evict_to(self, num_cells: int) -> None:
        """Let parked cells go until no more than that many are used; from the ends, where the fewest share them."""
        while (num_over := self._cells.num_used - num_cells) > 0:
            slot = min(self._parked, key=self._priority_of)
            holding = self._parked[slot]
            assert holding.run is not None
            self._cells.grow_old(holding.run)
            num_cut = min(holding.run.length, max(num_over, LEAST_EVICTED))
            num_left = holding.num_tokens - num_cut
            parent = holding.run.parent
            # When the rest is somebody else's too, a slot of its own is not worth having for it.
            is_shared = num_cut == holding.run.length and parent is not None and parent.num_holders > 1
            if holding.run.num_holders > 1 or num_left < LEAST_SHARED or is_shared:
                self._drop(slot)
                continue
            holding.run = self._cells.shorten(holding.run, num_cut)
            holding.num_tokens = num_left
            self._tree.shorten(holding.place, num_left)
            self._operations.append(Trim(slot, num_left))

    def _evict_slot(self, other_than: int) -> None:
        """Let the parked slot go with which the least is lost."""
        slot = min((slot for slot in self._parked if slot != other_than), key=self._value_of)
        run = self._parked[slot].run
        assert run is not None
        self._cells.grow_old(run)
        self._drop(slot)

    def _priority_of(self, slot: int) -> tuple[bool, int, int]:
        """Of a parked slot's last cells; those that others have too cannot be had."""
        run = self._parked[slot].run
        assert run is not None
        return run.num_holders > 1, run.priority, run.last_used

    def _value_of(self, slot: int) -> tuple[int, int]:
        return self._cells.value(self._parked[slot].run)

    def _drop(self, slot: int) -> None:
        holding = self._parked.pop(slot)
        self._tree.remove(holding.place)
        self._cells.release(holding.run)
        heapq.heappush(self._free_slots, slot)
        self._operations.append(Clear(slot))


def num_shared(one: list[int], other: list[int], limit: int) -> int:
    """How many of the first `limit` tokens are the same."""
    return num_same(one, other, 0, limit)
