"""Where pictures and sounds stand in a sequence. Bookkeeping only.

Each place of a picture is a token of the sequence: a negative number made of what the picture is, so that prompts with
the same picture share its cells as they share text. Under M-RoPE a piece moves positions on by less than it has places,
and a part of its cells cannot be told from the rest; the number says by how much less, so that whoever knows the tokens
knows the positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

PLACE_BITS = 24  # of each of the two numbers beside a piece's name
_PLACE = (1 << PLACE_BITS) - 1


class MediaSpan(NamedTuple):
    """Places [start, start + num_places) of a sequence that take the vectors of one piece."""

    start: int
    num_places: int
    num_positions: int  # by which what follows moves on; less than `num_places` under M-RoPE
    is_divisible: bool  # else all places are computed in one go, and see each other
    piece: Any  # the native one
    vectors: Any = None  # the native ones, once they are there

    @property
    def end(self) -> int:
        return self.start + self.num_places


class MediaSpans:
    """Those of one sequence, in order. They do not change."""

    def __init__(self, spans: Sequence[MediaSpan]) -> None:
        self._spans = tuple(spans)
        # Else a cell's position is not its place in the sequence.
        self.keeps_positions = all(span.num_places == span.num_positions for span in spans)

    def __iter__(self) -> Iterator[MediaSpan]:
        return iter(self._spans)

    def at(self, place: int) -> MediaSpan | None:
        """The span that has this place; None = a token of text is there."""
        return next((span for span in self._spans if span.start <= place < span.end), None)

    def position_of(self, place: int) -> int:
        """The position of a token of text, or of the first place of a span."""
        return place - sum(span.num_places - span.num_positions for span in self._spans if span.end <= place)

    def chunk_from(self, place: int, limit: int, least: int = 0) -> int:
        """How many of the next `limit` tokens may be computed in one go: text and pictures are not in the same one.

        More than `limit` where a piece cannot be divided, and up to `least` places where it can.
        """
        span = self.at(place)
        if span is None:
            following = next((span.start for span in self._spans if span.start > place), place + limit)
            return min(limit, following - place)
        return min(max(limit, least), span.end - place) if span.is_divisible else span.num_places

    def snapped(self, num_tokens: int) -> int:
        """Of so many tokens that are there already, those with which can be begun: no part of what is indivisible."""
        span = self.at(num_tokens)
        if span is None or (span.is_divisible and span.num_places == span.num_positions):
            return num_tokens
        return span.start


def place_ids(name: int, num_places: int, num_positions: int) -> list[int]:
    """The tokens of a piece. `name`: a number that no other piece has."""
    first = (name << PLACE_BITS | (num_places - num_positions)) << PLACE_BITS
    return [-(first | place) - 1 for place in range(num_places)]


def position_behind(token_ids: Sequence[int], num_tokens: int) -> int:
    """The position of what follows the first `num_tokens`, which end with no part of a piece (see `whole_pieces`)."""
    firsts = (-token - 1 for token in islice(token_ids, num_tokens) if token < 0 and not (-token - 1) & _PLACE)
    return num_tokens - sum(number >> PLACE_BITS & _PLACE for number in firsts)


def whole_pieces(token_ids: Sequence[int], num_tokens: int) -> int:
    """The most of the first `num_tokens` that end with no part of a piece which has fewer positions than places."""
    if num_tokens >= len(token_ids) or token_ids[num_tokens] >= 0:
        return num_tokens
    number = -token_ids[num_tokens] - 1
    return num_tokens - (number & _PLACE) if number >> PLACE_BITS & _PLACE else num_tokens
