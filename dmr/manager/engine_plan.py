"""How an engine is started for a model: the server's settings, and over them what was configured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from dmr.config import EngineSettings
from dmr.manager.configuration_rules import shared_values
from dmr.runtime_flags import FlagValues, engine_settings, read_flags
from dmr.types import AS_TRAINED, Mode, ModelConfiguration


class EnginePlan(NamedTuple):
    settings: EngineSettings
    embedding: EngineSettings | None = None  # None = as `settings`
    reranking: EngineSettings | None = None
    log_level: str | None = None  # None = the server's


def plan_engine(
    base: EngineSettings,
    configurations: Mapping[Mode, ModelConfiguration],
    trained_context: int | None,
    draft_path: Callable[[str], str],
) -> EnginePlan:
    """`configurations`: of one model, those that were set. `draft_path`: the file of a model, by reference.

    Raises what `draft_path` raises.
    """
    shared: dict[str, object] = {}
    for configuration in configurations.values():
        shared.update(shared_values(configuration).values)

    def settings_of(mode: Mode) -> EngineSettings | None:
        configuration = configurations.get(mode)
        if configuration is None:
            return None
        values = FlagValues({**shared, **read_flags(configuration.runtime_flags).values})
        return _with_fields(engine_settings(base, values), configuration, values, trained_context, draft_path)

    return EnginePlan(
        settings_of(Mode.COMPLETION) or engine_settings(base, FlagValues(shared)),
        settings_of(Mode.EMBEDDING),
        settings_of(Mode.RERANKING),
        FlagValues(shared).part("process").get("log_level"),
    )


def longest_keep_alive(configurations: Mapping[Mode, ModelConfiguration]) -> float | None:
    """Seconds; negative = for ever; None = nobody has said. All modes of a model are kept by one engine."""
    wishes = [each.keep_alive for each in configurations.values() if each.keep_alive is not None]
    return -1.0 if any(wish < 0 for wish in wishes) else max(wishes, default=None)


def _with_fields(
    settings: EngineSettings,
    configuration: ModelConfiguration,
    values: FlagValues,
    trained_context: int | None,
    draft_path: Callable[[str], str],
) -> EngineSettings:
    changes: dict[str, object] = {}
    if configuration.context_size == AS_TRAINED:
        changes["context_size"] = trained_context or 0
    elif configuration.context_size is not None:
        changes["context_size"] = configuration.context_size
    if configuration.max_draft_tokens is not None:
        changes["max_draft_tokens"] = configuration.max_draft_tokens
    if configuration.least_draft_probability is not None:
        changes["draft"] = msgspec.structs.replace(
            settings.draft, least_probability=configuration.least_draft_probability
        )
    if configuration.draft_model is not None:
        changes["draft_model"] = draft_path(configuration.draft_model)
        if "engine.speculation" not in values.values:  # who names a model wants it, or to be told why not
            changes["speculation"] = "draft"
    return msgspec.structs.replace(settings, **changes)
