"""With what settings the engine of a model is started, and how long it stays when it is idle."""

from __future__ import annotations

import msgspec

from dmr.config import EngineSettings, Settings
from dmr.manager.configurations import Configurations
from dmr.manager.context_limits import default_context, trained_context
from dmr.manager.engine_plan import EnginePlan
from dmr.types import ModelRecord


class EngineChoices:
    def __init__(self, settings: Settings, configurations: Configurations) -> None:
        self._settings = settings
        self._configurations = configurations

    def plan(self, record: ModelRecord) -> EnginePlan:
        """As the server and the model are configured. Raises ModelLoadFailed: that cannot be had any more."""
        return self._configurations.plan(record, self._settings.engine, trained_context(record))

    def engine_settings(self, record: ModelRecord, plan: EnginePlan, context_size: int | None) -> EngineSettings:
        """`context_size`: tokens that a request needs; None = it is content with what there is."""
        # An engine that chooses for itself takes less where memory is short; one that is told to fails.
        if context_size is None or context_size <= self.usual_context(record, plan):
            return plan.settings
        return msgspec.structs.replace(plan.settings, context_size=context_size)

    def usual_context(self, record: ModelRecord, plan: EnginePlan) -> int:
        """Tokens of an engine that nobody has asked for more."""
        return plan.settings.context_size or default_context(record)

    def keep_alive(self, record: ModelRecord) -> float:
        """Seconds that an engine stays loaded of which no request has said how long; negative = for ever."""
        configured = self._configurations.keep_alive(record)
        return self._settings.keep_alive if configured is None else configured

    def can_be_pinned(self, record: ModelRecord) -> bool:
        """Whether a keep-alive for ever says that the model is never to make room for others.

        Not where the server keeps all of them for ever: then only what was configured says so.
        """
        return self._settings.keep_alive >= 0 or (self._configurations.keep_alive(record) or 0) < 0
