"""The slots and cells of the KV memory: who holds what, what is parked, what has to go. Counts only.

Any slot (llama.cpp's sequence id) may use any cell, and a cell may belong to several slots.
"""

from __future__ import annotations

import enum
import heapq
from typing import NamedTuple

from dmr.engine.cells import Cells, Run, length_of, num_inactive
from dmr.engine.media_spans import position_behind, whole_pieces
from dmr.engine.memory_operations import Clear, Copy, Operation, Trim
from dmr.engine.prefix_tree import Place, PrefixTree

LEAST_SHARED = 8  # tokens; for fewer, sharing is not worth a native call
LEAST_EVICTED = 64  # cells at a time, so that a full memory does not cost a native call for each token


class Sharing(enum.Enum):
    """What of a slot's tokens another can go on from."""

    ANYWHERE = enum.auto()  # any beginning: each cell stands for itself
    AT_END = enum.auto()  # all of them or none: a recurrent state, or a window that has forgotten the rest
    NONE = enum.auto()


class Match(NamedTuple):
    slot: int
    num_tokens: int


NO_MATCH = Match(-1, 0)


class Holding:
    """What one slot holds: the first `num_tokens` of a list of tokens, of which the first `num_ready` are in the tree.

    The list may grow, but what is held of it must not change.
    """

    __slots__ = ("is_awaited", "num_saved", "num_tokens", "place", "run")

    def __init__(self, place: Place[int]) -> None:
        self.place = place  # what others may share: computed, and not only planned
        self.num_tokens = place.length
        self.run: Run | None = None  # the last one
        self.num_saved = 0  # tokens whose cells host memory has, or will never have
        self.is_awaited = False  # a sequence that waits is about to go on from here

    @property
    def slot(self) -> int:
        return self.place.value

    @property
    def num_ready(self) -> int:
        return self.place.length

    @property
    def is_saved(self) -> bool:
        return self.num_saved >= self.num_tokens

    @property
    def token_ids(self) -> list[int]:
        return self.place.token_ids


