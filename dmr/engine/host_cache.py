"""Saved cells in host memory, within a bound of bytes. What the bytes are is for others to know.

What is saved of a sequence are pieces, each the cells of some consecutive tokens. Sequences that begin alike have their
first pieces in common, and a piece is of use only as long as all before it are there. A memory that can only be shared
at its end is saved as a whole: then a piece begins at the first token and stands alone.
"""

from __future__ import annotations

from typing import NamedTuple

from dmr.engine.memory_operations import Saved
from dmr.engine.prefix_tree import Place, PrefixTree

MAX_HITS = 16  # that count; so what was in demand once is forgotten in the end
LEARNING_RATE = 0.2
BUSY_SHARE = 0.03  # of the time of steps that saving beside them may take
MOST_ALLOWED = 0.05  # seconds that such allowances add up to
WORTH = 0.5  # restoring must take less than this part of the time that computing takes


class TransferCosts:
    """What was measured. 0 = not yet."""

    def __init__(self) -> None:
        self.seconds_per_byte = 0.0  # of a transfer
        self.bytes_per_token = 0.0
        self.last_bytes = 0  # of the last transfer
        self.seconds_per_token = 0.0  # of computing
        self.allowance = MOST_ALLOWED  # seconds that may go into saving while somebody waits for steps

    def observe_transfer(self, num_bytes: int, num_tokens: int, seconds: float) -> None:
        self.last_bytes = num_bytes
        self.seconds_per_byte = _towards(self.seconds_per_byte, seconds / max(1, num_bytes))
        self.bytes_per_token = _towards(self.bytes_per_token, num_bytes / max(1, num_tokens))

    def allow(self, seconds: float) -> None:
        """A step took so long. Where steps are short, saving at each of them would be felt."""
        self.allowance = min(MOST_ALLOWED, self.allowance + BUSY_SHARE * seconds)

    def observe_step(self, num_tokens: int, seconds: float) -> None:
        """Of a step with so many tokens that its cost is theirs."""
        self.seconds_per_token = _towards(self.seconds_per_token, seconds / num_tokens)

    def num_tokens_within(self, seconds: float, least: int, most: int) -> int:
        """How many tokens' cells can be transferred in that time."""
        price = self.seconds_per_byte * self.bytes_per_token
        return least if price == 0.0 else max(least, min(most, int(seconds / price)))

    def is_worth(self, num_bytes: int, num_tokens: int) -> bool:
        """Whether to restore so many bytes rather than to compute so many tokens. What was not measured is worth it."""
        computing = self.seconds_per_token * num_tokens
        return computing == 0.0 or self.seconds_per_byte * num_bytes < WORTH * computing


class Piece(Saved):
    """The cells of the tokens [begin, end)."""

    __slots__ = ("begin", "children", "end", "hits", "last_used", "num_bytes", "parent", "place", "priority")

    def __init__(self, begin: int, end: int, parent: Piece | None) -> None:
        super().__init__()
        self.begin = begin
        self.end = end
        self.parent = parent  # has the tokens before `begin`, with what is above it
        self.children: set[Piece] = set()
        self.place: Place[Piece] | None = None  # None = not there yet, or no longer
        self.num_bytes = 0
        self.hits = 0
        self.priority = 0
        self.last_used = 0


class Part(NamedTuple):
    """Of a piece, the tokens [begin, end)."""

    piece: Piece
    begin: int
    end: int


