"""The sampler's stages in numpy, written from the papers and parameters: what llama.cpp must choose, draw for draw.

A draw takes one uniform number of a Mersenne twister that the seed starts, and inverts the cumulative distribution in
the order the candidates have at that point (by token until something sorts them, then likeliest first).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


class Candidates(NamedTuple):
    tokens: npt.NDArray[np.int64]
    logits: Floats

    def pick(self, chosen: npt.NDArray[np.int64] | npt.NDArray[np.bool_] | slice) -> Candidates:
        return Candidates(self.tokens[chosen], self.logits[chosen])

    def with_logits(self, logits: Floats) -> Candidates:
        return Candidates(self.tokens, np.asarray(logits, np.float32))

    @property
    def probabilities(self) -> npt.NDArray[np.float64]:
        weights = np.exp(self.logits.astype(np.float64) - float(self.logits.max()))
        return np.asarray(weights / weights.sum())

    def likeliest_first(self) -> Candidates:
        return self.pick(np.argsort(-self.logits, kind="stable"))


Stage = Callable[[Candidates], Candidates]


class Uniform:
    """The uniform numbers of libstdc++ over std::mt19937."""

    def __init__(self, seed: int) -> None:
        self._words = np.random.RandomState(seed)

    def __call__(self) -> float:
        low, high = (int(word) for word in self._words.randint(0, 1 << 32, 2, dtype=np.uint32))
        return (low + (high << 32)) / 2**64


def draw(candidates: Candidates, uniform: Uniform) -> int:
    target = uniform()
    place = np.searchsorted(np.cumsum(candidates.probabilities), target)
    return int(candidates.tokens[min(int(place), len(candidates.tokens) - 1)])


def choose(logits: Floats, seed: int, *stages: Stage) -> int:
    """One token, as the chain of stages and a draw choose it."""
    candidates = Candidates(np.arange(len(logits)), logits)
    for stage in stages:
        candidates = stage(candidates)
    return draw(candidates, Uniform(seed))


# --- stages ----------------------------------------------------------------------------------------------------------


def top_k(k: int) -> Stage:
    return lambda c: c.likeliest_first().pick(slice(k))


def top_p(p: float, min_keep: int = 0) -> Stage:
    def stage(c: Candidates) -> Candidates:
        c = c.likeliest_first()
        enough = int(np.searchsorted(np.cumsum(c.probabilities), p)) + 1
        return c.pick(slice(max(enough, min_keep)))

    return stage


def min_p(p: float) -> Stage:
    return lambda c: c.pick(c.probabilities >= p * c.probabilities.max())


def typical(p: float) -> Stage:
    """Locally typical sampling: the tokens whose surprise is nearest the entropy."""

    def stage(c: Candidates) -> Candidates:
        c = c.likeliest_first()
        surprise = -np.log(c.probabilities)
        order = np.argsort(np.abs(surprise - np.sum(c.probabilities * surprise)), kind="stable")
        enough = int(np.searchsorted(np.cumsum(c.probabilities[order]), p, side="right")) + 1
        return c.pick(order[:enough])

    return stage


def top_n_sigma(n: float) -> Stage:
    return lambda c: c.with_logits(np.where(c.logits < c.logits.max() - n * c.logits.std(), -np.inf, c.logits))


def exclude_top_choices(threshold: float) -> Stage:
    """XTC with probability 1: of the tokens at or over the threshold, only the least likely stays."""

    def stage(c: Candidates) -> Candidates:
        c = c.likeliest_first()
        over = int(np.sum(c.probabilities >= threshold))
        return c.pick(slice(max(over - 1, 0), None))

    return stage


def temperature(value: float, spread: float = 0.0, exponent: float = 1.0) -> Stage:
    """With a spread, the temperature depends on how near the entropy is to its maximum."""

    def stage(c: Candidates) -> Candidates:
        if spread <= 0:
            return c.with_logits(c.logits / np.float32(value))
        c = c.likeliest_first()
        p = c.probabilities
        disorder = -np.sum(p * np.log(p)) / np.log(len(p))
        low = max(0.0, value - spread)
        return c.with_logits(c.logits / np.float32(low + (value + spread - low) * disorder**exponent))

    return stage


def bias(values: dict[int, float]) -> Stage:
    return lambda c: c.with_logits(c.logits + np.array([values.get(int(t), 0.0) for t in c.tokens], np.float32))


def penalties(seen: Sequence[int], repeat: float = 1.0, frequency: float = 0.0, presence: float = 0.0) -> Stage:
    def stage(c: Candidates) -> Candidates:
        counts = Counter(seen)
        logits = c.logits.astype(np.float64)
        for i, token in enumerate(c.tokens):
            if count := counts[int(token)]:
                logits[i] = logits[i] * repeat if logits[i] <= 0 else logits[i] / repeat
                logits[i] -= count * frequency + presence
        return c.with_logits(logits.astype(np.float32))

    return stage


def dry(seen: Sequence[int], multiplier: float, base: float, allowed: int, breakers: frozenset[int]) -> Stage:
    """Don't repeat yourself: each token that would go on with a repetition pays for the length of it."""

    def repeated(end: int) -> int:
        length = 0
        while length < end and seen[end - 1 - length] == seen[len(seen) - 1 - length]:
            if seen[len(seen) - 1 - length] in breakers:
                break
            length += 1
        return length

    def stage(c: Candidates) -> Candidates:
        longest: dict[int, int] = {}
        for end in range(1, len(seen)):
            longest[seen[end]] = max(longest.get(seen[end], 0), repeated(end))
        logits = c.logits.copy()
        for i, token in enumerate(c.tokens):
            length = longest.get(int(token), 0)
            if length >= allowed and length > 0 and int(token) not in breakers:
                logits[i] -= multiplier * base ** (length - allowed)
        return c.with_logits(logits)

    return stage


# --- the ones that draw by themselves --------------------------------------------------------------------------------


class Mirostat:
    """Mirostat 2: truncate at a surprise that follows what was drawn, so that the mean surprise is `tau` bits."""

    def __init__(self, seed: int, tau: float, eta: float) -> None:
        self._uniform = Uniform(seed)
        self._tau, self._eta, self._limit = tau, eta, 2 * tau

    def _truncate(self, c: Candidates) -> Candidates:
        return c.pick(slice(max(1, int(np.sum(-np.log2(c.probabilities) <= self._limit)))))

    def __call__(self, logits: Floats) -> int:
        c = Candidates(np.arange(len(logits)), logits).likeliest_first()
        kept = self._truncate(c)
        token = draw(kept, self._uniform) if len(kept.tokens) > 1 else int(kept.tokens[0])
        surprise = -np.log2(kept.probabilities[list(kept.tokens).index(token)])
        self._limit -= self._eta * (surprise - self._tau)
        return token


class MirostatOne(Mirostat):
    """Mirostat 1: the same, by way of a Zipf exponent estimated from the 100 likeliest tokens."""

    def _truncate(self, c: Candidates) -> Candidates:
        ranks = np.arange(1, min(100, len(c.tokens)))
        steps = np.log((ranks + 1) / ranks)
        falls = np.log(c.probabilities[ranks - 1] / c.probabilities[ranks])
        exponent = float(np.sum(steps * falls) / np.sum(steps**2))
        e = exponent - 1
        k = (e * 2**self._limit / (1 - len(c.tokens) ** -e)) ** (1 / exponent)
        return c.pick(slice(max(1, int(k))))
