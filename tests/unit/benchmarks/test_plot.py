from __future__ import annotations

from pathlib import Path

import pytest
from unit.benchmarks.made_up import made_up

from versus.plot import draw, series
from versus.throughput_rows import LEVELS

FIGURES = ("throughput", "ttft_p50", "ttft_p95", "itl_p50", "itl_p99")
SWEEP = made_up(
    {
        "defaults": [{f"{figure}@{level}": float(level) for figure in FIGURES for level in LEVELS}],
        "dmr": [{"throughput@1": 10.0, "throughput@8": 60.0}, {"throughput@1": 20.0}],
    }
)


def test_a_series_is_of_medians_and_of_levels_that_were_measured() -> None:
    assert series(SWEEP, "dmr", "throughput") == ([1, 8], [15.0, 60.0])
    assert series(SWEEP, "defaults", "itl_p99") == (list(LEVELS), [float(level) for level in LEVELS])
    assert series(SWEEP, "dmr", "itl_p99") == ([], [])


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    name = draw(SWEEP, tmp_path)
    assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
