"""Prompts of an exact number of tokens that have nothing in common but what is asked for."""

from __future__ import annotations

import random
import string
from collections.abc import Iterable

from dmr.errors import InvalidRequest

_NUM_WORDS = 3000


def sample_text() -> str:
    """Made-up words, always the same: what they are tokenized to are ordinary tokens, whatever the vocabulary."""
    choose = random.Random(0)
    words = ("".join(choose.choices(string.ascii_lowercase, k=choose.randint(2, 8))) for _ in range(_NUM_WORDS))
    return " ".join(words)


class PromptMaker:
    """The same arguments give the same prompts in the same order."""

    def __init__(self, token_ids: Iterable[int], seed: int, num_tokens: int, num_shared_tokens: int = 0) -> None:
        """`token_ids`: of any text; prompts are made of them.

        Raises:
            InvalidRequest: fewer than two different tokens.
        """
        self._pool = sorted(set(token_ids))
        if len(self._pool) < 2:
            raise InvalidRequest("This model's vocabulary has too few tokens to make prompts of.")
        self._random = random.Random(seed)
        self._num_own_tokens = num_tokens - num_shared_tokens
        self._num_shared_tokens = num_shared_tokens
        self._prefix: list[int] = []
        self.change_prefix()

    def change_prefix(self) -> None:
        """Prompts from here on share another beginning than those before."""
        self._prefix = self._random.choices(self._pool, k=self._num_shared_tokens)

    def make(self) -> list[int]:
        return [*self._prefix, *self._random.choices(self._pool, k=self._num_own_tokens)]