class Pool:
    """A slot is free, active or parked. What is parked can always be had."""

    def __init__(self, num_cells: int, num_slots: int, sharing: Sharing, *, counts_positions: bool = False) -> None:
        """`counts_positions`: a picture may have fewer positions than cells."""
        self._counts_positions = counts_positions
        self.num_cells = num_cells
        self.num_slots = num_slots
        self.sharing = sharing
        self.cells = Cells()
        self.active: dict[int, Holding] = {}
        self.parked: dict[int, Holding] = {}
        self.operations: list[Operation] = []
        self._free_slots = list(range(num_slots))  # a heap: low ids first keep the native batch compact
        self._tree = PrefixTree[int]()  # slots by the tokens that are ready in them

    @property
    def num_free_cells(self) -> int:
        """Cells that can be had, parked ones among them."""
        return self.num_cells - self.cells.num_active

    @property
    def num_parked_cells(self) -> int:
        """Cells that only parked slots have."""
        return self.cells.num_used - self.cells.num_active

    @property
    def num_free_slots(self) -> int:
        return len(self._free_slots)

    @property
    def num_slots_to_be_had(self) -> int:
        return len(self._free_slots) + len(self.parked)

    def holding(self, slot: int) -> Holding:
        return self.active[slot] if slot in self.active else self.parked[slot]

    def match(self, token_ids: list[int], limit: int) -> Match:
        """The slot that has most of the first `limit` tokens to share."""
        match = NO_MATCH
        if self.sharing is Sharing.ANYWHERE:
            num_tokens, slot = self._tree.longest_shared(token_ids, limit)
            match = NO_MATCH if slot is None else Match(slot, num_tokens)
        elif self.sharing is Sharing.AT_END:
            place = self._tree.longest_whole(token_ids, limit)
            match = NO_MATCH if place is None else Match(place.value, place.length)
        return match if match.num_tokens >= LEAST_SHARED else NO_MATCH

    def num_known(self, token_ids: list[int], limit: int) -> int:
        """How many of the first `limit` tokens somebody has, whether that can be shared or not."""
        return self._tree.longest_shared(token_ids, limit)[0]

    def num_inactive(self, match: Match) -> int:
        """How many of the cells of a match nobody active has."""
        if not match.num_tokens:
            return 0
        source = self.holding(match.slot)
        assert source.run is not None
        return num_inactive(source.run, source.num_tokens - match.num_tokens)

    def can_open(self, match: Match) -> bool:
        """Whether there is a slot besides the one with the match."""
        return bool(self._free_slots) or self.num_slots_to_be_had > (match.slot in self.parked)

    def open(self, token_ids: list[int], match: Match) -> Holding:
        """An active slot with the cells of the match. Call only when `can_open`."""
        run = self._share(match, is_active=True)
        holding = Holding(self._tree.insert(token_ids, match.num_tokens, self._take_slot(match)))
        holding.run = run
        self.cells.use(run, is_hit=True)
        self.active[holding.slot] = holding
        return holding

    def keep(self, slot: int) -> None:
        """Park what an active slot has computed in a slot of its own too, if there is one."""
        source = self.active[slot]
        match = Match(slot, source.num_ready)
        others = self._tree.beginnings_of(source.place)
        if any(other.length == source.num_ready and other.value in self.parked for other in others):
            return
        if not self.can_open(match):
            return
        run = self._share(match, is_active=False)
        holding = Holding(self._tree.insert(source.token_ids, match.num_tokens, self._take_slot(match)))
        holding.run = run
        self.parked[holding.slot] = holding
        self.cells.use(run, is_hit=False)

    def extend(self, holding: Holding, num_cells: int) -> None:
        """Take cells for more tokens of an active slot. Call only when there are that many free ones."""
        assert num_cells <= self.num_cells - self.cells.num_active, "more cells taken than there are"
        if self.cells.num_used > self.num_cells - num_cells:
            self.evict_to(self.num_cells - num_cells)
        holding.run = self.cells.extend(holding.run, num_cells)
        holding.num_tokens += num_cells

    def shorten(self, holding: Holding, num_cells: int) -> None:
        """Give back cells that were taken but never filled. Nobody can share them yet."""
        assert num_cells <= holding.num_tokens - holding.num_ready, "more cells given back than were taken"
        if num_cells:
            assert holding.run is not None
            holding.run = self.cells.shorten(holding.run, num_cells)
            holding.num_tokens -= num_cells

    def settle(self, holding: Holding, num_tokens: int) -> None:
        """So many tokens whose cells were taken are there by now, so others may share them."""
        assert num_tokens <= len(holding.token_ids), "cells of tokens that nobody knows"
        self._tree.extend(holding.place, num_tokens)

    def park(self, slot: int, limit: int | None = None) -> None:
        """What an active slot has computed stays until its cells or the slot are needed; `limit` tokens at most."""
        holding = self.active.pop(slot)
        self.settle(holding, holding.num_tokens)
        self.cells.deactivate(holding.run)
        self.parked[slot] = holding
        if limit is not None and holding.num_tokens > limit:
            if limit < LEAST_SHARED or self.sharing is not Sharing.ANYWHERE:
                self.drop(slot)
                return
            self._trim(holding, limit)
        if self.sharing is Sharing.NONE or holding.num_tokens < LEAST_SHARED:
            self.drop(slot)
            return
        for other in self._tree.beginnings_of(holding.place):
            # Of the same, one is enough; and a beginning, where it can be shared out of this, is the same.
            is_same = self.sharing is Sharing.ANYWHERE or other.length == holding.num_tokens
            if is_same and other.value in self.parked:
                self.drop(other.value)
        self.cells.use(holding.run, is_hit=False)

    def drop(self, slot: int) -> None:
        """Empty a parked slot."""
        holding = self.parked.pop(slot)
        self._tree.remove(holding.place)
        self.cells.release(holding.run)
        heapq.heappush(self._free_slots, slot)
        self.operations.append(Clear(slot))

    def evict_to(self, num_cells: int, *, only_saved: bool = False) -> None:
        """Let parked cells go until no more than that many are used; from the ends, where the fewest share them.

        `only_saved`: not those that host memory may still get or that are awaited; then more may be left.
        """
        while (num_over := self.cells.num_used - num_cells) > 0:
            slots = [
                slot
                for slot, holding in self.parked.items()
                if not only_saved or (holding.is_saved and not holding.is_awaited)
            ]
            if not slots and only_saved:
                return
            holding = self._oldest(min(slots, key=self._priority_of))
            assert holding.run is not None
            num_left = holding.num_tokens - min(holding.run.length, max(num_over, LEAST_EVICTED))
            if self._counts_positions:
                num_left = whole_pieces(holding.token_ids, num_left)
            if self._is_worth_a_slot(holding, num_left):
                self._trim(holding, num_left)
            else:
                self.drop(holding.slot)

    def _trim(self, holding: Holding, num_left: int) -> None:
        assert holding.run is not None
        holding.run = self.cells.shorten(holding.run, holding.num_tokens - num_left)
        holding.num_tokens = num_left
        self._tree.shorten(holding.place, num_left)
        self.operations.append(Trim(holding.slot, self._position_behind(holding, num_left)))

    def _position_behind(self, holding: Holding, num_tokens: int) -> int:
        return position_behind(holding.token_ids, num_tokens) if self._counts_positions else num_tokens

    def check_integrity(self) -> None:
        """Raises AssertionError when the counts do not add up."""
        holdings = {**self.active, **self.parked}
        assert all(length_of(h.run) == h.num_tokens >= h.num_ready for h in holdings.values()), "runs do not add up"
        assert all(h.num_ready == h.num_tokens for h in self.parked.values()), "parked before it was computed"
        parked = [holding.run for holding in self.parked.values()]
        self.cells.check_integrity([holding.run for holding in self.active.values()], parked)
        self._tree.check_integrity([holding.place for holding in holdings.values()])
        assert all(holding.slot == slot for slot, holding in holdings.items()), "a place leads elsewhere"
        slots = [*self.active, *self.parked, *self._free_slots]
        assert len(slots) == len(set(slots)), "a slot is free and used"

    def _share(self, match: Match, *, is_active: bool) -> Run | None:
        """Hold the cells of a match once more."""
        if not match.num_tokens:
            return None
        source = self.holding(match.slot)
        assert source.run is not None
        run = self.cells.share(source.run, source.num_tokens - match.num_tokens)
        if is_active:
            self.cells.activate(run)
        return run

    def _take_slot(self, match: Match) -> int:
        """A free slot, which shares the cells of the match; if there is none, the one with which the least is lost."""
        if not self._free_slots:
            oldest = min((slot for slot in self.parked if slot != match.slot), key=self._value_of)
            self.drop(self._oldest(oldest).slot)
        slot = heapq.heappop(self._free_slots)
        if match.num_tokens:
            end = self._position_behind(self.holding(match.slot), match.num_tokens)
            self.operations.append(Copy(match.slot, slot, end))
        return slot

    def _oldest(self, slot: int) -> Holding:
        """The parked slot that has to go next, wholly or in part: all others are younger from now on."""
        holding = self.parked[slot]
        assert holding.run is not None
        if holding.run.num_holders == 1 or self.sharing is Sharing.AT_END:
            self.cells.grow_old(holding.run)
        return holding

    def _is_worth_a_slot(self, holding: Holding, num_left: int) -> bool:
        """Whether a parked slot should lose its last cells only."""
        assert holding.run is not None
        if self.sharing is not Sharing.ANYWHERE or holding.run.num_holders > 1 or num_left < LEAST_SHARED:
            return False
        is_cut = holding.run.length > holding.num_tokens - num_left
        # When what is left is somebody else's too, it needs no slot of its own.
        return is_cut or holding.run.parent is None or holding.run.parent.num_holders == 1

    def _priority_of(self, slot: int) -> tuple[bool, int, int, int]:
        """Of a parked slot's last cells; those that others have too cannot be had."""
        holding = self.parked[slot]
        run = holding.run
        assert run is not None
        is_shared = run.num_holders > 1 and self.sharing is Sharing.ANYWHERE
        return is_shared, run.priority, run.last_used, -holding.num_tokens

    def _value_of(self, slot: int) -> tuple[int, int, int]:
        """What is lost with a parked slot."""
        holding = self.parked[slot]
        assert holding.run is not None
        if self.sharing is Sharing.AT_END:  # others that have its cells cannot be used in its place
            return holding.run.priority, holding.run.last_used, -holding.num_tokens
        return *self.cells.value(holding.run), 0
