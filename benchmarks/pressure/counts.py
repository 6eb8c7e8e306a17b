"""The account of a load: how its requests ended, and how long the accepted ones took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from dmr.bench.figures import percentile

from .answers import ACCEPTED, FAILED, REFUSED, judge
from .client import Exchange

Figures = dict[str, float]


class Account:
    """`num_tokens`: that each answer must have."""

    def __init__(self, num_tokens: int) -> None:
        self._num_tokens = num_tokens
        self._ends: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.seconds: list[float] = []  # of the accepted ones
        self._answered_at: list[float] = []

    def add(self, exchange: Exchange) -> str:
        """How it ended."""
        end = judge(exchange, self._num_tokens)
        self._ends[end.how] += 1
        if end.how == ACCEPTED:
            self.seconds.append(exchange.seconds)
            self._answered_at.append(exchange.ended)
        else:
            self.reasons[f"{end.how}: {end.reason}"] += 1
        return end.how

    def num_until(self, end: float) -> int:
        """Accepted ones that had their answer by then."""
        return sum(1 for each in self._answered_at if each <= end)

    def num_tokens_until(self, end: float) -> int:
        return self._num_tokens * self.num_until(end)

    def figures(self) -> Figures:
        told: Figures = {how: self._ends[how] for how in (ACCEPTED, REFUSED, FAILED)}
        return {**told, **latency(self.seconds)}


def latency(seconds: Sequence[float]) -> Figures:
    """Nothing of nothing."""
    p50, p99 = percentile(seconds, 50), percentile(seconds, 99)
    if p50 is None or p99 is None:
        return {}
    return {"p50": p50, "p99": p99, "longest": max(seconds), "p99/p50": p99 / p50}
