"""What the KV cache's bookkeeping asks for, done in the native context."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from dmr.engine.kv_cache import Clear, Copy, Operation


class SlotContext(Protocol):
    """What is needed of a native context; positions are tokens, `end` -1 = to the end."""

    def remove(self, sequence: int, begin: int = 0, end: int = -1) -> bool: ...
    def copy(self, source: int, target: int, begin: int = 0, end: int = -1) -> None: ...


class NativeMemory:
    def __init__(self, context: SlotContext) -> None:
        self._context = context

    def perform(self, operations: Iterable[Operation]) -> None:
        """Raises ValueError when the memory cannot do it; what it holds then is unknown."""
        for operation in operations:
            if isinstance(operation, Copy):
                self._context.copy(operation.source, operation.target, 0, operation.num_tokens)
            elif isinstance(operation, Clear):
                self._remove(operation.slot, 0)
            else:
                self._remove(operation.slot, operation.num_tokens)

    def _remove(self, slot: int, begin: int) -> None:
        if not self._context.remove(slot, begin):
            raise ValueError(f"the KV memory cannot give up a part of slot {slot}")
