"""Models as `tags`, `ps` and `show` tell of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Union

import msgspec
from msgspec import UNSET, UnsetType

from dmr.types import ModelConfig, ModelRecord, RunningModel
from dmr_server.ollama.names import name_of, names_of, to_name
from dmr_server.ollama.wire import FOREVER, timestamp

_UNITS: Mapping[str, int] = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_AMOUNT = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([KMBT]?)")
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_FLOAT = re.compile(r"-?[0-9]{1,18}\.[0-9]{1,18}")
# Metadata that is text, whatever it looks like, that is a list, and that has a place of its own.
_TEXTS = ("general.version", "general.basename", "general.finetune", "general.size_label", "general.organization")
_LISTS = ("general.tags", "general.languages", "general.datasets")
_ELSEWHERE = ("general.name", "tokenizer.chat_template")


class Details(msgspec.Struct, frozen=True):
    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str
    context_length: Union[int, UnsetType] = UNSET
    embedding_length: Union[int, UnsetType] = UNSET


class ListedModel(msgspec.Struct, frozen=True):
    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: Details
    capabilities: tuple[str, ...]


class LoadedModel(msgspec.Struct, frozen=True):
    name: str
    model: str
    size: int
    digest: str
    details: Details
    expires_at: str
    size_vram: int
    context_length: int


def to_listed(record: ModelRecord, capabilities: tuple[str, ...]) -> list[ListedModel]:
    """One entry for each name of a model."""
    return [
        ListedModel(
            name=name,
            model=name,
            modified_at=timestamp(record.created),
            size=record.size,
            digest=to_digest(record.id),
            details=to_details(record.config, record.parent),
            capabilities=capabilities,
        )
        for name in names_of(record)
    ]


def to_loaded(model: RunningModel, record: ModelRecord | None, now: float) -> LoadedModel:
    """A loaded model; `record` is None if it was removed meanwhile. What is busy expires from `now` on."""
    name = model.reference if record is None else name_of(record, model.reference)
    return LoadedModel(
        name=name,
        model=name,
        size=model.size,
        digest=to_digest(model.id),
        details=to_details(ModelConfig()) if record is None else to_details(record.config, record.parent),
        expires_at=timestamp(expiry(model, now)),
        size_vram=0,
        context_length=model.context_size,
    )


def expiry(model: RunningModel, now: float) -> float:
    """When an idle model is unloaded, in Unix seconds; one that stays for ever goes in 292 years, as in Ollama."""
    since = now if model.num_active or model.state == "loading" else model.last_used
    return since + (FOREVER if model.keep_alive < 0 else min(model.keep_alive, FOREVER))


def to_digest(id: str) -> str:
    return id.removeprefix("sha256:")


def to_details(config: ModelConfig, parent: str = "") -> Details:
    """`parent`: the full name of the model that this one was made of."""
    family = config.architecture or config.gguf.get("general.architecture", "")
    return Details(
        parent_model=to_name(parent),
        format=config.format or "gguf",
        family=family,
        families=[family] if family else [],
        parameter_size=config.parameters,
        quantization_level=config.quantization,
        context_length=_length(config.gguf, family, "context_length"),
        embedding_length=_length(config.gguf, family, "embedding_length"),
    )


def _length(gguf: Mapping[str, str], family: str, key: str) -> int | UnsetType:
    text = gguf.get(f"{family}.{key}", "")
    return int(text) if _INTEGER.fullmatch(text) else UNSET


def to_model_info(config: ModelConfig, verbose: bool) -> dict[str, Any]:
    """The file's metadata, numbers as numbers; lists are null unless `verbose`."""
    info: dict[str, Any] = {"general.architecture": config.architecture}
    info.update({key: _typed(key, text, verbose) for key, text in config.gguf.items() if key not in _ELSEWHERE})
    amount = _AMOUNT.fullmatch(config.parameters.replace(" ", ""))
    if amount is not None:
        # The store knows three digits of it.
        info.setdefault("general.parameter_count", round(float(amount.group(1)) * _UNITS[amount.group(2)]))
    return info


def _typed(key: str, text: str, verbose: bool) -> Any:
    parts = text.split(", ")
    if key in _LISTS or (len(parts) > 1 and all(_is_number(part) for part in parts)):
        return [_scalar(part) for part in parts] if verbose else None
    return text if key in _TEXTS else _scalar(text)


def _is_number(text: str) -> bool:
    return _INTEGER.fullmatch(text) is not None or _FLOAT.fullmatch(text) is not None


def _scalar(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def newest_first(records: Iterable[ModelRecord]) -> list[ModelRecord]:
    return sorted(records, key=lambda record: -record.created)
