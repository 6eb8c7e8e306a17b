"""How values are written and read: tables, sizes, ages, durations, text that is safe to show on a terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import click

_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_NUMBER = r"(?:\d+\.?\d*|\.\d+)"
_UNIT = r"(?:ns|us|µs|μs|ms|s|m|h)"
_PART = re.compile(rf"({_NUMBER})({_UNIT})", re.ASCII)
_DURATION = re.compile(rf"(?P<sign>[+-]?)(?:(?P<plain>{_NUMBER})|(?P<parts>(?:{_NUMBER}{_UNIT})+))", re.ASCII)

# Escape sequences in a model's name or answer could rewrite the screen or drive the terminal.
_CONTROLS = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


def printable(text: str) -> str:
    """Text without control characters; newlines and tabs stay."""
    return text.translate(_CONTROLS)


def parse_duration(text: str) -> float:
    """Seconds of a duration like `5m`, `1h30m`, `1.5s`; a number without a unit is seconds.

    Raises:
        ValueError: it is not a duration.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a duration: write it like 90s, 5m or 1h30m, 0, or -1 for ever.")
    if match["plain"]:
        seconds = float(match["plain"])
    else:
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(match["parts"]))
    if not math.isfinite(seconds):
        raise ValueError(f"{text[:20]!r}... is too long a duration.")
    return -seconds if match["sign"] == "-" else seconds


def duration_option(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | None:
    """A click callback for `parse_duration`."""
    try:
        return None if value is None else parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def human_duration(seconds: float) -> str:
    """About how long: `4 minutes`, `16 months`; the steps are those of the upstream command line."""
    if seconds < 1:
        return "Less than a second"
    for limit, unit, words in (
        (60, 1, "second"),
        (3600, 60, "minute"),
        (48 * 3600, 3600, "hour"),
        (14 * 86400, 86400, "day"),
        (60 * 86400, 7 * 86400, "week"),
        (730 * 86400, 30 * 86400, "month"),
        (math.inf, 365 * 86400, "year"),
    ):
        if seconds < limit:
            count = int(seconds // unit)
            return f"{count} {words}" if count == 1 else f"{count} {words}s"
    raise ValueError("not a number of seconds")


def human_size(num_bytes: int) -> str:
    """`91.73MB`: two decimals and units of 1000, as upstream shows disk usage."""
    size, units = float(num_bytes), ["B", "kB", "MB", "GB", "TB"]
    while size >= 999.995 and len(units) > 1:
        size /= 1000
        del units[0]
    return f"{size:.2f}{units[0]}"


def format_seconds(seconds: float | None) -> str:
    """Three digits or a little more: `0.81ms`, `12.3ms`, `4.56s`, `123s`; `-` for none."""
    if seconds is None:
        return "-"
    value, unit = (seconds, "s") if seconds >= 1 else (seconds * 1000, "ms")
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f}{unit}"


def format_rate(rate: float) -> str:
    """One decimal below 1000."""
    return f"{rate:.1f}" if rate < 1000 else f"{rate:.0f}"


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns with two blanks between them, left-aligned, no borders."""
    cells = [tuple(header)] + [tuple(printable(cell).replace("\n", " ") for cell in row) for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )
