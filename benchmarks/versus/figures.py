"""What the outcomes of a round come to. Times in seconds, rates in tokens per second, unless a name says otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from dmr.bench import figures
from dmr.bench.load import Outcome

Figures = Mapping[str, float]


class RoundFailed(Exception):
    """A round gave no figures; the message says why."""


def percentile(values: Iterable[float], percent: float) -> float:
    """With linear interpolation between neighbours. Raises RoundFailed when there are no values."""
    value = figures.percentile(list(values), percent)
    if value is None:
        raise RoundFailed("nothing arrived that could be measured")
    return value


def median(values: Iterable[float]) -> float:
    return percentile(values, 50)


def check(outcomes: Sequence[Outcome]) -> None:
    """Raises RoundFailed unless every request came to its end, or was cancelled as asked."""
    failed = [outcome.error for outcome in outcomes if outcome.error is not None]
    if failed:
        raise RoundFailed(f"{len(failed)} of {len(outcomes)} requests failed: {failed[0]}")


def ttfts(outcomes: Iterable[Outcome]) -> list[float]:
    """Of those that got text."""
    return [outcome.ttft for outcome in outcomes if outcome.ttft is not None]


def inter_token_latencies(outcomes: Iterable[Outcome]) -> list[float]:
    return [latency for outcome in outcomes for latency in outcome.inter_token_latencies]


def latencies_within(outcomes: Iterable[Outcome], begin: float, end: float) -> list[float]:
    """Inter-token latencies of which some part lies between two moments."""
    return [
        later - earlier
        for outcome in outcomes
        for earlier, later in zip(outcome.arrivals, outcome.arrivals[1:], strict=False)
        if earlier < end and later > begin
    ]


def num_tokens(outcome: Outcome) -> int:
    """Tokens that the client got. Servers tell no number to who leaves, so then a chunk of text counts as one."""
    return outcome.num_completion_tokens or len(outcome.arrivals)


def throughput(outcomes: Sequence[Outcome]) -> float:
    """Tokens of all requests a second, from the first request to the last end."""
    elapsed = max(outcome.ended for outcome in outcomes) - min(outcome.began for outcome in outcomes)
    return sum(map(num_tokens, outcomes)) / elapsed


def num_prefilled(outcomes: Iterable[Outcome]) -> int:
    """Prompt tokens that were computed rather than found in a cache, by what the server says of it."""
    return sum(outcome.num_prompt_tokens - outcome.num_cached_tokens for outcome in outcomes)


def common_length(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with."""
    length = 0
    for column in zip(*rows, strict=False):
        if len(set(column)) > 1:
            break
        length += 1
    return length
