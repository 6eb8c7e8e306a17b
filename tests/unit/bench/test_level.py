from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import pytest

from dmr.bench.level import Level, Workload
from dmr.bench.load import LoadClient, Outcome


class FakeClient(LoadClient):
    """Answers after a while, or fails at once."""

    def __init__(self, seconds: float, error: str | None = None) -> None:
        super().__init__("http://localhost:1")
        self.bodies: list[Any] = []
        self.num_open = self.most_open = 0
        self._seconds = seconds
        self._error = error

    async def complete(
        self, body: Mapping[str, Any], *, path: str = "/v1/completions", cancel_after: float | None = None
    ) -> Outcome:
        self.bodies.append((path, body))
        self.num_open += 1
        self.most_open = max(self.most_open, self.num_open)
        began = time.perf_counter()
        await asyncio.sleep(self._seconds)
        self.num_open -= 1
        return Outcome(began, time.perf_counter(), error=self._error)


def workload() -> Workload:
    numbers = iter(range(1000))
    return Workload(lambda: {"prompt": next(numbers)}, "/v1/x")


def test_so_many_users_make_so_many_requests() -> None:
    client, told = FakeClient(0.005), list[Outcome]()
    level = Level(client, workload(), 3, num_requests=10, report=told.append)
    asyncio.run(level.run())
    assert client.most_open == 3
    assert client.bodies == [("/v1/x", {"prompt": number}) for number in range(10)]
    assert len(level.outcomes) == 10
    assert told == level.outcomes


def test_no_more_requests_than_are_asked_for_by_many_users() -> None:
    client = FakeClient(0.0)
    asyncio.run(Level(client, workload(), 8, num_requests=2).run())
    assert len(client.bodies) == 2


def test_a_level_may_last_a_time_and_what_has_begun_is_completed() -> None:
    level = Level(FakeClient(0.03), workload(), 2, duration=0.1)
    asyncio.run(level.run())
    assert 4 <= len(level.outcomes) <= 8


def test_a_server_that_refuses_at_once_is_not_flooded() -> None:
    level = Level(FakeClient(0.0, "refused"), workload(), 2, duration=0.25)
    asyncio.run(level.run())
    assert len(level.outcomes) <= 6


def test_what_is_complete_stays_when_a_level_is_ended_early() -> None:
    level = Level(FakeClient(0.02), workload(), 1, num_requests=1000)

    async def run() -> None:
        await asyncio.wait_for(level.run(), 0.1)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(run())
    assert 1 <= len(level.outcomes) <= 6
