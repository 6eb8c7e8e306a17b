"""The native memory as the tests see it: cells that know their token and may belong to several slots."""

from __future__ import annotations

from collections.abc import Iterable

from dmr.engine.kv_cache import Copy, Operation, Trim


class Cell:
    def __init__(self, token: int) -> None:
        self.token = token


class CellMemory:
    def __init__(self) -> None:
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
                assert len(source) >= operation.num_tokens, "a copy of cells that are not there"
                self._slots[operation.target] = source[: operation.num_tokens]
            elif isinstance(operation, Trim):
                assert len(self._slots[operation.slot]) > operation.num_tokens, "a cut beyond the end"
                del self._slots[operation.slot][operation.num_tokens :]
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
