"""With what settings the engine of a model is started, and how long it stays when it is idle."""

from __future__ import annotations

import msgspec

from dmr.config import EngineSettings, Settings
from dmr.manager.context_limits import default_context
from dmr.types import ModelRecord


class EngineChoices:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def engine_settings(self, record: ModelRecord, context_size: int | None) -> EngineSettings:
        """`context_size`: tokens that a request needs; None = it is content with what there is."""
        settings = self._settings.engine
        # An engine that chooses for itself takes less where memory is short; one that is told to fails.
        if context_size is None or context_size <= self.usual_context(record):
            return settings
        return msgspec.structs.replace(settings, context_size=context_size)

    def usual_context(self, record: ModelRecord) -> int:
        """Tokens of an engine that nobody has asked for more."""
        return self._settings.engine.context_size or default_context(record)

    def keep_alive(self, record: ModelRecord) -> float:
        """Seconds that an engine stays loaded of which no request has said how long; negative = for ever."""
        return self._settings.keep_alive
