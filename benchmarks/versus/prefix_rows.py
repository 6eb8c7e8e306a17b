"""Rows about prompts that begin alike: a burst after one system prompt, and conversations over little KV memory."""

from __future__ import annotations

import asyncio

from dmr.bench.load import Outcome

from .figures import Figures, check, common_length, median, num_prefilled, percentile, throughput, ttfts
from .prompts import conversation_turn, shared_prefix
from .row import BEST, DEFAULTS, Load, Metric, Row, Setup, Target

TTFT_P95 = Metric("ttft_p95", "TTFT p95", "s", False, 2)
TTFT_P50 = Metric("ttft_p50", "TTFT p50", "s", False, 2)
BURST_METRICS = (
    TTFT_P95,
    TTFT_P50,
    Metric("prefill_surplus", "prefilled, of the ideal", "x", False, 2),
    Metric("prefilled", "prefilled", "tokens", False, 0),
    Metric("ideal", "prefix once", "tokens", False, 0),
    Metric("throughput", "throughput", "tok/s", True),
)


async def shared_burst(load: Load, seed: str, num_users: int, prefix_words: int) -> Figures:
    """All at once, each with a question of its own behind the same system prompt, which nobody has sent before."""
    prefix = shared_prefix(seed, prefix_words)
    prompts = [prefix + conversation_turn(f"{seed} user {user}", 12) for user in range(num_users)]
    outcomes = await asyncio.gather(*(load.complete(prompt, 16) for prompt in prompts))
    check(outcomes)
    rows = await asyncio.gather(*map(load.tokenize, prompts))
    shared = common_length(rows)
    ideal = shared + sum(len(row) - shared for row in rows)
    prefilled = num_prefilled(outcomes)
    return {
        "ttft_p50": median(ttfts(outcomes)),
        "ttft_p95": percentile(ttfts(outcomes), 95),
        "prefilled": prefilled,
        "ideal": ideal,
        "prefill_surplus": prefilled / ideal,
        "throughput": throughput(outcomes),
    }


async def sixteen_users(load: Load, seed: str) -> Figures:
    return await shared_burst(load, seed, 16, 300)


async def thirty_two_users(load: Load, seed: str) -> Figures:
    return await shared_burst(load, seed, 32, 1000)


async def conversations(load: Load, seed: str) -> Figures:
    """Twelve at once, of two turns each: the second prompt is the first with its answer and another question."""
    prefix = shared_prefix(seed, 200)

    async def converse(number: int) -> list[Outcome]:
        prompt = prefix + conversation_turn(f"{seed} {number} first", 60)
        first = await load.complete(prompt, 24)
        prompt += f"{first.text}\n{conversation_turn(f'{seed} {number} second', 60)}"
        return [first, await load.complete(prompt, 24)]

    pairs = await asyncio.gather(*map(converse, range(12)))
    outcomes = [outcome for pair in pairs for outcome in pair]
    check(outcomes)
    return {
        "ttft_p50": median(ttfts(outcomes)),
        "ttft_p95": percentile(ttfts(outcomes), 95),
        "second_ttft_p50": median(ttfts(pair[1] for pair in pairs)),
        "prefilled": num_prefilled(outcomes),
        "throughput": throughput(outcomes),
    }


ROWS = (
    Row(
        "3",
        "burst of 16 users after one shared 300-word system prompt, 16 tokens out",
        Setup(16),
        sixteen_users,
        BURST_METRICS,
        (
            Target("ttft_p95", DEFAULTS, 1 / 2),
            Target("ttft_p95", BEST, 1 / 3),
            Target("prefill_surplus", None, 1.05),
        ),
    ),
    Row(
        "3b",
        "burst of 32 users after one shared 1,000-word system prompt, 16 tokens out",
        Setup(32, 1536),
        thirty_two_users,
        BURST_METRICS,
        (
            Target("ttft_p95", DEFAULTS, 1 / 4),
            Target("ttft_p95", BEST, 1 / 5),
            Target("prefill_surplus", None, 1.05),
        ),
        short_pairs=0,
    ),
    Row(
        "5",
        "12 two-turn conversations after one 200-word system prompt, over 4 sequences' worth of KV memory",
        Setup(4, context=2048),
        conversations,
        (
            TTFT_P50,
            TTFT_P95,
            Metric("second_ttft_p50", "TTFT p50 of second turns", "s", False, 2),
            Metric("prefilled", "prefilled", "tokens", False, 0),
            Metric("throughput", "throughput", "tok/s", True),
        ),
        (Target("ttft_p50", DEFAULTS, 1 / 1.5), Target("ttft_p50", BEST, 1 / 1.5)),
        short_pairs=2,
    ),
)
