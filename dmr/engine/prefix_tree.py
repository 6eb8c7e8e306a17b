"""Who has which tokens in front: a radix tree. What it costs to ask depends on the prompt, not on how many are in it.

The edges refer to the lists of those that are in the tree instead of copying them. So these lists may grow, but what is
in the tree of them must not change. A token can be any hashable number, known to the vocabulary or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Node(Generic[Value]):
    """An edge and where it leads: the tokens from `start` to `end` of everyone that passes through here."""

    __slots__ = ("children", "end", "parent", "places", "start", "token_ids")

    def __init__(self, token_ids: list[int], start: int, end: int, parent: Node[Value] | None) -> None:
        self.token_ids = token_ids  # of anyone that passes; those before `start` are the same too
        self.start = start
        self.end = end
        self.parent = parent
        self.children: dict[int, Node[Value]] = {}  # by their first token
        self.places: dict[Place[Value], None] = {}  # that end on this edge, anywhere after `start`; kept in order


class Place(Generic[Value]):
    """One that is in the tree, with the first `length` of its tokens."""

    __slots__ = ("length", "node", "token_ids", "value")

    def __init__(self, node: Node[Value], token_ids: list[int], value: Value) -> None:
        self.node = node
        self.token_ids = token_ids
        self.length = 0
        self.value = value


class PrefixTree(Generic[Value]):
    """Invariants: a place ends on its node's edge, or at the root with no tokens; each leaf's edge ends where a place
    does; a node without places has at least two children.
    """

    def __init__(self) -> None:
        self._root: Node[Value] = Node([], 0, 0, None)

    def insert(self, token_ids: list[int], length: int, value: Value) -> Place[Value]:
        place = Place(self._root, token_ids, value)
        self._root.places[place] = None
        self.extend(place, length)
        return place

    def extend(self, place: Place[Value], length: int) -> None:
        """Let the place have more of its tokens, `length` in all. Alone at its end, it takes no time."""
        node, tokens, at = place.node, place.token_ids, place.length
        if at == node.end and not node.children and node.parent is not None:
            node.token_ids, node.end, place.length = tokens, length, length
            return
        left = node
        del left.places[place]
        while at < length:
            if at == node.end:
                if not node.children and node.parent is not None:
                    node.token_ids, node.end = tokens, length
                    break
                if tokens[at] not in node.children:
                    node.children[tokens[at]] = node = Node(tokens, at, length, node)
                    break
                node = node.children[tokens[at]]
            stop = min(node.end, length)
            same = num_same(tokens, node.token_ids, at, stop)
            if same < stop:
                node = self._split(node, same)
            at = same
        node.places[place] = None
        place.node, place.length = node, length
        if left is not node:
            self._prune(left)

    def shorten(self, place: Place[Value], length: int) -> None:
        """Let the place have less of its tokens, `length` in all."""
        node = place.node
        del node.places[place]
        while node.start >= length and node.parent is not None:
            node = node.parent
        node.places[place] = None
        left, place.node, place.length = place.node, node, length
        self._prune(left)

    def remove(self, place: Place[Value]) -> None:
        del place.node.places[place]
        self._prune(place.node)

    def longest_shared(self, token_ids: list[int], limit: int) -> tuple[int, Value | None]:
        """How many of the first `limit` tokens somebody has too, and one that has them."""
        node, length = self._walk(token_ids, limit)
        return length, self._somebody_at(node, length) if length else None

    def longest_whole(self, token_ids: list[int], limit: int) -> Place[Value] | None:
        """The longest place that has nothing but the beginning of the first `limit` tokens."""
        node, length = self._walk(token_ids, limit)
        for place in self._up_from(node, length):
            return place
        return None

    def beginnings_of(self, place: Place[Value]) -> list[Place[Value]]:
        """The other places that have nothing but the beginning of this one's tokens, or the same."""
        return [other for other in self._up_from(place.node, place.length) if other is not place]

    def check_integrity(self, places: list[Place[Value]]) -> None:
        """Raises AssertionError when the tree is not one of exactly these places."""
        found: list[Place[Value]] = []
        nodes = [self._root]
        while nodes:
            node = nodes.pop()
            found += node.places
            nodes += node.children.values()
            assert all(place.node is node for place in node.places), "a place is lost"
            if node.parent is None:
                assert all(place.length == 0 for place in node.places), "a place with tokens at the root"
                continue
            assert node.start == node.parent.end < node.end, "an edge without tokens"
            assert node.parent.children[node.token_ids[node.start]] is node, "a child by a wrong token"
            assert all(node.start < place.length <= node.end for place in node.places), "a place beside its edge"
            others = [place for place in node.places if place.token_ids is not node.token_ids]
            assert all(
                place.token_ids[node.start : place.length] == node.token_ids[node.start : place.length]
                for place in others
            ), "a place on a foreign edge"
            if not node.children:
                assert node.end == max(place.length for place in node.places), "a leaf that nobody has"
            assert node.places or len(node.children) != 1, "two edges that should be one"
        assert {id(place) for place in found} == {id(place) for place in places}, "places are lost or left over"

    def _walk(self, token_ids: list[int], limit: int) -> tuple[Node[Value], int]:
        """The node on whose edge the tokens leave the tree, and how many of them are in it."""
        node, length = self._root, 0
        while length < limit and length == node.end:
            child = node.children.get(token_ids[length])
            if child is None:
                break
            node = child
            length = num_same(token_ids, node.token_ids, length, min(node.end, limit))
        return node, length

    def _somebody_at(self, node: Node[Value], length: int) -> Value:
        """One that passes through the node and has at least `length` tokens."""
        while True:
            for place in node.places:
                if place.length >= length:
                    return place.value
            node = next(iter(node.children.values()))

    def _up_from(self, node: Node[Value], length: int) -> Iterator[Place[Value]]:
        """The places on the way to the first `length` tokens, the longest first."""
        step: Node[Value] | None = node
        while step is not None:
            reached = [place for place in step.places if place.length <= length]
            yield from sorted(reached, key=lambda place: -place.length)
            step = step.parent

    def _split(self, node: Node[Value], at: int) -> Node[Value]:
        """Cut an edge in two; the upper one."""
        assert node.parent is not None
        upper = Node(node.token_ids, node.start, at, node.parent)
        node.parent.children[node.token_ids[node.start]] = upper
        upper.children[node.token_ids[at]] = node
        node.start, node.parent = at, upper
        for place in [place for place in node.places if place.length <= at]:
            del node.places[place]
            upper.places[place] = None
            place.node = upper
        self._prune(node)  # what is left of it may be nothing but the way to a single child
        return upper

    def _prune(self, node: Node[Value]) -> None:
        """Take away what nobody has any more, from this node upwards."""
        while node.parent is not None and not node.children and not node.places:
            del node.parent.children[node.token_ids[node.start]]
            node = node.parent
        if node.parent is None:
            return
        if not node.children:
            node.end = max(place.length for place in node.places)
        elif not node.places and len(node.children) == 1:
            (child,) = node.children.values()
            child.start, child.parent = node.start, node.parent
            node.parent.children[node.token_ids[node.start]] = child


def num_same(one: list[int], other: list[int], start: int, stop: int) -> int:
    """Where the two lists part, from `start` on, but not after `stop`."""
    if one[start:stop] == other[start:stop]:
        return stop
    low, high = start, stop  # up to `low` they are the same, up to `high` they are not
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low
