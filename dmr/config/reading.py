"""Where settings come from, put together: what is built in, the settings file, variables, flags; the last one goes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from dmr.config.file import SettingsFile, read_file
from dmr.config.settings import ANY_REGISTRY, NO_REGISTRY, Settings
from dmr.config.values import Said, from_text
from dmr.config.variables import VARIABLES
from dmr.errors import InvalidRequest

_DEFAULTS = Settings()


class Effective(NamedTuple):
    """The settings, and who has set which. A field that is in neither map has its built-in value."""

    settings: Settings
    file: SettingsFile | None
    variables: Mapping[str, str]  # field -> the variable that is set


def read_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """Settings from the settings file and from variables; blanks and quotes around a variable's value are dropped.

    Raises:
        InvalidRequest: a value is not of its type or out of range; the message names the variable, or file and key.
    """
    return read_effective(environ).settings


def read_effective(environ: Mapping[str, str] = os.environ) -> Effective:
    """As `read_settings`, with where each came from."""
    file = read_file(environ)
    values: dict[str, Any] = dict(file.values) if file is not None else {}
    variables: dict[str, str] = {}
    for name, row in VARIABLES.items():
        text = environ.get(name, "").strip().strip("\"'")
        if text:
            values[row.field] = from_text(row, text, Said(f"{name}={text!r}", name))
            variables[row.field] = name
    effective = Effective(_settings_of(values), file, variables)
    _check_draft(effective)
    _check_listening(effective.settings)
    _check_fetching(effective.settings)
    _check_private(effective.settings)
    return effective


def _settings_of(values: Mapping[str, Any]) -> Settings:
    top: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {}
    for field, value in values.items():
        part, _, name = field.rpartition(".")
        (parts.setdefault(part, {}) if part else top)[name] = value
    for part, fields in parts.items():
        top[part] = msgspec.structs.replace(getattr(_DEFAULTS, part), **fields)
    settings = Settings(**top)
    return msgspec.structs.replace(settings, models_path=settings.models_path.expanduser())


def _check_fetching(settings: Settings) -> None:
    if len(settings.fetch_media) > 1 and any(each.lower() == "off" for each in settings.fetch_media):
        raise InvalidRequest("DMR_FETCH_MEDIA: 'off' stands alone.", param="DMR_FETCH_MEDIA")


def _check_private(settings: Settings) -> None:
    said = settings.registry.private
    alone = next((each for each in said if each.lower() in (ANY_REGISTRY, NO_REGISTRY)), None)
    if alone is not None and len(said) > 1:
        raise InvalidRequest(f"DMR_PRIVATE_REGISTRIES: '{alone}' stands alone.", param="DMR_PRIVATE_REGISTRIES")


def _check_listening(settings: Settings) -> None:
    tls = settings.tls
    if not settings.plain and not tls.enabled and settings.socket is None:
        raise InvalidRequest(
            "DMR_PLAIN=false leaves nothing to listen on: set MODEL_RUNNER_TLS_ENABLED=true or MODEL_RUNNER_SOCK.",
            param="DMR_PLAIN",
        )
    if tls.enabled and bool(tls.cert) != bool(tls.key):
        raise InvalidRequest(
            "TLS needs both MODEL_RUNNER_TLS_CERT and MODEL_RUNNER_TLS_KEY, or neither.", param="MODEL_RUNNER_TLS_KEY"
        )
    if tls.enabled and not tls.cert and not tls.auto_cert:
        raise InvalidRequest(
            "TLS needs a certificate: set MODEL_RUNNER_TLS_CERT and MODEL_RUNNER_TLS_KEY, or leave "
            "MODEL_RUNNER_TLS_AUTO_CERT on.",
            param="MODEL_RUNNER_TLS_CERT",
        )


def _check_draft(effective: Effective) -> None:
    engine = effective.settings.engine
    if engine.speculation == "draft" and not engine.draft_model:
        file = effective.file
        by_file = file is not None and "engine.speculation" not in effective.variables
        said = f"{file.told('engine.speculation')}: speculation" if file is not None and by_file else "DMR_SPECULATION"
        raise InvalidRequest(
            f"{said} = draft needs a model in DMR_DRAFT_MODEL or in the file's [engine] draft_model.",
            param="DMR_DRAFT_MODEL",
        )
