"""Results that nobody measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from versus.machine import Machine, Versions
from versus.results import Round, RowResult


def made_up(sides: Mapping[str, Sequence[Mapping[str, float] | str]], row: str = "0") -> RowResult:
    """`sides`: for each, what its rounds gave: figures, or why they failed."""
    result = RowResult(
        row,
        "made up",
        "2026-01-02T03:04:05+00:00",
        Machine("a processor", 2, 24.0, "Linux 6"),
        Versions("abcdef012", "0c1e57098"),
        {side: [] for side in sides},
    )
    for side, rounds in sides.items():
        for number, found in enumerate(rounds):
            if isinstance(found, str):
                result.rounds.append(Round(side, number, f"seed {number}", 0.5, 3.0, failure=found))
            else:
                result.rounds.append(Round(side, number, f"seed {number}", 0.5, 3.0, dict(found)))
    return result
