"""What the bookkeeping of KV memory asks of the native memory. It is done in the order in which it is asked for."""

from __future__ import annotations

from typing import NamedTuple, Union


class Clear(NamedTuple):
    """Take all cells from a slot."""

    slot: int


class Trim(NamedTuple):
    """Leave a slot its cells before the position `end`."""

    slot: int
    end: int


class Copy(NamedTuple):
    """Let `target`, which is empty, share the cells of `source` before the position `end`."""

    source: int
    target: int
    end: int


class Saved:
    """The state of some cells as bytes in host memory."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: bytes | None = None  # None = not saved yet, or it was not possible


class Transfer:
    """Between the native memory and the host's. Who does it writes down how it went; nothing = it did not happen."""

    __slots__ = ("begin", "end", "is_done", "saved", "scratch", "slot")

    def __init__(self, slot: int, begin: int, end: int, saved: Saved, scratch: int | None) -> None:
        """`scratch`: an empty slot that is empty afterwards; None = all of the slot, in one piece."""
        self.slot = slot
        self.begin = begin
        self.end = end
        self.saved = saved
        self.scratch = scratch
        self.is_done = False


class Save(Transfer):
    """Save the cells of the tokens [begin, end) of a slot; it keeps them."""

    __slots__ = ()


class Restore(Transfer):
    """Give a slot, which holds the tokens before `begin`, the cells of [begin, end) out of what was saved.

    What was saved may hold others around them.
    """

    __slots__ = ()


Operation = Union[Clear, Trim, Copy, Save, Restore]
