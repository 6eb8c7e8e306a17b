"""Encoding a streamed token must stay cheap: one worker feeds hundreds of streams."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from dmr.types import ReasoningDelta, TextDelta

BENCHMARK = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "encoders.py"))


@pytest.mark.parametrize("name", BENCHMARK["ENCODERS"])
@pytest.mark.parametrize("delta", [TextDelta(0, " word"), ReasoningDelta(0, " word")], ids=["text", "thought"])
def test_a_delta_costs_microseconds(name: str, delta: TextDelta | ReasoningDelta) -> None:
    make = BENCHMARK["ENCODERS"][name]
    # The machine may be busy: the best of several counts, and there is room for more than ten times what it takes.
    costs = [BENCHMARK["cost"](make(), [delta] * 500) for _ in range(10)]
    assert min(costs) <= BENCHMARK["TARGET"]