class HostCache:
    """Invariants: `num_bytes` is the size of all pieces and at most `max_bytes`; a piece's parent is there too."""

    def __init__(self, max_bytes: int, costs: TransferCosts, *, saves_whole: bool = False) -> None:
        self.max_bytes = max_bytes
        self.costs = costs
        self.saves_whole = saves_whole
        self.num_bytes = 0
        self.num_hits = 0  # sequences that got something from here
        self.num_saved_tokens = 0
        self.num_restored_tokens = 0
        self._tree = PrefixTree[Piece]()
        self._pieces: dict[Piece, None] = {}
        self._age = 0  # see Cells
        self._now = 0

    def find(self, token_ids: list[int], limit: int) -> tuple[int, Piece | None]:
        """How many of the first `limit` tokens are saved, and the piece that has the last of them."""
        if self.saves_whole:
            place = self._tree.longest_whole(token_ids, limit)
            return (place.length, place.value) if place is not None else (0, None)
        num_tokens, piece = self._tree.longest_shared(token_ids, limit)
        while piece is not None and piece.begin >= num_tokens:
            piece = piece.parent
        return num_tokens, piece

    def parts(self, piece: Piece, begin: int, end: int) -> list[Part]:
        """What has the tokens [begin, end), if `piece` has the last of them."""
        parts: list[Part] = []
        step: Piece | None = piece
        while step is not None and end > begin:
            parts.append(Part(step, max(begin, step.begin), end))
            end, step = step.begin, step.parent
        return parts[::-1]

    def use(self, piece: Piece | None) -> None:
        """Somebody gets this piece and all above it."""
        self._now += 1
        while piece is not None:
            piece.hits = min(MAX_HITS, piece.hits + 1)
            piece.priority, piece.last_used = self._age + 1 + piece.hits, self._now
            piece = piece.parent

    def reserve(self, begin: int, end: int, parent: Piece | None) -> Piece | None:
        """A piece to be saved now; None = there is no room for it."""
        num_bytes = self.costs.last_bytes if self.saves_whole else int(self.costs.bytes_per_token * (end - begin))
        piece = Piece(begin, end, parent)
        if parent is not None:
            parent.children.add(piece)
        if not self._make_room(num_bytes):
            self.give_up(piece)
            return None
        return piece

    def add(self, piece: Piece, token_ids: list[int]) -> bool:
        """Keep a reserved piece that is saved now. False: it is larger than was thought, so there is no room for it."""
        assert piece.state is not None
        piece.num_bytes = len(piece.state)
        is_orphan = piece.parent is not None and piece.parent.place is None
        if is_orphan or not self._make_room(piece.num_bytes):
            return False
        piece.place = self._tree.insert(token_ids, piece.end, piece)
        self.num_bytes += piece.num_bytes
        self.num_saved_tokens += piece.end - piece.begin
        self._now += 1
        piece.priority, piece.last_used = self._age + 1, self._now
        self._pieces[piece] = None
        return True

    def give_up(self, piece: Piece) -> None:
        """A reserved piece was not saved."""
        piece.state = None
        _unlink(piece)

    def drop(self, piece: Piece) -> None:
        """Forget a piece, and those that need it."""
        for child in list(piece.children):
            self.drop(child)
        if piece.place is None:
            return
        self._tree.remove(piece.place)
        del self._pieces[piece]
        self.num_bytes -= piece.num_bytes
        piece.place = None
        _unlink(piece)  # its bytes go when nobody is about to restore them any more

    def clear(self) -> None:
        while self._pieces:
            self.drop(next(iter(self._pieces)))

    def check_integrity(self) -> None:
        """Raises AssertionError when the counts do not add up."""
        for piece in self._pieces:
            parent = piece.parent
            assert parent is None or parent in self._pieces, "a piece without those before it"
            assert parent is None or parent.begin < piece.begin <= parent.end, "a gap between two pieces"
            assert parent is None or piece in parent.children, "a child that its parent does not know"
        self._tree.check_integrity([piece.place for piece in self._pieces if piece.place is not None])
        assert self.num_bytes == sum(piece.num_bytes for piece in self._pieces), "bytes are miscounted"
        assert self.num_bytes <= self.max_bytes, "more bytes than may be"

    def _make_room(self, num_bytes: int) -> bool:
        """Let go what is worth least; False = that does not help."""
        if num_bytes > self.max_bytes:
            return False
        while self.num_bytes + num_bytes > self.max_bytes:
            leaves = [piece for piece in self._pieces if not piece.children]
            if not leaves:
                return False
            oldest = min(leaves, key=lambda piece: (piece.priority, piece.last_used))
            self._age = max(self._age, oldest.priority)
            self.drop(oldest)
        return True


def _unlink(piece: Piece) -> None:
    if piece.parent is not None:
        piece.parent.children.discard(piece)


def _towards(known: float, measured: float) -> float:
    return measured if known == 0.0 else (1 - LEARNING_RATE) * known + LEARNING_RATE * measured
