"""Where pictures and sounds stand in a sequence. Bookkeeping only.

Each place of a picture is a token of the sequence: a negative number made of what the picture is, so that prompts with
the same picture share its cells as they share text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


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
        # Else a cell's position is not its place in the sequence, which all that shares cells relies on.
        self.keeps_positions = all(span.num_places == span.num_positions for span in spans)

    def __iter__(self) -> Any:
        return iter(self._spans)

    @property
    def first(self) -> int:
        return self._spans[0].start

    def at(self, place: int) -> MediaSpan | None:
        """The span that has this place; None = a token of text is there."""
        return next((span for span in self._spans if span.start <= place < span.end), None)

    def position_of(self, place: int) -> int:
        """The position of a token of text, or of the first place of a span."""
        return place - sum(span.num_places - span.num_positions for span in self._spans if span.end <= place)

    def chunk_from(self, place: int, limit: int) -> int:
        """How many of the next `limit` tokens may be computed in one go: text and pictures are not in the same one.

        More than `limit` where a piece cannot be divided.
        """
        span = self.at(place)
        if span is None:
            following = next((span.start for span in self._spans if span.start > place), place + limit)
            return min(limit, following - place)
        return min(limit, span.end - place) if span.is_divisible else span.num_places

    def snapped(self, num_tokens: int) -> int:
        """Of so many tokens that are there already, those with which can be begun: no part of what is indivisible."""
        span = self.at(num_tokens)
        return span.start if span is not None and not span.is_divisible else num_tokens
