"""The table: one line for each target, then every figure. The same for a terminal and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from .comparison import Comparison, Ratio, compare, median_of
from .results import RowResult
from .row import Metric, Row

TARGET_HEAD = ("row", "figure", "dmr", "llama-server", "setting", "dmr / llama-server", "target", "met")
ABSENT = "-"
Line = tuple[str, ...]


def target_lines(row: Row, result: RowResult) -> list[Line]:
    return [_target_line(row, comparison) for comparison in compare(row, result)]


def _target_line(row: Row, comparison: Comparison) -> Line:
    metric, target = comparison.metric, comparison.target
    sign = "≥" if metric.higher_is_better else "≤"
    wanted = f"{sign} {target.bound:.3g}x" if target.against else f"{sign} {target.bound:g} {metric.unit} (dmr)"
    setting = comparison.setting or ABSENT
    return (
        row.name,
        f"{metric.label}, {metric.unit}",
        _value(comparison.ours, metric),
        _value(comparison.theirs, metric),
        setting if target.against in (None, setting) else f"{target.against}: {setting}",
        _ratio(comparison.ratio),
        wanted,
        {True: "yes", False: "NO", None: "?"}[comparison.is_met],
    )


def _value(value: float | None, metric: Metric) -> str:
    return ABSENT if value is None else f"{value:.{metric.digits}f}"


def _ratio(ratio: Ratio | None) -> str:
    if ratio is None:
        return ABSENT
    return f"{_number(ratio.median)} ({_number(ratio.low)} to {_number(ratio.high)})"


def _number(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:.2f}"


def figure_table(row: Row, result: RowResult) -> list[Line]:
    """Head and lines: the median of every figure on every side, and how many rounds failed."""
    lines: list[Line] = [("figure", "unit", *result.sides)]
    for metric in row.metrics:
        values = [_value(median_of(result, side, metric.name), metric) for side in result.sides]
        lines.append((metric.label, metric.unit, *values))
    counts = [f"{len(result.of(side))} of {len(result.of(side)) + len(result.failures(side))}" for side in result.sides]
    return [*lines, ("rounds with figures", "", *counts)]


def failure_lines(result: RowResult) -> list[str]:
    """Why rounds failed, each reason once for a side."""
    return [f"{side}: {reason}" for side in result.sides for reason in sorted(set(result.failures(side)))]


def plain(lines: Sequence[Line]) -> str:
    """Columns side by side."""
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def markdown(lines: Sequence[Line]) -> str:
    head, *rest = lines
    rows = [head, tuple("---" for _ in head), *rest]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def terminal_report(rows: Mapping[str, Row], results: Mapping[str, RowResult]) -> str:
    lines = [line for name, row in rows.items() if name in results for line in target_lines(row, results[name])]
    return plain([TARGET_HEAD, *lines]) if lines else ""


def markdown_report(rows: Mapping[str, Row], results: Mapping[str, RowResult], plots: Iterable[str] = ()) -> str:
    """The whole page. `plots`: names of pictures beside it."""
    known = [(row, results[name]) for name, row in rows.items() if name in results]
    parts = ["# dmr beside llama-server", "", *_provenance(results.values()), ""]
    lines = [line for row, result in known for line in target_lines(row, result)]
    if lines:
        parts += [markdown([TARGET_HEAD, *lines]), ""]
        parts += ["A ratio is the median over pairs of rounds, with the smallest and the largest behind it.", ""]
    parts += [part for plot in plots for part in (f"![{plot}]({plot})", "")]
    for row, result in known:
        parts += [f"## Row {row.name}: {result.title}", "", markdown(figure_table(row, result)), ""]
        parts += [f"- {side}: `{' '.join(result.settings[side]) or 'its defaults'}`" for side in result.sides]
        parts += [f"- {line}" for line in [*failure_lines(result), *result.notes]] + [""]
    for name in sorted(results.keys() - rows.keys()):
        result = results[name]
        parts += [f"## {result.title}", "", *(f"- {note}" for note in result.notes), ""]
    return "\n".join(parts)


def _provenance(results: Iterable[RowResult]) -> list[str]:
    """Where and of what; a line for each combination that there is."""
    lines: dict[str, list[str]] = {}
    for result in results:
        machine, versions = result.machine, result.versions
        line = (
            f"dmr {versions.dmr}, llama.cpp {versions.llama_cpp}; {machine.cpu}, {machine.num_cores} cores, "
            f"{machine.memory_gib} GiB, {machine.kernel}; {result.date[:10]}"
        )
        lines.setdefault(line, []).append(result.row)
    if len(lines) == 1:
        return list(lines)
    return [f"- rows {', '.join(names)}: {line}" for line, names in lines.items()]
