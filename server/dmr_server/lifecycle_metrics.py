"""What the manager has counted of loads, evictions and crashes, and which other engines can be reached."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from dmr.types import EVICTION_REASONS, ManagerStatistics, ModelLifecycle
from dmr_server.exposition import Sample, family

if TYPE_CHECKING:
    from dmr.service.upstreams import UpstreamState


class Lived(NamedTuple):
    """`samples`: of one model, without the label of its name."""

    name: str
    kind: str
    help: str
    samples: Callable[[ModelLifecycle], Iterable[Sample]]


LIVED = (
    Lived("dmr_model_loads_total", "counter", "Loads that succeeded.", lambda told: [({}, told.num_loads)]),
    Lived(
        "dmr_model_load_failures_total", "counter", "Loads that failed.", lambda told: [({}, told.num_load_failures)]
    ),
    Lived(
        "dmr_model_load_seconds_total",
        "counter",
        "What the loads that succeeded took.",
        lambda told: [({}, told.load_seconds)],
    ),
    Lived(
        "dmr_model_evictions_total",
        "counter",
        "Engines that were ended, by reason.",
        lambda told: [({"reason": reason}, told.evictions.get(reason, 0)) for reason in EVICTION_REASONS],
    ),
    Lived("dmr_model_crashes_total", "counter", "Engines that crashed.", lambda told: [({}, told.num_crashes)]),
    Lived(
        "dmr_model_memory_bytes",
        "gauge",
        "What a model's engine is estimated to take; 0 if it has none.",
        lambda told: [({}, told.memory_bytes)],
    ),
    Lived("dmr_model_state", "gauge", "1 for the state that a model is in.", lambda told: [({"state": told.state}, 1)]),
)
LOADED = ("dmr_loaded_models", "gauge", "Models that are loaded.")
FREE = ("dmr_free_memory_bytes", "gauge", "What engines can still take, if a bound is known.")
REACHED = ("dmr_upstream_up", "gauge", "1 if an engine beyond this machine could be reached, 0 if not.")


def exposition(
    told: ManagerStatistics, names: Mapping[str, str] = {}, upstreams: Mapping[str, UpstreamState] = {}
) -> str:
    """`names`: of models by their ids; one that the store has no more goes by its id, for names may change hands."""
    return "".join(f"{line}\n" for line in _lines(told, names, upstreams))


def _lines(told: ManagerStatistics, names: Mapping[str, str], upstreams: Mapping[str, UpstreamState]) -> Iterator[str]:
    yield from family(*LOADED, [({}, sum(model.state == "ready" for model in told.models))])
    if told.free_bytes >= 0:
        yield from family(*FREE, [({}, told.free_bytes)])
    for lived in LIVED:
        samples = [
            ({"model": names.get(model.id, model.id), **labels}, value)
            for model in told.models
            for labels, value in lived.samples(model)
        ]
        yield from family(lived.name, lived.kind, lived.help, samples)
    yield from family(*REACHED, [({"engine": name}, int(state.is_up)) for name, state in upstreams.items()])
