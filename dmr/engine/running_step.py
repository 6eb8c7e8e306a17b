"""What is known of the running step: how large it is, and how much of it nobody wants any more."""

from __future__ import annotations

from typing import NamedTuple

from dmr.engine.scheduler import Chunk
from dmr.engine.sequence import Sequence

LEAST_WORTH_INTERRUPTING = 64  # tokens that nobody wants any more; what a step has for others is computed again


class StepSize(NamedTuple):
    num_tokens: int  # that are certain
    num_generating: int  # sequences
    num_guesses: int


def size_of(chunks: list[Chunk]) -> StepSize:
    num_tokens = num_generating = num_guesses = 0
    for _, _, num_chunk_tokens, _, draft in chunks:
        num_tokens += num_chunk_tokens
        if num_chunk_tokens == 1:
            num_generating += 1
        if draft:
            num_guesses += len(draft)
    return StepSize(num_tokens, num_generating, num_guesses)


class Unwanted:
    """How much of the running step is for sequences that have been aborted since it began."""

    def __init__(self, chunks: list[Chunk]) -> None:
        self._chunks = chunks
        self._sizes: dict[Sequence, int] | None = None  # made when it is first needed, which is seldom
        self._num_wanted = 0
        self._num_unwanted = 0

    def add(self, sequences: list[Sequence]) -> bool:
        """True: the step is worth interrupting now."""
        if self._sizes is None:
            self._sizes = {chunk.sequence: chunk.num_tokens for chunk in self._chunks}
            self._num_wanted = sum(self._sizes.values())
        num_tokens = sum([self._sizes.pop(sequence, 0) for sequence in sequences])
        self._num_wanted -= num_tokens
        self._num_unwanted += num_tokens
        is_most = self._num_unwanted >= max(LEAST_WORTH_INTERRUPTING, self._num_wanted)
        return num_tokens > 0 and is_most


NOTHING = Unwanted([])
