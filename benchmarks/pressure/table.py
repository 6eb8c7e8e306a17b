"""The figures of all sides as a table, and what is promised of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from .counts import Figures

OURS = "dmr"
MAY_GROW = 8.0  # MB of all processes, between the first quarter of a load and its end


class Promise(NamedTuple):
    """Of one part of the measurement."""

    words: str
    is_kept: Callable[[Figures], bool]
    after_warm_up: bool = False  # asked of the last round only; those before have warmed the server up


def grown(figures: Figures) -> float:
    return figures["MB at the end"] - figures["MB after a quarter"]


PROMISES: Mapping[str, Sequence[Promise]] = {
    "streams": (
        Promise("no accepted request fails", lambda f: f["failed"] == 0),
        Promise("p99 <= 5 x p50", lambda f: f.get("p99/p50", float("inf")) <= 5),
    ),
    "requests": (
        Promise("no accepted request fails", lambda f: f["failed"] == 0),
        Promise(f"memory grows by {MAY_GROW:g} MB at most", lambda f: grown(f) <= MAY_GROW, after_warm_up=True),
        Promise("recovered within 5 s", lambda f: f["recovery"] <= 5),
    ),
    "idle": (
        Promise("idle streams cost nothing", lambda f: f["beside idle streams, ratio"] >= 0.95),
        Promise("kept connections cost nothing", lambda f: f["beside kept connections, ratio"] >= 0.95),
    ),
}


def lines_of(part: str, rounds: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    """`rounds`: of each side, in the order in which they were measured."""
    names = list(rounds)
    figures = {name: [each["figures"] for each in rounds[name]] for name in names}
    yield f"{part:<34}" + "".join(f"{name:>26}" for name in names)
    for key in dict.fromkeys(key for each in figures.values() for one in each for key in one):
        cells = ["  ".join(_number(one[key]) if key in one else "-" for one in figures[name]) for name in names]
        yield f"  {key:<32}" + "".join(f"{cell:>26}" for cell in cells)
    for name in names:
        for number, each in enumerate(rounds[name]):
            for reason, count in sorted(each.get("reasons", {}).items(), key=lambda item: -item[1])[:6]:
                yield f"  {name}, round {number + 1}: {count} {reason}"
    yield from (f"  {words}" for words in verdicts_of(part, rounds))


def verdicts_of(part: str, rounds: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """What is promised of dmr, and whether it was kept."""
    figures = [each["figures"] for each in rounds.get(OURS, ())]
    if not figures:
        return []
    kept = [all(map(each.is_kept, figures[-1:] if each.after_warm_up else figures)) for each in PROMISES[part]]
    return [
        f"{each.words}: {'kept' if is_kept else 'BROKEN'}" for each, is_kept in zip(PROMISES[part], kept, strict=True)
    ]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:,.4g}"
