"""Prometheus' text format 0.0.4."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Union

from dmr.types import Histogram

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = Mapping[str, str]
Number = Union[int, float]
Sample = tuple[Labels, Union[Number, Histogram]]


def family(name: str, kind: str, text: str, samples: Sequence[Sample]) -> Iterator[str]:
    """The lines of one metric; none without samples."""
    if not samples:
        return
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    for labels, value in samples:
        if isinstance(value, Histogram):
            yield from _histogram_lines(name, labels, value)
        else:
            yield _sample(name, labels, value)


def _histogram_lines(name: str, labels: Labels, value: Histogram) -> Iterator[str]:
    counts = list(accumulate(value.counts))
    for bound, count in zip([*map(repr, value.bounds), "+Inf"], counts, strict=True):
        yield _sample(f"{name}_bucket", {**labels, "le": bound}, count)
    yield _sample(f"{name}_sum", labels, value.total)
    yield _sample(f"{name}_count", labels, counts[-1])


def _sample(name: str, labels: Labels, value: Number) -> str:
    if not labels:
        return f"{name} {value!r}"
    written = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
    return f"{name}{{{written}}} {value!r}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
