"""How many tokens of context a model's engine can have: by its training, by default, and by what was found out."""

from __future__ import annotations

import contextlib

from dmr.config import DEFAULT_CONTEXT_LIMIT
from dmr.types import ModelRecord

TRY_AGAIN = 600.0  # seconds until a size that failed may work: other models may have left the memory


class ContextLimit:
    """What engines of one model have shown so far. Sizes are tokens, times any clock's seconds."""

    def __init__(self) -> None:
        self._worked = 0  # the largest; 0 = none that was asked for
        self._failed = 0  # the smallest; 0 = none
        self._failed_at = 0.0
        self._fitting = 0  # what fits, as an engine has told that could not have what was asked; 0 = nobody has

    def works(self, num_tokens: int) -> None:
        self._worked = max(self._worked, num_tokens)

    def fails(self, num_tokens: int, now: float, fitting: int = 0) -> None:
        """`fitting`: the most that would have worked, if that is known."""
        self._failed = min(self._failed or num_tokens, num_tokens)
        self._failed_at = now
        self._fitting = fitting if fitting < self._failed else 0
        if self._worked >= self._failed:
            self._worked = 0

    def attainable(self, wanted: int, now: float) -> int | None:
        """The wish; or, if it is known to be too much, the most that worked or fits: None if that is the default."""
        if self._failed and now - self._failed_at >= TRY_AGAIN:
            self._failed = self._fitting = 0
        if self._failed and wanted >= self._failed:
            return max(self._worked, self._fitting) or None
        return wanted


def possible_context(record: ModelRecord, context_size: int) -> int:
    """What can be had of a wished context: no more than the model was trained for."""
    trained = trained_context(record)
    return max(1, context_size if trained is None else min(context_size, trained))


def default_context(record: ModelRecord) -> int:
    """What an engine chooses that was not told."""
    return min(trained_context(record) or DEFAULT_CONTEXT_LIMIT, DEFAULT_CONTEXT_LIMIT)


def trained_context(record: ModelRecord) -> int | None:
    """Tokens; None if nobody knows."""
    if record.config.context_size is not None:
        return record.config.context_size
    with contextlib.suppress(ValueError):
        return int(record.config.gguf.get(f"{record.config.architecture}.context_length", "")) or None
    return None
