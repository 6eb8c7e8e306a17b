"""Where settings come from, put together."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from dmr.config.settings import SPECULATIONS, EngineSettings, RegistrySettings, Settings
from dmr.config.variables import VARIABLES, parse_text
from dmr.errors import InvalidRequest

_LOG_LEVELS = ("debug", "info", "warn", "warning", "error")


def read_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """Settings from environment variables; blanks and quotes around a value are dropped.

    Raises:
        InvalidRequest: a value is not of its type or out of range; the message names the variable.
    """
    flat: dict[str, Any] = {}
    for variable, (field, *_) in VARIABLES.items():
        text = environ.get(variable, "").strip().strip("\"'")
        if text:
            flat[field] = parse_text(variable, text)
    if "engine.draft_model" in flat:
        flat["engine.draft_model"] = str(Path(flat["engine.draft_model"]).expanduser())
    top = {field: value for field, value in flat.items() if "." not in field}
    engine, registry = EngineSettings(**_part(flat, "engine")), RegistrySettings(**_part(flat, "registry"))
    settings = Settings(**top, engine=engine, registry=registry)
    if settings.log_level.lower() not in _LOG_LEVELS:
        raise InvalidRequest(
            f"LOG_LEVEL={settings.log_level!r} is none of {', '.join(_LOG_LEVELS)}.", param="LOG_LEVEL"
        )
    _check_speculation(engine)
    return msgspec.structs.replace(settings, models_path=settings.models_path.expanduser())


def _check_speculation(engine: EngineSettings) -> None:
    if engine.speculation not in SPECULATIONS:
        raise InvalidRequest(
            f"DMR_SPECULATION={engine.speculation!r} is none of {', '.join(SPECULATIONS)}.", param="DMR_SPECULATION"
        )
    if engine.speculation == "draft" and not engine.draft_model:
        raise InvalidRequest("DMR_SPECULATION=draft needs a model in DMR_DRAFT_MODEL.", param="DMR_DRAFT_MODEL")


def _part(flat: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {field.partition(".")[2]: value for field, value in flat.items() if field.startswith(f"{name}.")}
