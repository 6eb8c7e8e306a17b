"""One level of concurrency: so many users, each of whom asks again as soon as the last answer is complete."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from dmr.bench.load import LoadClient, Outcome

PAUSE_AFTER_FAILURE = 0.1  # seconds; a server that refuses at once is not to be flooded


class Workload(msgspec.Struct, frozen=True):
    """What is asked. `make_body` is called for each request."""

    make_body: Callable[[], Mapping[str, Any]]
    path: str = "/v1/completions"


class Level:
    """`outcomes` grows while it runs; when `run` is cancelled, it has those that were complete."""

    def __init__(
        self,
        client: LoadClient,
        workload: Workload,
        concurrency: int,
        *,
        num_requests: int | None = None,
        duration: float | None = None,
        report: Callable[[Outcome], None] = lambda _outcome: None,
    ) -> None:
        """It ends after `num_requests` requests, or when those that began within `duration` seconds are complete.

        `report` is told each outcome at once.
        """
        self.concurrency = concurrency
        self.outcomes: list[Outcome] = []
        self._client = client
        self._workload = workload
        self._num_requests = num_requests
        self._duration = duration
        self._report = report
        self._num_begun = 0
        self._began = 0.0

    async def run(self) -> None:
        self._began = time.perf_counter()
        await asyncio.gather(*(self._use() for _ in range(self.concurrency)))

    async def _use(self) -> None:
        """One user."""
        while self._may_begin():
            self._num_begun += 1
            outcome = await self._client.complete(self._workload.make_body(), path=self._workload.path)
            self.outcomes.append(outcome)
            self._report(outcome)
            if outcome.error is not None:
                await asyncio.sleep(PAUSE_AFTER_FAILURE)

    def _may_begin(self) -> bool:
        if self._num_requests is not None and self._num_begun >= self._num_requests:
            return False
        return self._duration is None or time.perf_counter() - self._began < self._duration
