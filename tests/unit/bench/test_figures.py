from __future__ import annotations

import pytest

from dmr.bench.figures import Percentiles, level_figures, percentile
from dmr.bench.load import Outcome


def test_percentiles_lie_between_the_nearest_values() -> None:
    values = [4.0, 1.0, 3.0, 2.0, 5.0]
    assert [percentile(values, p) for p in (0, 50, 75, 100)] == [1.0, 3.0, 4.0, 5.0]
    assert percentile(values, 95) == pytest.approx(4.8)
    assert percentile([7.0], 99) == 7.0
    assert percentile([], 50) is None


def test_a_level_is_summed_up() -> None:
    outcomes = [
        Outcome(10.0, 12.0, [11.0, 11.5], 100, 60, 20),
        Outcome(11.0, 14.0, [12.0, 12.25, 13.0], 100, 0, 20),
        Outcome(10.5, 11.0, error="out of memory"),
    ]
    figures = level_figures(2, outcomes)
    assert (figures.concurrency, figures.requests, figures.failures, figures.seconds) == (2, 3, 1, 4.0)
    assert (figures.prompt_tokens, figures.cached_tokens, figures.output_tokens) == (200, 60, 40)
    rates = figures.requests_per_second, figures.prompt_tokens_per_second, figures.output_tokens_per_second
    assert rates == (0.5, 50.0, 10.0)
    assert figures.ttft_seconds.p50 == 1.0
    assert figures.inter_token_seconds.p50 == 0.5  # of 0.25, 0.5, 0.75
    assert figures.errors == {"out of memory": 1}


def test_a_level_of_failures_has_no_times() -> None:
    figures = level_figures(1, [Outcome(1.0, 1.0, error="refused")])
    assert figures.ttft_seconds == figures.inter_token_seconds == Percentiles(None, None, None)
    assert (figures.output_tokens_per_second, figures.requests_per_second) == (0.0, 0.0)
