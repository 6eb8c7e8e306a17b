"""Rows about how much comes out: one user, eight of them, a busy neighbour, two models."""

from __future__ import annotations

import asyncio

from dmr.bench.load import Outcome

from .figures import Figures, check, inter_token_latencies, median, percentile, throughput, ttfts
from .prompts import words
from .row import BEST, DEFAULTS, Load, Metric, Row, Setup, Target

THROUGHPUT = Metric("throughput", "throughput", "tok/s", True)
TTFT_P50 = Metric("ttft_p50", "TTFT p50", "s", False, 2)
TTFT_P95 = Metric("ttft_p95", "TTFT p95", "s", False, 2)
PREFILL_WORDS, DECODE_TOKENS = 400, 96
REPEATS = 3  # of what takes a second or two; the median counts
LEVELS = (1, 2, 4, 8, 16)  # users at the same time
# Servers that get no cores may not come to an end in any time that one would wait: then what arrived until then counts.
NEIGHBOUR_PATIENCE = 40.0
TWO_MODELS_PATIENCE = 20.0


async def one_user(load: Load, seed: str) -> Figures:
    """A long prompt and one token; then a short prompt and many."""
    prefill, decode = [], []
    for number in range(REPEATS):
        long = await load.complete(words(f"{seed} long {number}", PREFILL_WORDS), 1)
        short = await load.complete(words(f"{seed} short {number}", 4), DECODE_TOKENS)
        check([long, short])
        prefill.append(long.num_prompt_tokens / median(ttfts([long])))
        decode.append((short.num_completion_tokens - 1) / (short.arrivals[-1] - short.arrivals[0]))
    return {"prefill": median(prefill), "decode": median(decode)}


async def burst(
    load: Load, seed: str, num_users: int, *, num_models: int = 1, patience: float | None = None
) -> list[Outcome]:
    """So many users at once, each with a prompt of its own, shared out among the models.

    `patience`: seconds after which they all leave.
    """
    return await asyncio.gather(
        *(
            load.complete(words(f"{seed} user {user}", 60), 32, model=user % num_models, cancel_after=patience)
            for user in range(num_users)
        )
    )


async def eight_users(load: Load, seed: str) -> Figures:
    outcomes = await burst(load, seed, 8)
    check(outcomes)
    return _burst_figures(outcomes)


def _burst_figures(outcomes: list[Outcome]) -> Figures:
    return {
        "throughput": throughput(outcomes),
        "ttft_p50": median(ttfts(outcomes)),
        "ttft_p95": percentile(ttfts(outcomes), 95),
    }


async def beside_a_neighbour(load: Load, seed: str) -> Figures:
    outcomes = await burst(load, seed, 8, patience=NEIGHBOUR_PATIENCE)
    check(outcomes)
    return {"throughput": throughput(outcomes)}


async def two_models(load: Load, seed: str) -> Figures:
    outcomes = await burst(load, seed, 16, num_models=2, patience=TWO_MODELS_PATIENCE)
    check(outcomes)
    return {"throughput": throughput(outcomes)}


async def sweep(load: Load, seed: str) -> Figures:
    """The users of row 2, from one to sixteen: what the plot is drawn from."""
    figures: dict[str, float] = {}
    for level in LEVELS:
        outcomes = await burst(load, f"{seed} level {level}", level)
        check(outcomes)
        latencies = inter_token_latencies(outcomes)
        figures[f"throughput@{level}"] = throughput(outcomes)
        figures[f"ttft_p50@{level}"] = median(ttfts(outcomes))
        figures[f"ttft_p95@{level}"] = percentile(ttfts(outcomes), 95)
        figures[f"itl_p50@{level}"] = median(latencies) * 1000
        figures[f"itl_p99@{level}"] = percentile(latencies, 99) * 1000
    return figures


def _sweep_metrics() -> tuple[Metric, ...]:
    return tuple(
        metric
        for level in LEVELS
        for metric in (
            Metric(f"throughput@{level}", f"throughput, {level} users", "tok/s", True),
            Metric(f"ttft_p50@{level}", f"TTFT p50, {level} users", "s", False, 2),
            Metric(f"ttft_p95@{level}", f"TTFT p95, {level} users", "s", False, 2),
            Metric(f"itl_p50@{level}", f"ITL p50, {level} users", "ms", False, 0),
            Metric(f"itl_p99@{level}", f"ITL p99, {level} users", "ms", False, 0),
        )
    )


ROWS = (
    Row(
        "1",
        f"one user: a prompt of {PREFILL_WORDS} words; {DECODE_TOKENS} tokens out",
        Setup(1, 1024),
        one_user,
        (Metric("decode", "decode", "tok/s", True), Metric("prefill", "prefill", "tok/s", True)),
        tuple(Target(name, against, 0.97) for against in (DEFAULTS, BEST) for name in ("decode", "prefill")),
    ),
    Row(
        "2",
        "8 unrelated users, 60-word prompts, 32 tokens out",
        Setup(8),
        eight_users,
        (THROUGHPUT, TTFT_P50, TTFT_P95),
        (Target("throughput", DEFAULTS, 1.15), Target("throughput", BEST, 1.0)),
    ),
    Row(
        "6",
        f"the 8 users of row 2 beside a process that spins; the first {NEIGHBOUR_PATIENCE:.0f} s",
        Setup(8),
        beside_a_neighbour,
        (THROUGHPUT,),
        (Target("throughput", DEFAULTS, 1.8), Target("throughput", BEST, 1.8)),
        has_neighbour=True,
    ),
    Row(
        "6b",
        f"two models at once, the 8 users of row 2 on each; the first {TWO_MODELS_PATIENCE:.0f} s",
        Setup(8, num_models=2),
        two_models,
        (THROUGHPUT,),
        (Target("throughput", DEFAULTS, 8.0), Target("throughput", BEST, 8.0)),
        short_pairs=2,
    ),
    Row(
        "sweep",
        "row 2's users, 1 to 16 of them",
        Setup(LEVELS[-1]),
        sweep,
        _sweep_metrics(),
        short_pairs=1,
    ),
)
