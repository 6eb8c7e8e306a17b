"""Between the pool and host memory: what of the parked cells to save, and whom to bring back what was saved.

Saving costs no one much: it goes on beside the steps, in slices that take little time, and what is saved stays in the
pool until its cells are needed. What has to go before it was saved is lost. Bringing back is for a sequence that
waits: the cells come into a slot of their own, and are parked there, where the sequence finds them like any others. So
it costs nothing but time when that fails.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from dmr.engine.host_cache import HostCache, Part, Piece
from dmr.engine.memory_operations import Restore, Save
from dmr.engine.pool import NO_MATCH, Holding, Match, Pool, Sharing
from dmr.engine.prefix_tree import Place, PrefixTree
from dmr.engine.sequence import Sequence

LEAST_SAVED = 16  # tokens of a piece, or it is mostly the work of finding it
LEAST_FETCHED = 16  # tokens more than the pool has
SLICE = 64  # tokens of a transfer at least, and as long as nobody knows what they cost
LARGEST_SLICE = 2048
BUSY_SAVING = 0.002  # seconds of a step
BUSY_FETCHING = 0.01
BUSY_WHOLE = 0.01  # a state that can only be saved as a whole may take longer, since it is rarely done
IDLE_TIME = 0.01  # a request that comes now has to wait for so long at most
MAX_FETCHES = 4  # at the same time
MOST_HELPED = 64  # sequences for which something was fetched and that still wait


class Saving(NamedTuple):
    save: Save
    piece: Piece
    holding: Holding


class Fetch:
    """Saved cells on their way into a slot."""

    __slots__ = ("holding", "parts", "promise", "under_way")

    def __init__(self, holding: Holding, parts: list[Part], promise: Place[Sequence]) -> None:
        self.holding = holding
        self.parts = deque(parts)  # that are still to come
        self.promise = promise
        self.under_way: list[tuple[Restore, Piece]] = []


class HostTier:
    def __init__(
        self, pool: Pool, host: HostCache, promises: PrefixTree[Sequence], scratch: int | None, max_parked_cells: int
    ) -> None:
        """`promises`: what will be there soon. `scratch`: a slot that the pool does not have; None: saves wholes."""
        assert host.saves_whole == (pool.sharing is Sharing.AT_END) == (scratch is None)
        self._pool = pool
        self._host = host
        self._promises = promises
        self._scratch = scratch
        self._max_parked_cells = self._max_beside_running = max_parked_cells
        if max_parked_cells < pool.num_cells and not host.saves_whole:
            # Each step passes over parked cells (SmolLM2-135M, a prompt of 400 tokens and tokens after it: beside 256
            # or more of them 483 becomes 567 ms, and 9.7 becomes 12 ms), and 500 tokens come back in 4 to 15 ms.
            self._max_beside_running = 0
        self._saving: list[Saving] = []
        self._fetches: list[Fetch] = []
        self._helped: dict[int, Holding] = {}  # what was fetched for whom, by the id of a sequence that still waits

    @property
    def fetching_slots(self) -> list[int]:
        return [fetch.holding.slot for fetch in self._fetches]

    @property
    def promise_places(self) -> list[Place[Sequence]]:
        return [fetch.promise for fetch in self._fetches]

    def settle(self) -> None:
        """Take note of what has become of the transfers."""
        for save, piece, holding in self._saving:
            is_there = save.is_done and self._host.add(piece, holding.token_ids)
            if not is_there:
                self._host.give_up(piece)
            # What could not be saved now is not tried again.
            holding.num_saved = save.end if is_there else holding.num_tokens
        self._saving.clear()
        for fetch in list(self._fetches):
            self._settle_fetch(fetch)

    def fetch(self, sequence: Sequence, match: Match) -> bool:
        """Begin to bring back what the pool has not, if that is worth it. The sequence has to wait for it."""
        if sequence.id in self._helped or len(self._fetches) >= MAX_FETCHES:
            return False
        num_tokens, piece = self._host.find(sequence.token_ids, sequence.num_shareable_tokens)
        if piece is None or num_tokens - match.num_tokens < LEAST_FETCHED:
            return False
        source = NO_MATCH if self._host.saves_whole else match
        parts = self._host.parts(piece, source.num_tokens, num_tokens)
        num_bytes = sum(part.piece.num_bytes for part in parts)
        if not self._host.costs.is_worth(num_bytes, num_tokens - match.num_tokens):
            return False
        # One slot to bring it into, and one for the sequence.
        has_slots = self._pool.num_slots_to_be_had - (match.slot in self._pool.parked) >= 2
        if not has_slots or self._pool.num_inactive(source) + self._room_for(parts) > self._pool.num_free_cells:
            return False
        if len(self._helped) >= MOST_HELPED:  # some have left while they waited
            self._forget(next(iter(self._helped)))
        holding = self._helped[sequence.id] = self._pool.open(sequence.token_ids, source)
        holding.is_awaited = True
        promise = self._promises.insert(sequence.token_ids, num_tokens, sequence)
        self._fetches.append(Fetch(holding, parts, promise))
        self._host.use(piece)
        self._host.num_hits += 1
        return True

    def make_way(self, sequence: Sequence) -> None:
        """The sequence is opened. If it comes again, it may be helped again."""
        if sequence.id in self._helped:
            self._forget(sequence.id)
        self._pool.evict_to(self._pool.cells.num_active + self._max_beside_running, only_saved=True)

    def go_on(self, *, is_busy: bool) -> None:
        """Ask for the next transfers, as many as there is time for."""
        for fetch in self._fetches:
            self._continue(fetch, is_busy)
        holding = self._next_unsaved()
        # What is saved need not be parked beyond the bound.
        self._pool.evict_to(self._pool.cells.num_active + self._max_parked_cells, only_saved=True)
        if holding is not None and self._is_pressed():
            self._save(holding, is_busy)

    def cancel(self) -> None:
        """Give up all transfers; what has come so far is parked."""
        self.settle()
        for fetch in list(self._fetches):
            fetch.parts.clear()
            self._settle_fetch(fetch)

    def clear(self) -> None:
        self.cancel()
        self._host.clear()

    def check_integrity(self) -> None:
        self._host.check_integrity()
        assert not self._fetches or self._pool.sharing is not Sharing.NONE

    def _forget(self, sequence_id: int) -> None:
        self._helped.pop(sequence_id).is_awaited = False

    def _settle_fetch(self, fetch: Fetch) -> None:
        holding = fetch.holding
        has_failed = False
        for restore, piece in fetch.under_way:
            has_failed = has_failed or not restore.is_done
            if has_failed:
                self._host.drop(piece)  # or it would be tried for ever
                fetch.parts.clear()
            else:
                self._pool.settle(holding, restore.end)
                self._host.num_restored_tokens += restore.end - restore.begin
        fetch.under_way.clear()
        if not fetch.parts:
            self._pool.shorten(holding, holding.num_tokens - holding.num_ready)
            self._fetches.remove(fetch)
            self._promises.remove(fetch.promise)
            self._pool.park(holding.slot)

    def _continue(self, fetch: Fetch, is_busy: bool) -> None:
        costs = self._host.costs
        num_left = costs.num_tokens_within(BUSY_FETCHING, SLICE, 1 << 30) if is_busy else 1 << 30
        while fetch.parts and num_left > 0:
            part = fetch.parts[0]
            num_tokens, room = part.end - part.begin, self._room_for([part])
            if room > self._pool.num_free_cells:
                fetch.parts.clear()
                return
            fetch.parts.popleft()
            self._pool.evict_to(self._pool.num_cells - room)  # for a moment, all of the piece is there
            self._pool.extend(fetch.holding, num_tokens)
            restore = Restore(fetch.holding.slot, part.begin, part.end, part.piece, self._scratch)
            self._pool.operations.append(restore)
            fetch.under_way.append((restore, part.piece))
            num_left -= num_tokens

    def _room_for(self, parts: list[Part]) -> int:
        """Cells that are needed at the same time."""
        over = max((part.piece.end - part.piece.begin - (part.end - part.begin) for part in parts), default=0)
        return sum(part.end - part.begin for part in parts) + over

    def _is_pressed(self) -> bool:
        """Whether what is parked may soon have to go. Before that, to save it would only take memory."""
        pool = self._pool
        is_half_full = 2 * pool.cells.num_used >= pool.num_cells or 2 * pool.num_parked_cells >= self._max_parked_cells
        is_in_the_way = pool.num_parked_cells > self._max_beside_running
        return is_half_full or is_in_the_way or 2 * pool.num_free_slots <= pool.num_slots

    def _next_unsaved(self) -> Holding | None:
        """The one that is parked for longest among those of which something is worth saving."""
        for holding in self._pool.parked.values():
            if holding.is_saved:
                continue
            num_tokens, _ = self._host.find(holding.token_ids, holding.num_tokens)
            if holding.num_tokens - num_tokens >= LEAST_SAVED:
                return holding
            holding.num_saved = holding.num_tokens
        return None

    def _save(self, holding: Holding, is_busy: bool) -> None:
        """Ask to save the next part of it, or all."""
        costs = self._host.costs
        if is_busy and costs.allowance < BUSY_SAVING:
            return
        begin, end, last = 0, holding.num_tokens, None
        if self._host.saves_whole:
            if is_busy and costs.last_bytes * costs.seconds_per_byte > BUSY_WHOLE:
                return
        else:
            begin, last = self._host.find(holding.token_ids, holding.num_tokens)
            time = BUSY_SAVING if is_busy else IDLE_TIME
            end = begin + costs.num_tokens_within(time, SLICE, LARGEST_SLICE)
            if end > holding.num_tokens - LEAST_SAVED:  # or the rest would be too little to be saved
                end = holding.num_tokens
        piece = self._host.reserve(begin, end, last)
        if piece is None:
            holding.num_saved = holding.num_tokens
            return
        if is_busy:
            costs.allowance -= BUSY_SAVING
        save = Save(holding.slot, begin, end, piece, self._scratch)
        self._pool.operations.append(save)
        self._saving.append(Saving(save, piece, holding))
