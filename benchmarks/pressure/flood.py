"""Short requests that arrive by the clock, more of them than can be answered, and the time until all is as before."""

from __future__ import annotations

import time
from collections.abc import Callable

from .answers import ACCEPTED
from .client import Client, Exchange
from .counts import Account, Figures, latency
from .requests import request_of
from .side import Side

NUM_WORDS, NUM_TOKENS = 6, 8
NUM_KEYS = 64
NUM_PREPARED = 1024  # requests, which come again and again
TIMEOUT = 60.0  # seconds for a whole exchange
NUM_LONE = 30  # requests, one after the other, before the load
RECOVERY_TIMEOUT = 30.0
NUM_ALIKE = 3  # lone answers in a row that are as fast as before
AS_FAST = 2.0  # times the median of those before
NUM_SAMPLES = 20  # of memory, in all
REFILL = 5.0  # seconds of load whose clients leave


class Lone:
    """A client that asks one thing after the other, until it is told to stop."""

    def __init__(self, client: Client, side: Side, seed: str) -> None:
        self._client = client
        self._side = side
        self._seed = seed
        self._number = 0
        self.account = Account(NUM_TOKENS)
        self.took: list[tuple[float, float]] = []  # when each accepted one was sent, and its seconds
        self.is_going = False

    def begin(self) -> None:
        self.is_going = True
        self._ask()

    def _ask(self) -> None:
        self._number += 1
        seed = f"{self._seed} lone {self._number}"
        self._client.send(request_of(self._side.model, seed, NUM_WORDS, NUM_TOKENS, key="lone"), self._go_on)

    def _go_on(self, exchange: Exchange) -> None:
        if self.account.add(exchange) == ACCEPTED:
            self.took.append((exchange.began, exchange.seconds))
        if self.is_going:
            self._ask()


def lone_median(side: Side, seed: str) -> float:
    """Seconds of a request that has the server for itself."""
    client = Client(side.port, TIMEOUT)
    lone = Lone(client, side, seed)
    lone.begin()
    deadline = time.perf_counter() + TIMEOUT
    while len(lone.took) < NUM_LONE and time.perf_counter() < deadline:
        client.turn(time.perf_counter() + 0.5)
    lone.is_going = False
    client.drain(deadline)
    client.close()
    seconds = [seconds for _, seconds in lone.took]
    if not seconds:
        raise SystemExit(f"{side.name} does not answer a lone request: {dict(lone.account.reasons)}")
    return latency(seconds)["p50"]


class Arrivals:
    """So many requests a second, by the clock. Who arrives while `most_open` are open is counted and not sent."""

    def __init__(self, client: Client, account: Account, side: Side, rate: float, most_open: int, seed: str) -> None:
        self._client = client
        self._account = account
        self._rate = rate
        self._most_open = most_open
        self._requests = [
            request_of(side.model, f"{seed} {number}", NUM_WORDS, NUM_TOKENS, key=f"key-{number % NUM_KEYS}")
            for number in range(NUM_PREPARED)
        ]
        self.num_attempted = 0
        self.num_sent = 0

    def run(self, seconds: float, meanwhile: Callable[[float], None]) -> float:
        """The time of the last arrival. `meanwhile` gets the seconds since the first."""
        begin = time.perf_counter()
        before = self.num_attempted
        while (now := time.perf_counter()) < begin + seconds:
            for _ in range(int((now - begin) * self._rate) + 1 - (self.num_attempted - before)):
                self._arrive()
            meanwhile(now - begin)
            due = begin + (self.num_attempted - before) / self._rate
            self._client.turn(min(begin + seconds, due))
        return begin + seconds

    def _arrive(self) -> None:
        self.num_attempted += 1
        if self._client.num_open < self._most_open:
            self.num_sent += 1
            self._client.send(self._requests[self.num_attempted % NUM_PREPARED], self._account.add)


def measure_flood(
    side: Side, rate: float, most_open: int, seconds: float, seed: str
) -> tuple[Figures, dict[str, int], list[dict[str, float]]]:
    """With why requests were refused or have failed, and the memory of all processes by the time."""
    before = lone_median(side, seed)
    account = Account(NUM_TOKENS)
    client = Client(side.port, TIMEOUT)
    arrivals = Arrivals(client, account, side, rate, most_open, seed)
    samples: list[dict[str, float]] = []

    def sample(now: float) -> None:
        if now >= len(samples) * seconds / NUM_SAMPLES:
            samples.append(_sample(side, now))

    cpu = side.process.cpu_seconds()
    end = arrivals.run(seconds, sample)
    samples.append(_sample(side, seconds))
    cpu = side.process.cpu_seconds() - cpu
    as_fast = _seconds_until_as_fast(client, side, f"{seed} behind", before, end)
    client.drain(time.perf_counter() + TIMEOUT)
    client.close()
    quarter = next(sample for sample in samples if sample["seconds"] >= seconds / 4)
    figures = {
        "attempted": arrivals.num_attempted,
        "not sent": arrivals.num_attempted - arrivals.num_sent,
        "sent": arrivals.num_sent,
        **account.figures(),
        "accepted/s": account.num_until(end) / seconds,
        "cores": cpu / seconds,
        "MB after a quarter": quarter["rss"],
        "MB at the end": samples[-1]["rss"],
        "MB after the load": side.held().rss,
        "lone before": before,
        "lone as before, after the last": as_fast,
        "recovery": _recovery(side, rate, most_open, seed, before),
    }
    return figures, dict(account.reasons), samples


def _sample(side: Side, seconds: float) -> dict[str, float]:
    return {"seconds": round(seconds, 2), **{key: round(value, 2) for key, value in side.held()._asdict().items()}}


def _recovery(side: Side, rate: float, most_open: int, seed: str, before: float) -> float:
    """The same load again for a moment, whose clients all leave at once: seconds until none of it is felt."""
    side.wait_at_rest(TIMEOUT)
    client = Client(side.port, TIMEOUT)
    arrivals = Arrivals(client, Account(NUM_TOKENS), side, rate, most_open, f"{seed} left")
    end = arrivals.run(REFILL, lambda now: None)
    client.close()
    client = Client(side.port, TIMEOUT)
    seconds = _seconds_until_as_fast(client, side, f"{seed} after", before, end)
    client.drain(time.perf_counter() + TIMEOUT)
    client.close()
    return seconds


def _seconds_until_as_fast(client: Client, side: Side, seed: str, before: float, end: float) -> float:
    """From the end of a load until a lone request is answered as fast as before it; infinite if it never is."""
    lone = Lone(client, side, seed)
    lone.begin()
    while time.perf_counter() < end + RECOVERY_TIMEOUT:
        client.turn(time.perf_counter() + 0.5)
        last = lone.took[-NUM_ALIKE:]
        if len(last) == NUM_ALIKE and all(seconds <= AS_FAST * before for _, seconds in last):
            lone.is_going = False
            return last[0][0] - end
    lone.is_going = False
    return float("inf")
