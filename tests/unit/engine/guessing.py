"""Guesses that somebody who knows the answers makes, now and then wrongly; every one of them is verified."""

from __future__ import annotations

import random
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf

from dmr.engine.speculation import Drafts, DraftWish, Speculation
from dmr.engine.speculation_policy import SpeculationPolicy

Continue = Callable[[list[int], int], list[int]]  # what follows some tokens, so many of them or fewer


class Eager(SpeculationPolicy):
    """Takes as many guesses as there are, whatever they cost."""

    def __init__(self) -> None:
        super().__init__(target=1.0)

    def choose(
        self, num_tokens: int, chances: SequenceOf[SequenceOf[float]], seconds_per_round: float = 0.0
    ) -> list[int]:
        return [len(each) for each in chances]


class Guesser:
    def __init__(self, continuation: Continue, wrong: float, seed: int) -> None:
        """`wrong`: how likely each guess is to be another token."""
        self._continuation = continuation
        self._wrong = wrong
        self._dice = random.Random(seed)

    def draft(self, wishes: SequenceOf[DraftWish]) -> Drafts:
        return Drafts({wish.sequence_id: self._guess(wish) for wish in wishes}, num_read=len(wishes))

    def _guess(self, wish: DraftWish) -> list[int]:
        guesses = self._continuation(wish.token_ids, self._dice.randint(0, wish.num_guesses))
        return [token ^ 1 if self._dice.random() < self._wrong else token for token in guesses]


def guessing(continuation: Continue, width: int = 5, wrong: float = 0.2, seed: int = 0) -> Speculation:
    """Up to `width` guesses for each sequence in each step."""
    return Speculation(Eager(), width, Guesser(continuation, wrong, seed), uses_ngrams=False)
