"""The picture of the sweep: throughput, TTFT and inter-token latency against the number of users."""

from __future__ import annotations

from pathlib import Path

from .comparison import median_of
from .results import RowResult
from .side import DMR
from .throughput_rows import LEVELS

FILE = "concurrency.png"
PANELS = (
    ("throughput", "throughput, tokens/s"),
    ("ttft_p50", "TTFT p50, s"),
    ("ttft_p95", "TTFT p95, s"),
    ("itl_p50", "ITL p50, ms"),
    ("itl_p99", "ITL p99, ms"),
)


def series(result: RowResult, side: str, figure: str) -> tuple[list[int], list[float]]:
    """Numbers of users, and the medians there; levels that were not measured are left out."""
    values = {level: median_of(result, side, f"{figure}@{level}") for level in LEVELS}
    known = {level: value for level, value in values.items() if value is not None}
    return list(known), list(known.values())


def draw(result: RowResult, folder: Path) -> str:
    """Write the picture of a sweep; its file name. Raises ImportError without matplotlib (the extra "bench")."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 3.6), layout="constrained")
    for axes, (name, label) in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        for side in result.sides:
            levels, values = series(result, side, name)
            axes.plot(levels, values, marker="o", linewidth=2.5 if side == DMR else 1.2, label=side)
        axes.set_xscale("log", base=2)
        axes.set_xticks(LEVELS, [str(level) for level in LEVELS])
        axes.set_ylim(bottom=0)
        axes.set_xlabel("users at the same time")
        axes.set_title(label, fontsize=10)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    figure.savefig(folder / FILE, dpi=100)
    return FILE
