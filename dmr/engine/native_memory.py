"""What the bookkeeping of KV memory asks for, done in the native context."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Protocol

from dmr.engine.host_cache import TransferCosts
from dmr.engine.memory_operations import Clear, Copy, Operation, Restore, Save, Trim
from dmr.engine.pool import Sharing
from dmr.memory.free_memory import free_memory

HOST_CACHE_SHARE = 8  # saved states may take 1/8 of the memory that is free
LARGEST_HOST_CACHE = 2 << 30  # bytes, as long as nobody wishes for more
# Architectures whose memory has parts of its own, of which nobody has shown yet that copies of them are exact.
NOT_SHARED = ("deepseek4", "glm5-next", "qwen4exp")

logger = logging.getLogger(__name__)


class ModelTraits(Protocol):
    """What of a model decides how its memory can be shared."""

    @property
    def metadata(self) -> dict[str, str]: ...
    @property
    def is_recurrent(self) -> bool: ...
    @property
    def is_hybrid(self) -> bool: ...
    @property
    def sliding_window(self) -> int: ...


def sharing_of(model: ModelTraits) -> Sharing:
    """What of a sequence's memory another can go on from.

    A recurrent state stands at one position only. A sliding window's early cells are given to others as soon as no
    token of the sequence can see them any more, so only the end of a sequence has its window whole.
    """
    if model.metadata.get("general.architecture") in NOT_SHARED:
        return Sharing.NONE
    is_whole = model.is_recurrent or model.is_hybrid or model.sliding_window
    return Sharing.AT_END if is_whole else Sharing.ANYWHERE


def host_cache_size(wished: int, weights: Iterable[str]) -> int:
    """Bytes for saved states; `wished` negative = a modest share of what is free beside the files of weights."""
    if wished >= 0:
        return wished
    free = free_memory(weights)
    return 0 if free is None else min(LARGEST_HOST_CACHE, free.num_bytes // HOST_CACHE_SHARE)


class SlotContext(Protocol):
    """What is needed of a native context; positions are tokens, `end` -1 = to the end."""

    def remove(self, sequence: int, begin: int = 0, end: int = -1) -> bool: ...
    def copy(self, source: int, target: int, begin: int = 0, end: int = -1) -> None: ...
    def position_max(self, sequence: int) -> int: ...
    def save(self, sequence: int) -> bytes: ...
    def restore(self, sequence: int, state: bytes) -> bool: ...


class NativeMemory:
    def __init__(self, context: SlotContext) -> None:
        self._context = context
        self.costs = TransferCosts()

    def perform(self, operations: Iterable[Operation]) -> None:
        """Raises ValueError when the memory cannot do it; what it holds then is unknown.

        A transfer that does not succeed leaves it as it was.
        """
        for operation in operations:
            if isinstance(operation, Copy):
                self._context.copy(operation.source, operation.target, 0, operation.end)
            elif isinstance(operation, Clear):
                self._remove(operation.slot, 0)
            elif isinstance(operation, Trim):
                self._remove(operation.slot, operation.end)
            else:
                self._transfer(operation)

    def _transfer(self, transfer: Save | Restore) -> None:
        began = time.perf_counter()
        transfer.is_done = self._save(transfer) if isinstance(transfer, Save) else self._restore(transfer)
        if transfer.is_done and transfer.saved.state is not None:
            seconds = time.perf_counter() - began
            self.costs.observe_transfer(len(transfer.saved.state), transfer.end - transfer.begin, seconds)

    def _save(self, save: Save) -> bool:
        if self._context.position_max(save.slot) + 1 < save.end:
            return False
        if save.scratch is None:
            save.saved.state = self._saved(save.slot)
        else:
            self._context.copy(save.slot, save.scratch, save.begin, save.end)
            save.saved.state = self._saved(save.scratch)
            self._remove(save.scratch, 0)
        return save.saved.state is not None

    def _saved(self, slot: int) -> bytes | None:
        """None: it cannot be read, or there is no memory for it."""
        try:
            return self._context.save(slot)
        except (RuntimeError, MemoryError) as error:
            logger.warning("the state of slot %d cannot be saved: %s", slot, error)
            return None

    def _restore(self, restore: Restore) -> bool:
        """False: there is no room, or what comes before is not there."""
        if restore.saved.state is None or self._context.position_max(restore.slot) + 1 != restore.begin:
            return False
        target = restore.slot if restore.scratch is None else restore.scratch
        try:
            is_there = self._context.restore(target, restore.saved.state)
        except ValueError as error:  # the bytes are damaged; nothing was changed
            logger.error("a saved state cannot be used: %s", error)
            is_there = False
        if not is_there:
            logger.warning("%d tokens could not be restored; they are computed instead", restore.end - restore.begin)
            return False
        if restore.scratch is not None:
            self._context.copy(restore.scratch, restore.slot, restore.begin, restore.end)
            self._remove(restore.scratch, 0)
        return True

    def _remove(self, slot: int, begin: int) -> None:
        if not self._context.remove(slot, begin):
            raise ValueError(f"the KV memory cannot give up a part of slot {slot}")
