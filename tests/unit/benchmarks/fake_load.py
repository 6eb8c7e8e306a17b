"""Servers that exist in a test only: every token takes `pace` seconds of a clock that nobody waits for."""

from __future__ import annotations

import time

from dmr.bench.load import Outcome


class FakeLoad:
    """Remembers what it was asked. `num_cached`: tokens of each prompt that it claims to have had."""

    def __init__(self, pace: float = 0.01, num_cached: int = 0, error: str | None = None, limit: int = 10**6) -> None:
        self.prompts: list[str] = []
        self.models: list[int] = []
        self.keys: list[str | None] = []
        self.texts: list[str] = []
        self._pace = pace
        self._num_cached = num_cached
        self._error = error
        self._limit = limit  # tokens that an answer ends at, whatever was asked for

    async def complete(
        self,
        prompt: str,
        num_tokens: int,
        *,
        model: int = 0,
        key: str | None = None,
        cancel_after: float | None = None,
    ) -> Outcome:
        self.prompts.append(prompt)
        self.models.append(model)
        self.keys.append(key)
        began = time.perf_counter()
        if self._error is not None:
            return Outcome(began, began, error=self._error)
        num_tokens = min(num_tokens, self._limit)
        arrivals = [began + self._pace * (number + 1) for number in range(num_tokens)]
        if cancel_after is not None and began + cancel_after < arrivals[-1]:
            end = began + cancel_after
            return Outcome(began, end, [moment for moment in arrivals if moment < end], cancelled=True)
        words = len(prompt.split())
        return Outcome(
            began, arrivals[-1], arrivals, words, self._num_cached, num_tokens, " ".join(["so"] * num_tokens)
        )

    async def embed(self, texts: list[str]) -> Outcome:
        self.texts += texts
        began = time.perf_counter()
        return Outcome(began, began + self._pace * len(texts), num_prompt_tokens=sum(len(t.split()) + 2 for t in texts))

    async def tokenize(self, text: str) -> list[int]:
        return [hash(word) for word in text.split()]

    async def choices(self, prompt: str, num_tokens: int) -> list[tuple[str, float]]:
        return [("so", 1.0)] + [(" so", 0.5)] * (num_tokens - 1)
