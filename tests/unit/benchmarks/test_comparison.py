from __future__ import annotations

import math

import pytest
from unit.benchmarks.made_up import made_up

from versus.comparison import better_setting, compare, median_of, ratio_to
from versus.row import BEST, DEFAULTS, STREAMS, UNIFIED, Metric, Row, Setup, Target

RATE = Metric("rate", "rate", "tok/s", True)
WAIT = Metric("wait", "wait", "s", False, 2)


def row(*targets: Target) -> Row:
    return Row("0", "made up", Setup(1), None, (RATE, WAIT), targets)


def test_a_ratio_is_the_median_of_what_each_pair_says() -> None:
    # The machine was slow during the second pair, for both: medians of the sides would hide that.
    result = made_up(
        {"dmr": [{"rate": 90}, {"rate": 44}, {"rate": 99}], DEFAULTS: [{"rate": 60}, {"rate": 40}, {"rate": 90}]}
    )
    ratio = ratio_to(result, DEFAULTS, "rate")
    assert ratio == pytest.approx((1.1, 1.1, 1.5))
    assert median_of(result, "dmr", "rate") == 90


def test_a_pair_with_a_failed_round_is_left_out() -> None:
    result = made_up({"dmr": [{"rate": 90}, "it broke"], DEFAULTS: [{"rate": 60}, {"rate": 1}]})
    assert ratio_to(result, DEFAULTS, "rate") == (1.5, 1.5, 1.5)
    assert ratio_to(result, STREAMS, "rate") is None


@pytest.mark.parametrize(
    ("metric", "ours", "bound", "is_met"),
    [("rate", 115, 1.15, True), ("rate", 114, 1.15, False), ("wait", 50, 0.5, True), ("wait", 51, 0.5, False)],
)
def test_targets_go_in_the_direction_of_their_figure(metric: str, ours: float, bound: float, is_met: bool) -> None:
    result = made_up({"dmr": [{metric: ours}], DEFAULTS: [{metric: 100}]})
    (comparison,) = compare(row(Target(metric, DEFAULTS, bound)), result)
    assert comparison.is_met is is_met
    assert (comparison.ours, comparison.theirs) == (ours, 100)


def test_the_better_of_the_best_flags_counts_in_each_figure() -> None:
    result = made_up(
        {"dmr": [{"rate": 9, "wait": 9}], STREAMS: [{"rate": 8, "wait": 3}], UNIFIED: [{"rate": 5, "wait": 1}]}
    )
    assert better_setting(result, RATE) == STREAMS
    assert better_setting(result, WAIT) == UNIFIED
    rate, wait = compare(row(Target("rate", BEST, 1.0), Target("wait", BEST, 1.0)), result)
    assert (rate.setting, rate.theirs, rate.is_met) == (STREAMS, 8, True)
    assert (wait.setting, wait.theirs, wait.is_met) == (UNIFIED, 1, False)


def test_a_target_for_dmr_alone_needs_no_peer() -> None:
    result = made_up({"dmr": [{"wait": 180}, {"wait": 220}, {"wait": 190}]})
    (comparison,) = compare(row(Target("wait", None, 200)), result)
    assert (comparison.is_met, comparison.ratio, comparison.theirs) == (True, None, None)


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    alone = made_up({"dmr": [{"rate": 9}], DEFAULTS: ["it broke"]})
    (comparison, best) = compare(row(Target("rate", DEFAULTS, 1.0), Target("rate", BEST, 1.0)), alone)
    assert (comparison.is_met, comparison.ratio, best.is_met, best.setting) == (None, None, None, None)
    broken = made_up({"dmr": ["it broke"]})
    assert compare(row(Target("rate", None, 1.0)), broken)[0].is_met is None


def test_a_peer_that_gave_nothing_is_infinitely_slower() -> None:
    result = made_up({"dmr": [{"rate": 9}] * 2, DEFAULTS: [{"rate": 0}] * 2})
    (comparison,) = compare(row(Target("rate", DEFAULTS, 8.0)), result)
    assert comparison.ratio == (math.inf,) * 3
    assert comparison.is_met
