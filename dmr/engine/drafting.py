"""Guesses at what comes next: what stood after the last few tokens where they stood before (prompt lookup).

Bookkeeping only. Texts that quote, translate, correct or go on with what is in the prompt are guessed well by this, and
it costs next to nothing.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple

LONGEST_MATCH = 4  # tokens; whoever shares so many is not compared any further
MAX_LOOKED_AT = 8  # earlier places of the last two tokens, latest first
NOWHERE = -1


class Draft(NamedTuple):
    token_ids: list[int]
    num_matching: int  # of the tokens before it, those that are the same where it was found: 2 .. `LONGEST_MATCH`


NO_DRAFT = Draft([], 0)


class NgramDrafter:
    """Follows one sequence. Each of its tokens is looked at once."""

    def __init__(self, token_ids: list[int]) -> None:
        """`token_ids`: the sequence's own list, which grows."""
        self._token_ids = token_ids
        self._num_read = 0
        self._latest: dict[int, int] = {}  # where two tokens last stood together: the place of the second
        self._earlier = array("i")  # by place: where the two tokens that end there stood before

    def is_of(self, token_ids: list[int]) -> bool:
        """Whether this is still the sequence's list; one that has dropped tokens has got another."""
        return token_ids is self._token_ids

    def read(self, limit: int) -> bool:
        """Take note of what the sequence has got more, `limit` tokens at most. False: there is more to read."""
        token_ids, latest, earlier = self._token_ids, self._latest, self._earlier
        begin, end = self._num_read, min(len(token_ids), self._num_read + limit)
        if begin == 0 and end > 0:
            earlier.append(NOWHERE)
            begin = 1
        for place in range(begin, end):
            pair = token_ids[place - 1] << 32 | token_ids[place]
            earlier.append(latest.get(pair, NOWHERE))
            latest[pair] = place
        self._num_read = end
        return end == len(token_ids)

    def draft(self, limit: int) -> Draft:
        """What may follow what was read, `limit` tokens at most."""
        token_ids, last = self._token_ids, self._num_read - 1
        if limit < 1 or last < 1:
            return NO_DRAFT
        best, num_matching = NOWHERE, 0
        place = self._earlier[last]
        for _ in range(MAX_LOOKED_AT):
            if place == NOWHERE or num_matching == LONGEST_MATCH:
                break
            length = self._length_of_match(place, last)
            if length > num_matching:
                best, num_matching = place, length
            place = self._earlier[place]
        if best == NOWHERE:
            return NO_DRAFT
        draft = token_ids[best + 1 : min(best + 1 + limit, last + 1)]
        period = last - best
        while len(draft) < limit:  # what repeats itself goes on doing so
            draft.append(draft[len(draft) - period])
        return Draft(draft, num_matching)

    def _length_of_match(self, place: int, last: int) -> int:
        """How many tokens up to `place` are those up to `last`; two are known to be."""
        token_ids, length = self._token_ids, 2
        while length < LONGEST_MATCH and length <= place and token_ids[place - length] == token_ids[last - length]:
            length += 1
        return length
