"""The native memory as the tests see it: cells that know their token and may belong to several slots."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

from dmr.engine.kv_cache import Copy, Operation, Restore, Save, Trim


class Cell:
    def __init__(self, token: int) -> None:
        self.token = token


class CellMemory:
    """A token's state is ten bytes long. `fails` may let a transfer fail."""

    def __init__(self, *, is_whole: bool = False) -> None:
        """`is_whole`: what a slot holds can only be shared and cleared as a whole."""
        self.is_whole = is_whole
        self.fails: Callable[[Operation], bool] = lambda operation: False
        self.num_restored = 0
        self._slots: dict[int, list[Cell]] = {}

    @property
    def slots(self) -> list[int]:
        return list(self._slots)

    @property
    def num_used(self) -> int:
        return len({id(cell) for cells in self._slots.values() for cell in cells})

    def num_used_by(self, slots: Iterable[int]) -> int:
        return len({id(cell) for slot in slots for cell in self._slots.get(slot, [])})

    def perform(self, operations: Iterable[Operation]) -> None:
        for operation in operations:
            if isinstance(operation, Copy):
                assert not self._slots.get(operation.target), "a copy onto cells"
                source = self._slots[operation.source]
                assert len(source) >= operation.end, "a copy of cells that are not there"
                assert not self.is_whole or len(source) == operation.end, "a copy of a part"
                self._slots[operation.target] = source[: operation.end]
            elif isinstance(operation, Trim):
                assert len(self._slots[operation.slot]) > operation.end, "a cut beyond the end"
                assert not self.is_whole, "a part is cut off"
                del self._slots[operation.slot][operation.end :]
            elif isinstance(operation, (Save, Restore)):
                self._transfer(operation)
            else:
                self._slots.pop(operation.slot, None)

    def add(self, slot: int, start: int, tokens: Iterable[int]) -> None:
        cells = self._slots.setdefault(slot, [])
        assert len(cells) == start, "a chunk does not begin where the memory ends"
        cells += [Cell(token) for token in tokens]

    def cut(self, slot: int, num_tokens: int) -> None:
        """Keep the first `num_tokens`."""
        del self._slots[slot][num_tokens:]

    def tokens(self, slot: int) -> list[int]:
        return [cell.token for cell in self._slots.get(slot, [])]

    def clear(self) -> None:
        self._slots.clear()

    def _transfer(self, transfer: Save | Restore) -> None:
        assert self.is_whole == (transfer.scratch is None), "saved in the wrong way"
        assert transfer.scratch is None or not self._slots.get(transfer.scratch), "the scratch slot is in use"
        cells = self._slots.get(transfer.slot, [])
        if self.fails(transfer):
            return
        if isinstance(transfer, Save):
            assert len(cells) >= transfer.end, "cells are saved that are not there"
            assert not self.is_whole or (transfer.begin, transfer.end) == (0, len(cells)), "a part is saved"
            tokens = [cell.token for cell in cells[transfer.begin : transfer.end]]
            transfer.saved.state = json.dumps([transfer.begin, tokens]).encode().ljust(10 * len(tokens))
        else:
            assert transfer.saved.state is not None, "a state is restored that was never saved"
            if len(cells) != transfer.begin:
                return
            begin, tokens = json.loads(transfer.saved.state)
            self._slots[transfer.slot] = cells + [
                Cell(t) for t in tokens[transfer.begin - begin : transfer.end - begin]
            ]
            assert len(self._slots[transfer.slot]) == transfer.end, "the state has not what is restored of it"
            self.num_restored += transfer.end - transfer.begin
        transfer.is_done = True
