"""The models as OpenAI lists them, with the `dmr` object that Docker Model Runner adds (its GET /v1/models)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Union

import msgspec
from msgspec import UNSET, UnsetType

from dmr.types import ModelConfig, ModelRecord

DEFAULT_REGISTRY = "docker.io/"
OWNER = "docker"


class DmrInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """Every field is left out when it is empty."""

    context_window: Union[int, None] = None
    architecture: str = ""
    parameters: str = ""
    quantization: str = ""
    size: str = ""
    capabilities: tuple[str, ...] = ()  # as /api/show tells them


class Model(msgspec.Struct, frozen=True):
    id: str
    object: str
    created: int
    owned_by: str
    dmr: Union[DmrInfo, UnsetType] = UNSET


class ModelPage(msgspec.Struct, frozen=True):
    object: str
    data: list[Model]


class Deleted(msgspec.Struct, frozen=True):
    id: str
    object: str = "model"
    deleted: bool = True


Capable = Callable[[ModelRecord], tuple[str, ...]]


def to_models(
    records: Iterable[ModelRecord],
    elsewhere: Mapping[str, Iterable[str]] = {},
    capabilities: Capable = lambda record: (),
) -> ModelPage:
    """One entry for each tag, so that every id can be used as a model name; an untagged model goes by its digest.

    `elsewhere`: models of other engines, by the engines' names; whoever comes first has a name.
    """
    models = {id: _model(record, id, capabilities(record)) for record in records for id in _ids(record)}
    for engine, names in elsewhere.items():
        for name in names:
            models.setdefault(name, model_elsewhere(name, engine))
    return ModelPage("list", list(models.values()))


def model_elsewhere(name: str, engine: str) -> Model:
    """A model of another engine; when it was made is not known."""
    return Model(name, "model", 0, engine)


def to_model(record: ModelRecord, asked_for: str, capabilities: tuple[str, ...]) -> Model:
    """One model under the name that was asked for, if that is one of its tags."""
    ids = _ids(record)
    asked = {asked_for.removeprefix(DEFAULT_REGISTRY), asked_for.removeprefix(DEFAULT_REGISTRY) + ":latest"}
    return _model(record, next((id for id in ids if id in asked), ids[0]), capabilities)


def _ids(record: ModelRecord) -> list[str]:
    return [tag.removeprefix(DEFAULT_REGISTRY) for tag in record.tags] or [record.id]


def _model(record: ModelRecord, id: str, capabilities: tuple[str, ...]) -> Model:
    info = _info(record.config, capabilities)
    return Model(id, "model", record.created, OWNER, UNSET if info == DmrInfo() else info)


def _info(config: ModelConfig, capabilities: tuple[str, ...]) -> DmrInfo:
    return DmrInfo(
        config.context_size,
        config.architecture,
        config.parameters,
        config.quantization,
        config.size,
        capabilities,
    )
