"""What HTTP workers have served: requests by address and status, and the work of each model by its kind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from dmr.types import Histogram
from dmr_server.exposition import Sample, family
from dmr_server.recording.journal import Count
from dmr_server.recording.recorder import BOUNDS


class Served(NamedTuple):
    """`counted` is its name in the journal, `labels` are those of its values there."""

    name: str
    counted: str
    labels: tuple[str, ...]
    help: str


SERVED = (
    Served("dmr_http_requests_total", "requests", ("route", "method", "status"), "Requests by address and status."),
    Served("dmr_model_requests_total", "model_requests", ("model", "mode", "status"), "Requests for a model's work."),
    Served("dmr_model_input_tokens_total", "input_tokens", ("model", "mode"), "Tokens of what they asked."),
    Served("dmr_model_output_tokens_total", "output_tokens", ("model", "mode"), "Tokens of what they were answered."),
)
SECONDS = ("dmr_http_request_seconds", "histogram", "Of a request, from its head to the end of its answer.")


def exposition(counts: Mapping[Count, float]) -> str:
    """All of it; "" before the first request."""
    return "".join(f"{line}\n" for line in _lines(counts))


def _lines(counts: Mapping[Count, float]) -> Iterator[str]:
    for name, counted, labels, text in SERVED:
        samples: list[Sample] = [
            (dict(zip(labels, count.labels, strict=True)), int(value))
            for count, value in counts.items()
            if count.name == counted
        ]
        yield from family(name, "counter", text, samples)
    yield from family(*SECONDS, _seconds(counts))


def _seconds(counts: Mapping[Count, float]) -> list[Sample]:
    buckets: dict[str, list[int]] = defaultdict(lambda: [0] * (len(BOUNDS) + 1))
    for count, value in counts.items():
        if count.name == "seconds":
            route, bucket = count.labels
            buckets[route][int(bucket)] += int(value)
    return [
        ({"route": route}, Histogram(BOUNDS, tuple(found), counts.get(Count("seconds_sum", (route,)), 0.0)))
        for route, found in buckets.items()
    ]
