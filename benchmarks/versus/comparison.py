"""From rounds to ratios: medians of both sides, and the median of what each pair of rounds says."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import NamedTuple

from .figures import median
from .results import RowResult
from .row import BEST, STREAMS, UNIFIED, Metric, Row, Target
from .side import DMR


class Ratio(NamedTuple):
    """dmr's figure divided by the peer's."""

    median: float
    low: float
    high: float


class Comparison(NamedTuple):
    """One target of a row and what became of it."""

    metric: Metric
    target: Target
    setting: str | None  # of the peer; None: the target is for dmr alone, or there is nothing to compare with
    ours: float | None  # None: no round of dmr gave figures
    theirs: float | None
    ratio: Ratio | None

    @property
    def is_met(self) -> bool | None:
        """None: it cannot be told."""
        value = self.ours if self.target.against is None else self.ratio and self.ratio.median
        if value is None:
            return None
        return value >= self.target.bound if self.metric.higher_is_better else value <= self.target.bound


def median_of(result: RowResult, side: str, metric: str) -> float | None:
    values = [round.figures[metric] for round in result.of(side) if metric in round.figures]
    return median(values) if values else None


def ratio_to(result: RowResult, setting: str, metric: str) -> Ratio | None:
    """Over the pairs of which both rounds have the figure; None: there is no such pair."""
    ours = {round.number: round.figures[metric] for round in result.of(DMR) if metric in round.figures}
    theirs = {round.number: round.figures[metric] for round in result.of(setting) if metric in round.figures}
    ratios = [_divided(ours[number], theirs[number]) for number in ours.keys() & theirs.keys()]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios)) if ratios else None


def _divided(ours: float, theirs: float) -> float:
    """Servers that got no cores may have given nothing at all."""
    return ours / theirs if theirs else math.inf if ours else 1.0


def better_setting(result: RowResult, metric: Metric, settings: Iterable[str] = (STREAMS, UNIFIED)) -> str | None:
    """Of the peer's settings the one whose median is better; None: none has figures."""
    medians = [
        (value, setting) for setting in settings if (value := median_of(result, setting, metric.name)) is not None
    ]
    if not medians:
        return None
    return max(medians)[1] if metric.higher_is_better else min(medians)[1]


def compare(row: Row, result: RowResult) -> list[Comparison]:
    """One for each target."""
    return [_compare(result, row.metric(target.metric), target) for target in row.targets]


def _compare(result: RowResult, metric: Metric, target: Target) -> Comparison:
    setting = better_setting(result, metric) if target.against == BEST else target.against
    ours = median_of(result, DMR, metric.name)
    if setting is None:
        return Comparison(metric, target, None, ours, None, None)
    theirs = median_of(result, setting, metric.name)
    return Comparison(metric, target, setting, ours, theirs, ratio_to(result, setting, metric.name))
