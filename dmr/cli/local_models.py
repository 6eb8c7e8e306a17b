"""The store on this machine's disk, for when no server runs: the calls about models that a server's client has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from dmr.cli.missing import no_such_model
from dmr.errors import ModelNotFound, Unsupported
from dmr.store.store import ModelStore
from dmr.types import ModelRecord

T = TypeVar("T")


class LocalModels:
    """The models below `root`. Errors are the store's own."""

    def __init__(self, root: Path) -> None:
        self.store = ModelStore(root)

    def list_models(self, kind: type[T]) -> list[T]:
        return [_as(record, kind) for record in self.store.models()]

    def get_model(self, name: str, kind: type[T], *, remote: bool = False) -> T:
        """One model; raises `ModelNotFound`."""
        if remote:
            raise Unsupported("A registry is read by a server: start one with `dmr serve`.")
        with _missing_model(name):
            return _as(self.store.get(name, loose=True), kind)

    def remove_model(self, name: str, *, force: bool) -> list[dict[str, str]]:
        """Remove a tag or a model; what was done, in order. Raises `ModelNotFound`, `Conflict`."""
        with _missing_model(name):
            removal = self.store.remove(name, force)
        return [*({"Untagged": tag} for tag in removal.untagged), *({"Deleted": id} for id in removal.deleted)]

    def tag_model(self, source: str, repository: str, tag: str) -> None:
        """Give a model another name; raises `ModelNotFound`."""
        with _missing_model(source):
            self.store.tag(source, f"{repository}:{tag}")

    def disk_usage(self) -> dict[str, int]:
        """Bytes by kind."""
        return {"models_disk_usage": self.store.disk_usage()}


def _as(record: ModelRecord, kind: type[T]) -> T:
    """A record in the shape of `GET /models`."""
    shape: dict[str, Any] = {"id": record.id, "tags": record.tags, "created": record.created, "config": record.config}
    if not record.tags:
        del shape["tags"]
    return msgspec.convert(msgspec.to_builtins(shape), kind)


@contextlib.contextmanager
def _missing_model(name: str) -> Iterator[None]:
    try:
        yield
    except ModelNotFound:
        raise no_such_model(name) from None
