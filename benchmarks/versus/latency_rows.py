"""Rows about who must not wait for others: steady streams beside long prompts, a light client beside a heavy one."""

from __future__ import annotations

import asyncio

from dmr.bench.load import Outcome

from .figures import Figures, check, latencies_within, median, percentile, throughput, ttfts
from .prompts import words
from .row import BEST, DEFAULTS, STREAMS, Load, Metric, Row, Setup, Target

NUM_STEADY, STEADY_TOKENS = 4, 300
LONG_ARRIVALS = (1.0, 2.5, 4.0)  # seconds
NUM_HEAVY, NUM_LIGHT = 16, 10
LIGHT_INTERVAL = 1.0  # seconds
HEAD_START = 0.2  # of the heavy client's


async def long_prompts_arrive(load: Load, seed: str) -> Figures:
    """What the steady streams feel counts from the first long prompt on until the last one has its first token."""

    async def arrive(number: int, delay: float) -> Outcome:
        await asyncio.sleep(delay)
        return await load.complete(words(f"{seed} long {number}", 500), 8)

    outcomes = await asyncio.gather(
        *(load.complete(words(f"{seed} steady {number}", 8), STEADY_TOKENS) for number in range(NUM_STEADY)),
        *(arrive(number, delay) for number, delay in enumerate(LONG_ARRIVALS)),
    )
    check(outcomes)
    steady, long = outcomes[:NUM_STEADY], outcomes[NUM_STEADY:]
    begin, end = long[0].began, max(outcome.arrivals[0] for outcome in long)
    latencies = latencies_within(steady, begin, end)
    return {
        "itl_p99": percentile(latencies, 99) * 1000,
        "itl_p50": median(latencies) * 1000,
        "itl_max": max(latencies) * 1000,
        "long_ttft": median(ttfts(long)),
        "long_ttft_max": max(ttfts(long)),
        "throughput": throughput(outcomes),
    }


async def light_beside_heavy(load: Load, seed: str) -> Figures:
    """The heavy client sends all it has at once; the light one sends on its own clock, whatever becomes of it."""

    async def send_light(number: int) -> Outcome:
        await asyncio.sleep(HEAD_START + number * LIGHT_INTERVAL)
        return await load.complete(words(f"{seed} light {number}", 20), 8, key="light")

    heavy = [
        asyncio.ensure_future(load.complete(words(f"{seed} heavy {number}", 200), 48, key="heavy"))
        for number in range(NUM_HEAVY)
    ]
    light = await asyncio.gather(*map(send_light, range(NUM_LIGHT)))
    check(light)
    outcomes = await asyncio.gather(*heavy)
    check(outcomes)
    return {
        "light_ttft_p95": percentile(ttfts(light), 95),
        "light_ttft_p50": median(ttfts(light)),
        "heavy_ttft_p50": median(ttfts(outcomes)),
        "heavy_throughput": throughput(outcomes),
    }


ROWS = (
    Row(
        "4",
        f"{NUM_STEADY} steady streams while three 500-word prompts arrive",
        Setup(NUM_STEADY + len(LONG_ARRIVALS) + 1, 1024),
        long_prompts_arrive,
        (
            Metric("itl_p99", "ITL p99 of the steady", "ms", False, 0),
            Metric("long_ttft", "TTFT p50 of the long", "s", False, 2),
            Metric("itl_p50", "ITL p50 of the steady", "ms", False, 0),
            Metric("itl_max", "largest ITL of the steady", "ms", False, 0),
            Metric("long_ttft_max", "largest TTFT of the long", "s", False, 2),
            Metric("throughput", "throughput", "tok/s", True),
        ),
        (
            Target("itl_p99", None, 200.0),
            Target("long_ttft", DEFAULTS, 1 / 2),
            Target("itl_p99", STREAMS, 1 / 8),
            Target("long_ttft", BEST, 1.4),
        ),
        short_pairs=2,
    ),
    Row(
        "10",
        f"{NUM_LIGHT} short requests of one client, one each second, beside {NUM_HEAVY} long ones of another",
        Setup(NUM_HEAVY + 4),
        light_beside_heavy,
        (
            Metric("light_ttft_p95", "TTFT p95 of the light client", "s", False, 2),
            Metric("light_ttft_p50", "TTFT p50 of the light client", "s", False, 2),
            Metric("heavy_ttft_p50", "TTFT p50 of the heavy client", "s", False, 2),
            Metric("heavy_throughput", "throughput of the heavy client", "tok/s", True),
        ),
        (Target("light_ttft_p95", DEFAULTS, 1 / 5), Target("light_ttft_p95", BEST, 1 / 3)),
        short_pairs=2,
    ),
)
