"""What the outcomes of one level of concurrency come to. The names of fields are those of `dmr bench --json`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Union

import msgspec

from dmr.bench.load import Outcome


class Percentiles(msgspec.Struct, frozen=True):
    """Seconds; None: nothing was measured."""

    p50: Union[float, None]
    p95: Union[float, None]
    p99: Union[float, None]


class LevelFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens are those of the requests that succeeded."""

    concurrency: int
    requests: int  # that ended, failed ones among them
    failures: int
    seconds: float  # from the first request's begin to the last one's end
    prompt_tokens: int
    cached_tokens: int  # of the prompts', those that the server did not have to compute
    output_tokens: int
    requests_per_second: float
    prompt_tokens_per_second: float  # cached ones too
    output_tokens_per_second: float
    ttft_seconds: Percentiles
    inter_token_seconds: Percentiles
    errors: dict[str, int]  # message -> how many requests


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Interpolated between the two nearest; None without values."""
    if not values:
        return None
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def percentiles(values: Sequence[float]) -> Percentiles:
    return Percentiles(percentile(values, 50), percentile(values, 95), percentile(values, 99))


def level_figures(concurrency: int, outcomes: Sequence[Outcome]) -> LevelFigures:
    """`outcomes`: at least one."""
    good = [outcome for outcome in outcomes if outcome.error is None]
    seconds = max(outcome.ended for outcome in outcomes) - min(outcome.began for outcome in outcomes)
    num_prompt_tokens = sum(outcome.num_prompt_tokens for outcome in good)
    num_output_tokens = sum(outcome.num_completion_tokens for outcome in good)
    return LevelFigures(
        concurrency=concurrency,
        requests=len(outcomes),
        failures=len(outcomes) - len(good),
        seconds=seconds,
        prompt_tokens=num_prompt_tokens,
        cached_tokens=sum(outcome.num_cached_tokens for outcome in good),
        output_tokens=num_output_tokens,
        requests_per_second=_rate(len(good), seconds),
        prompt_tokens_per_second=_rate(num_prompt_tokens, seconds),
        output_tokens_per_second=_rate(num_output_tokens, seconds),
        ttft_seconds=percentiles([outcome.ttft for outcome in good if outcome.ttft is not None]),
        inter_token_seconds=percentiles([gap for outcome in good for gap in outcome.inter_token_latencies]),
        errors=dict(Counter(outcome.error for outcome in outcomes if outcome.error is not None).most_common()),
    )


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0
