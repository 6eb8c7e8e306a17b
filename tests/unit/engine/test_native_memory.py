"""What is asked of a native context, and what becomes of a transfer that does not succeed."""

from __future__ import annotations

from typing import Any

import pytest

from dmr.engine.memory_operations import Clear, Copy, Restore, Save, Saved, Trim
from dmr.engine.native_memory import NativeMemory, host_cache_size, sharing_of
from dmr.engine.pool import Sharing
from dmr.memory.free_memory import Free


class FakeContext:
    """Slots with a number of positions. `fails` names the call that does not succeed, and how."""

    def __init__(self, **lengths: int) -> None:
        self.lengths = {int(slot[1:]): length for slot, length in lengths.items()}
        self.calls: list[tuple[Any, ...]] = []
        self.fails: dict[str, Exception | bool] = {}

    def remove(self, sequence: int, begin: int = 0, end: int = -1) -> bool:
        self.calls.append(("remove", sequence, begin))
        self.lengths[sequence] = begin
        return not self.fails.get("remove")

    def copy(self, source: int, target: int, begin: int = 0, end: int = -1) -> None:
        self.calls.append(("copy", source, target, begin, end))
        self.lengths[target] = end

    def position_max(self, sequence: int) -> int:
        return self.lengths.get(sequence, 0) - 1

    def save(self, sequence: int) -> bytes:
        self.calls.append(("save", sequence))
        self._fail("save")
        return b"state"

    def restore(self, sequence: int, state: bytes) -> bool:
        self.calls.append(("restore", sequence, state))
        self._fail("restore")
        return not self.fails.get("restore")

    def _fail(self, call: str) -> None:
        failure = self.fails.get(call)
        if isinstance(failure, Exception):
            raise failure


def saved(state: bytes | None = b"state") -> Saved:
    one = Saved()
    one.state = state
    return one


def test_operations_are_done_in_order() -> None:
    context = FakeContext()
    NativeMemory(context).perform([Copy(1, 2, 30), Trim(1, 10), Clear(1)])
    assert context.calls == [("copy", 1, 2, 0, 30), ("remove", 1, 10), ("remove", 1, 0)]


def test_a_memory_that_cannot_give_up_a_part_is_noticed() -> None:
    context = FakeContext()
    context.fails["remove"] = True
    with pytest.raises(ValueError, match="slot 1"):
        NativeMemory(context).perform([Trim(1, 10)])


def test_a_part_goes_through_a_slot_that_is_empty_afterwards() -> None:
    context = FakeContext(s1=100)
    memory = NativeMemory(context)
    save = Save(1, 20, 50, Saved(), scratch=9)
    memory.perform([save])
    assert context.calls == [("copy", 1, 9, 20, 50), ("save", 9), ("remove", 9, 0)]
    assert (save.is_done, save.saved.state) == (True, b"state")
    context.calls.clear()
    restore = Restore(2, 20, 40, save.saved, scratch=9)
    context.lengths[2] = 20
    memory.perform([restore])
    assert context.calls == [("restore", 9, b"state"), ("copy", 9, 2, 20, 40), ("remove", 9, 0)]
    assert restore.is_done
    assert memory.costs.last_bytes == 5


def test_a_whole_needs_no_other_slot() -> None:
    context = FakeContext(s1=100)
    memory = NativeMemory(context)
    transfers = [Save(1, 0, 100, Saved(), None), Restore(2, 0, 100, saved(), None)]
    memory.perform(transfers)
    assert context.calls == [("save", 1), ("restore", 2, b"state")]
    assert all(transfer.is_done for transfer in transfers)


@pytest.mark.parametrize("failure", [MemoryError("no memory"), RuntimeError("the state could not be read")])
def test_what_cannot_be_saved_does_no_harm(failure: Exception) -> None:
    context = FakeContext(s1=100)
    context.fails["save"] = failure
    save = Save(1, 20, 50, Saved(), scratch=9)
    NativeMemory(context).perform([save])
    assert (save.is_done, save.saved.state) == (False, None)
    assert context.calls[-1] == ("remove", 9, 0)


@pytest.mark.parametrize("failure", [True, ValueError("the state is damaged")])
def test_what_cannot_be_restored_does_no_harm(failure: Exception | bool) -> None:
    context = FakeContext()
    context.fails["restore"] = failure
    memory = NativeMemory(context)
    restore = Restore(2, 0, 40, saved(), scratch=9)
    memory.perform([restore])
    assert not restore.is_done
    assert all(call[0] != "copy" for call in context.calls)
    assert memory.costs.seconds_per_byte == 0.0


def test_after_a_gap_nothing_is_restored() -> None:
    context = FakeContext(s2=10)
    transfers = [Restore(2, 20, 40, saved(), 9), Restore(2, 10, 40, saved(None), 9), Save(2, 0, 30, Saved(), 9)]
    NativeMemory(context).perform(transfers)
    assert not any(transfer.is_done for transfer in transfers)
    assert context.calls == []


class Traits:
    def __init__(
        self, architecture: str = "llama", *, state: bool = False, hybrid: bool = False, window: int = 0
    ) -> None:
        self.metadata = {"general.architecture": architecture}
        self.is_recurrent = state
        self.is_hybrid = hybrid
        self.sliding_window = window


@pytest.mark.parametrize(
    ("traits", "expected"),
    [
        (Traits(), Sharing.ANYWHERE),
        (Traits(state=True), Sharing.AT_END),
        (Traits(hybrid=True), Sharing.AT_END),
        (Traits(window=512), Sharing.AT_END),
        (Traits("deepseek4", hybrid=True), Sharing.NONE),
    ],
)
def test_what_is_shared_depends_on_the_memory(traits: Traits, expected: Sharing) -> None:
    assert sharing_of(traits) is expected


def test_saved_states_take_a_modest_share_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    assert host_cache_size(12345, ()) == 12345
    assert host_cache_size(0, ()) == 0
    for free, expected in [(Free(8 << 30, "it"), 1 << 30), (Free(1 << 40, "it"), 2 << 30), (None, 0)]:
        monkeypatch.setattr("dmr.engine.native_memory.free_memory", lambda weights, free=free: free)
        assert host_cache_size(-1, ()) == expected
