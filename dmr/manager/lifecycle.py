"""What has happened to each model since the server began, and whether it may start after crashes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

from dmr.manager.crashes import CrashRecord
from dmr.manager.loaded_model import LoadedModel
from dmr.types import ManagerStatistics, ModelLifecycle


class Lifecycle:
    """Of one model."""

    def __init__(self, reference: str) -> None:
        self.reference = reference
        self.num_loads = 0
        self.num_load_failures = 0
        self.load_seconds = 0.0
        self.evictions: Counter[str] = Counter()  # by reason
        self.crashes = CrashRecord()

    def loaded(self, seconds: float) -> None:
        self.num_loads += 1
        self.load_seconds += seconds

    def describe(self, model_id: str, loaded: LoadedModel | None, now: float) -> ModelLifecycle:
        return ModelLifecycle(
            id=model_id,
            reference=self.reference,
            state=self._state(loaded, now),
            num_loads=self.num_loads,
            num_load_failures=self.num_load_failures,
            load_seconds=self.load_seconds,
            num_crashes=self.crashes.num_crashes,
            evictions=dict(self.evictions),
            memory_bytes=loaded.claim if loaded else 0,
            retry_after=self.crashes.retry_after(now),
            last_words=self.crashes.last_words,
        )

    def _state(self, loaded: LoadedModel | None, now: float) -> str:
        if loaded is not None and loaded.is_alive:
            return "waiting" if loaded.is_waiting else "loading" if loaded.is_loading else "ready"
        if self.crashes.is_quarantined(now):
            return "quarantined"
        return "backing off" if self.crashes.retry_after(now) else "unloaded"


class Lifecycles:
    """Of all models that were used; those that are removed from the store are forgotten."""

    def __init__(self) -> None:
        self._by_id: dict[str, Lifecycle] = {}

    def of(self, model_id: str, reference: str) -> Lifecycle:
        return self._by_id.setdefault(model_id, Lifecycle(reference))

    def forgive(self, model_id: str) -> None:
        """Somebody has done something about its crashes."""
        if model_id in self._by_id:
            self._by_id[model_id].crashes.forgive()

    def forget(self, model_id: str) -> None:
        self._by_id.pop(model_id, None)

    def statistics(self, loaded: Mapping[str, LoadedModel], free_bytes: int) -> ManagerStatistics:
        now = time.monotonic()
        models = (life.describe(model_id, loaded.get(model_id), now) for model_id, life in self._by_id.items())
        return ManagerStatistics(tuple(models), free_bytes)
