from __future__ import annotations

import pytest

from dmr.bench.load import Outcome
from versus import figures

SLOW = Outcome(10.0, 13.0, [11.0, 12.0, 13.0], 20, 5, 3, "abc")
QUICK = Outcome(9.0, 9.5, [9.25, 9.5], 10, 0, 2, "ab")
LEFT = Outcome(9.0, 12.0, [10.0, 11.0], cancelled=True)
FAILED = Outcome(9.0, 9.1, error="503: busy")


def test_throughput_is_of_all_tokens_from_the_first_begin_to_the_last_end() -> None:
    assert figures.throughput([SLOW, QUICK]) == 5 / 4


def test_who_leaves_has_got_the_chunks_that_arrived() -> None:
    assert figures.num_tokens(LEFT) == 2
    assert figures.throughput([LEFT]) == 2 / 3


def test_prefilled_tokens_are_those_that_were_in_no_cache() -> None:
    assert figures.num_prefilled([SLOW, QUICK]) == 25


def test_only_latencies_that_lie_within_count() -> None:
    assert figures.latencies_within([SLOW, QUICK], 11.5, 11.8) == [1.0]
    assert figures.latencies_within([SLOW, QUICK], 9.3, 12.0) == [1.0, 0.25]
    assert figures.latencies_within([SLOW], 13.0, 20.0) == []


def test_latencies_and_ttfts_come_from_all_requests() -> None:
    assert figures.inter_token_latencies([SLOW, QUICK]) == [1.0, 1.0, 0.25]
    assert figures.ttfts([SLOW, FAILED, QUICK]) == [1.0, 0.25]


def test_percentiles_lie_between_neighbours() -> None:
    assert figures.percentile([4.0, 1.0, 2.0, 3.0], 50) == 2.5
    assert figures.percentile([1.0], 99) == 1.0
    with pytest.raises(figures.RoundFailed, match="nothing arrived"):
        figures.median([])


def test_a_failed_request_fails_the_round_and_a_cancelled_one_does_not() -> None:
    figures.check([SLOW, LEFT])
    with pytest.raises(figures.RoundFailed, match="1 of 2 requests failed: 503: busy"):
        figures.check([SLOW, FAILED])


@pytest.mark.parametrize(
    ("rows", "length"), [([[1, 2, 3], [1, 2, 4]], 2), ([[1, 2], [1, 2, 3]], 2), ([[5], [6]], 0), ([[1, 2]], 2)]
)
def test_the_common_beginning(rows: list[list[int]], length: int) -> None:
    assert figures.common_length(rows) == length
