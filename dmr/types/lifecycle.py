"""What the manager has counted of each model since the server began, and how models stand now."""

from __future__ import annotations

from collections.abc import Mapping

from dmr.types.value import Value

# Why an engine was ended. "memory": another model needed its memory or its place; "idle": its keep-alive was over;
# "unload": somebody asked for it; "removed": the model was deleted; "replaced": by one with other settings;
# "cancelled": nobody was waiting for it any more while it loaded.
EVICTION_REASONS = ("idle", "memory", "unload", "removed", "replaced", "cancelled")


class ModelLifecycle(Value, frozen=True):
    """One model. Counts are since the server began, and stay when the model is unloaded."""

    id: str
    reference: str  # as typed by whoever used it last
    state: str  # "waiting" (for memory) | "loading" | "ready" | "unloaded" | "backing off" | "quarantined"
    num_loads: int = 0  # that succeeded
    num_load_failures: int = 0
    load_seconds: float = 0.0  # the sum over the loads that succeeded, without waiting for memory
    num_crashes: int = 0  # of its engines, while they loaded or later
    evictions: Mapping[str, int] = {}  # by reason, see EVICTION_REASONS; reasons that have not occurred are left out
    memory_bytes: int = 0  # estimated for its engine: weights, context and buffers; 0 = it has none
    retry_after: float = 0.0  # seconds until it may be started again after crashes; 0 = at once
    last_words: str = ""  # of the engine that crashed last


class ManagerStatistics(Value, frozen=True):
    models: tuple[ModelLifecycle, ...] = ()
    free_bytes: int = -1  # that engines can still take; negative = nobody knows of a bound, or nothing is checked
