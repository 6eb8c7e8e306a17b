"""What running sequences hold of the KV memory, and what they can use of it instead of computing it again.

Counts only: the cells themselves live in the native context. A prompt that begins like another one shares its cells.
What a sequence leaves behind stays parked for those who come later, until its cells or its slot are needed; host memory
may keep a copy for longer (`HostTier`).
"""

from __future__ import annotations

from dmr.engine.checkpoints import LEAST_APART, Checkpoints
from dmr.engine.host_cache import HostCache
from dmr.engine.host_tier import HostTier
from dmr.engine.memory_operations import Clear, Copy, Operation, Restore, Save, Trim
from dmr.engine.pool import NO_MATCH, Holding, Match, Pool, Sharing
from dmr.engine.prefix_tree import Place, PrefixTree, num_same
from dmr.engine.sequence import Sequence

__all__ = [
    "NO_MATCH",
    "Clear",
    "Copy",
    "KVCache",
    "Match",
    "Operation",
    "Restore",
    "Save",
    "Sharing",
    "Trim",
    "num_shared",
]

LEAST_WORTH_WAITING_FOR = 8  # tokens that another sequence is about to compute


class KVCache:
    """One owner for the scheduler to ask. Between two steps all counts are true for the native memory."""

    def __init__(
        self,
        num_cells: int,
        num_slots: int,
        sharing: Sharing = Sharing.ANYWHERE,
        *,
        max_parked_cells: int | None = None,
        host: HostCache | None = None,
        counts_positions: bool = False,
    ) -> None:
        """`max_parked_cells`: cells that may be kept for those who come later; None = all that are left. A step takes
        longer the more cells are in use, also those that it has no use for.

        `host`: where to save what is parked; then the bound waits for what is not saved yet.
        `counts_positions`: under M-RoPE a picture has fewer positions than cells.
        """
        self.num_cells = num_cells
        self.sharing = sharing
        self._max_parked_cells = num_cells if max_parked_cells is None else max_parked_cells
        self._plans = PrefixTree[Sequence]()  # running sequences by the tokens that they are to compute
        self._planned: dict[int, Place[Sequence]] = {}  # by slot
        self._unsettled: dict[int, Holding] = {}  # those that have taken cells since all were settled, by slot
        self._checkpoints = Checkpoints()
        self.host = host  # how much it holds, and how often it helped
        self._tier: HostTier | None = None
        # Pieces of a sequence are saved and restored through a slot that nobody else has.
        scratch = num_slots - 1 if host is not None and sharing is Sharing.ANYWHERE else None
        num_pooled = num_slots if scratch is None else scratch
        self._pool = Pool(num_cells, num_pooled, sharing, counts_positions=counts_positions)
        if host is not None and sharing is not Sharing.NONE and self._pool.num_slots > 1:
            promises = self._plans if sharing is Sharing.ANYWHERE else self._checkpoints.promises
            self._tier = HostTier(self._pool, host, promises, scratch, self._max_parked_cells)

    @property
    def num_free_cells(self) -> int:
        """Cells that can be had, parked ones among them."""
        return self._pool.num_free_cells

    @property
    def num_active_cells(self) -> int:
        """Cells that running sequences hold."""
        return self._pool.cells.num_active

    @property
    def num_parked_cells(self) -> int:
        """Cells that only those hold that have finished."""
        return self._pool.num_parked_cells

    @property
    def has_free_slot(self) -> bool:
        return self._pool.num_slots_to_be_had > 0

    def take_operations(self) -> list[Operation]:
        """What the native memory must do, in this order, before the next chunks run."""
        if self._tier is not None:
            self._tier.go_on(is_busy=bool(self._planned))
        operations, self._pool.operations = self._pool.operations, []
        return operations

    def idle_operations(self) -> list[Operation]:
        """What the native memory may do while there is nothing to compute, a little each time; empty = no more."""
        self.settle()
        return self.take_operations()

    def settle(self) -> None:
        """All planned tokens are computed by now, so others may share them; and what was asked for is done."""
        has_checkpoints = self.sharing is Sharing.AT_END
        for slot, holding in self._unsettled.items():
            self._pool.settle(holding, holding.num_tokens)
            if has_checkpoints and self._checkpoints.reach(slot, holding.num_tokens):
                self._pool.keep(slot)
        self._unsettled.clear()
        if self._tier is not None:
            self._tier.settle()

    def num_ready(self, sequence: Sequence) -> int:
        """How many of a running sequence's tokens others may share."""
        return self._holding_of(sequence).num_ready

    def match(self, sequence: Sequence) -> Match:
        """The slot whose cells the sequence could share most of. What it wants an output for is left to compute."""
        match = self._pool.match(sequence.token_ids, sequence.num_shareable_tokens)
        num_tokens = match.num_tokens if sequence.media is None else sequence.media.snapped(match.num_tokens)
        if num_tokens == match.num_tokens:
            return match
        return match._replace(num_tokens=num_tokens) if num_tokens and self.sharing is Sharing.ANYWHERE else NO_MATCH

    def under_way(self, sequence: Sequence, match: Match) -> Sequence | None:
        """For whom much more of what this one needs is about to be computed, or is being brought back from the host.

        In the second case that may be the sequence itself.
        """
        limit = sequence.num_shareable_tokens
        if self.sharing is Sharing.AT_END:
            return self._kept_soon(sequence, match)
        worth = match.num_tokens + LEAST_WORTH_WAITING_FOR
        if self.sharing is Sharing.NONE or limit < worth:
            return None
        num_tokens, other = self._plans.longest_shared(sequence.token_ids, limit)
        return other if num_tokens >= worth else None

    def fetch(self, sequence: Sequence, match: Match) -> bool:
        """Ask host memory for what the pool has not. True: some comes; until then the sequence is `under_way`."""
        return self._tier is not None and self._tier.fetch(sequence, match)

    def num_cells_needed(self, sequence: Sequence, match: Match) -> int:
        """How many of the free cells admitting the sequence would take: to compute, and to hold what was parked."""
        return sequence.num_tokens - match.num_tokens + self._pool.num_inactive(match)

    def open(self, sequence: Sequence, match: Match = NO_MATCH) -> None:
        """Give the sequence a slot and the cells of the match. Call only when `has_free_slot`."""
        assert sequence.slot is None, f"{sequence} has a slot already"
        tokens = sequence.token_ids
        if not self._pool.can_open(match):
            match = NO_MATCH  # the only slot to be had is the one that would be shared
        num_known = self._num_known(sequence)
        holding = self._pool.open(tokens, match)
        sequence.slot, sequence.num_computed_tokens = holding.slot, match.num_tokens
        self._planned[holding.slot] = self._plans.insert(tokens, len(tokens), sequence)
        if self.sharing is Sharing.AT_END:
            self._plan_checkpoints(sequence, num_known)
        if self._tier is not None:
            self._tier.make_way(sequence)

    def allocate(self, sequence: Sequence, num_cells: int) -> None:
        """Take cells for tokens about to be computed. Call only when there are that many free ones."""
        holding = self._holding_of(sequence)
        self._pool.extend(holding, num_cells)
        self._unsettled[holding.slot] = holding

    def stop_at_checkpoint(self, sequence: Sequence, num_tokens: int) -> int:
        """How many of so many next tokens to compute at once, so that others can go on from where that ends."""
        assert sequence.slot is not None
        checkpoint = self._checkpoints.next_of(sequence.slot)
        if checkpoint is None or checkpoint <= sequence.num_computed_tokens:
            return num_tokens
        return min(num_tokens, checkpoint - sequence.num_computed_tokens)

    def release(self, sequence: Sequence, num_cells: int) -> None:
        """Give back cells that were taken but never filled. Nobody can share them yet."""
        self._pool.shorten(self._holding_of(sequence), num_cells)

    def close(self, sequence: Sequence) -> None:
        """Take slot and cells from the sequence, between two steps; what is computed stays parked."""
        holding = self._holding_of(sequence)
        slot, limit = holding.slot, None
        sequence.slot = None
        self._unsettled.pop(slot, None)
        self._plans.remove(self._planned.pop(slot))
        self._checkpoints.forget(slot)
        if sequence.media is not None and not sequence.media.keeps_positions:
            limit = sequence.media.snapped(holding.num_tokens)
            holding.num_saved = holding.num_tokens  # host memory counts cells, not positions
        self._pool.park(slot, limit)
        if self._tier is None:
            self._pool.evict_to(self._pool.cells.num_active + self._max_parked_cells)

    def forget_all(self) -> None:
        """Empty everything that is parked or saved. Call when no sequence runs and the native memory is empty."""
        assert not self._planned, "sequences are running"
        if self._tier is not None:
            self._tier.clear()
        self.drop_parked()

    @property
    def has_parked(self) -> bool:
        return bool(self._pool.parked) or len(self._pool.active) > len(self._planned)

    def drop_parked(self) -> None:
        if self._tier is not None:
            self._tier.cancel()
        for slot in list(self._pool.parked):
            self._pool.drop(slot)

    def num_held_by_slot(self) -> dict[int, int]:
        """How many tokens the native memory holds in each slot that is not empty, when all operations are done."""
        return {slot: holding.num_tokens for slot, holding in (self._pool.active | self._pool.parked).items()}

    def check_integrity(self, running: list[Sequence]) -> None:
        """Raises AssertionError when the counts do not add up to what the running sequences hold."""
        fetching = self._tier.fetching_slots if self._tier is not None else []
        held = {slot: holding.num_tokens for slot, holding in self._pool.active.items() if slot not in fetching}
        expected = {sequence.slot: sequence.num_computed_tokens for sequence in running}
        assert held == expected, f"cells are lost or counted twice: {expected} != {held}"
        assert len(self._pool.active) == len(running) + len(fetching), "a slot has two holders"
        self._pool.check_integrity()
        planned, promised = list(self._planned.values()), self._checkpoints.places()
        assert {place.value for place in planned} == set(running), "plans of others"
        if self._tier is not None:
            self._tier.check_integrity()
            (planned if self.sharing is Sharing.ANYWHERE else promised).extend(self._tier.promise_places)
        self._plans.check_integrity(planned)
        self._checkpoints.promises.check_integrity(promised)

    def _holding_of(self, sequence: Sequence) -> Holding:
        assert sequence.slot is not None, f"{sequence} has no slot"
        return self._pool.active[sequence.slot]

    def _kept_soon(self, sequence: Sequence, match: Match) -> Sequence | None:
        """Who is to stop, or can be made to stop, where this sequence could go on; for memories shared at the end."""
        limit = sequence.num_shareable_tokens
        place = self._checkpoints.promises.longest_whole(sequence.token_ids, limit)
        if place is not None and place.length >= match.num_tokens + LEAST_WORTH_WAITING_FOR:
            return place.value
        num_tokens, other = self._plans.longest_shared(sequence.token_ids, limit)
        is_worth = num_tokens >= match.num_tokens + LEAST_APART
        if other is None or not is_worth or self._holding_of(other).num_tokens > num_tokens:
            return None
        self._checkpoints.add(other, num_tokens)
        return other

    def _num_known(self, sequence: Sequence) -> int:
        """Where the sequence parts from all that are or were there."""
        limit = sequence.num_shareable_tokens
        if self.sharing is not Sharing.AT_END:
            return 0
        known = self._pool.num_known(sequence.token_ids, limit)
        known = max(known, self._plans.longest_shared(sequence.token_ids, limit)[0])
        return known if sequence.media is None else sequence.media.snapped(known)

    def _plan_checkpoints(self, sequence: Sequence, num_known: int) -> None:
        begin, end = sequence.num_computed_tokens, sequence.num_shareable_tokens
        if end - begin >= LEAST_APART:
            self._checkpoints.add(sequence, end)
        if num_known - begin >= LEAST_APART and end - num_known >= LEAST_APART:
            self._checkpoints.add(sequence, num_known)


def num_shared(one: list[int], other: list[int], limit: int) -> int:
    """How many of the first `limit` tokens are the same."""
    return num_same(one, other, 0, limit)
