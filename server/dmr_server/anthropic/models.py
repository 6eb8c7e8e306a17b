"""The models as Anthropic lists them."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import Union

import msgspec

from dmr.errors import InvalidRequest
from dmr.types import ModelRecord

DEFAULT_REGISTRY = "docker.io/"
MAX_PAGE = 1000


class Model(msgspec.Struct, frozen=True):
    """One name of a model. The limits are those that it was trained for; None = its file does not tell."""

    type: str
    id: str
    display_name: str
    created_at: str
    max_input_tokens: Union[int, None]
    max_tokens: Union[int, None]
    lifecycle: str = "active"


class ModelPage(msgspec.Struct, frozen=True):
    data: list[Model]
    has_more: bool
    first_id: Union[str, None]
    last_id: Union[str, None]


class Page(msgspec.Struct, frozen=True):
    """Which part of a list is wanted. Anthropic gives 20 if nothing is said; clients that do not turn pages see all."""

    limit: int = MAX_PAGE
    after_id: str = ""
    before_id: str = ""


def to_models(records: Iterable[ModelRecord], page: Page) -> ModelPage:
    """One page, newest first, with one entry for each tag; raises InvalidRequest for an id that is not there."""
    newest = sorted(records, key=lambda record: -record.created)
    models = [_model(record, id) for record in newest for id in _ids(record)]
    if page.after_id:
        models = models[_place(models, page.after_id, "after_id") + 1 :]
    if page.before_id:
        models = models[: _place(models, page.before_id, "before_id")]
    backwards = bool(page.before_id) and not page.after_id
    chosen = models[-page.limit :] if backwards else models[: page.limit]
    return ModelPage(
        data=chosen,
        has_more=len(chosen) < len(models),
        first_id=chosen[0].id if chosen else None,
        last_id=chosen[-1].id if chosen else None,
    )


def to_model(record: ModelRecord, asked_for: str) -> Model:
    """One model under the name that was asked for, if that is one of its tags."""
    ids = _ids(record)
    asked = asked_for.removeprefix(DEFAULT_REGISTRY)
    return _model(record, next((id for id in ids if id in (asked, asked + ":latest")), ids[0]))


def _place(models: list[Model], id: str, param: str) -> int:
    for place, model in enumerate(models):
        if model.id == id:
            return place
    raise InvalidRequest(f"'{param}' names no model of this list: '{id[:128]}'.", param=param)


def _ids(record: ModelRecord) -> list[str]:
    return [tag.removeprefix(DEFAULT_REGISTRY) for tag in record.tags] or [record.id]


def _model(record: ModelRecord, id: str) -> Model:
    created = datetime.datetime.fromtimestamp(record.created, datetime.timezone.utc)
    size = record.config.context_size
    return Model("model", id, id, created.strftime("%Y-%m-%dT%H:%M:%SZ"), size, size)
