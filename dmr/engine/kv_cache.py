"""Who holds how many cells of the KV memory. Counts only: the cells themselves live in the native context.

The layout is one unified pool: any sequence may use any cell, so the only limits are the number of cells and the number
of slots (llama.cpp's sequence ids).
"""

from __future__ import annotations

import heapq

from dmr.engine.sequence import Sequence


class KVCache:
    """Slots and cells. A slot is given out with no cells and takes cells as its sequence is computed."""

    def __init__(self, num_cells: int, num_slots: int) -> None:
        self.num_cells = num_cells
        self._free_slots = list(range(num_slots))  # a heap: low ids first keep the native batch compact
        self._cells: dict[int, int] = {}  # slot -> cells held
        self._num_used_cells = 0

    @property
    def num_free_cells(self) -> int:
        return self.num_cells - self._num_used_cells

    @property
    def has_free_slot(self) -> bool:
        return bool(self._free_slots)

    def open(self, sequence: Sequence) -> None:
        """Give the sequence a slot. Call only when `has_free_slot`."""
        assert sequence.slot is None, f"{sequence} has a slot already"
        sequence.slot = heapq.heappop(self._free_slots)
        self._cells[sequence.slot] = 0

    def allocate(self, sequence: Sequence, num_cells: int) -> None:
        """Take cells for tokens about to be computed. Call only when there are that many free ones."""
        assert sequence.slot is not None, f"{sequence} has no slot"
        assert num_cells <= self.num_free_cells, "more cells taken than there are"
        self._cells[sequence.slot] += num_cells
        self._num_used_cells += num_cells

    def release(self, sequence: Sequence, num_cells: int) -> None:
        """Give back cells that were taken but never filled."""
        assert sequence.slot is not None, f"{sequence} has no slot"
        assert num_cells <= self._cells[sequence.slot], "more cells given back than were taken"
        self._cells[sequence.slot] -= num_cells
        self._num_used_cells -= num_cells

    def close(self, sequence: Sequence) -> int:
        """Give back slot and cells; returns the slot, whose native cells the caller must clear before its next use."""
        assert sequence.slot is not None, f"{sequence} has no slot"
        slot = sequence.slot
        self._num_used_cells -= self._cells.pop(slot)
        heapq.heappush(self._free_slots, slot)
        sequence.slot = None
        return slot

    def check_integrity(self, running: list[Sequence]) -> None:
        """Raises AssertionError when the counts do not add up to what the running sequences hold."""
        held = {sequence.slot: sequence.num_computed_tokens for sequence in running}
        assert held == self._cells, f"cells are lost or counted twice: {held} != {self._cells}"
        assert sum(self._cells.values()) == self._num_used_cells, "the sum of used cells is wrong"
        assert not set(self._cells) & set(self._free_slots), "a slot is free and used"
