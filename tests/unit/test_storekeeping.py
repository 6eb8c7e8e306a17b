"""The service's door to archives and the store as a whole, over a manager that is asked and a real store."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from unit.store.archives import digest, tar_of, upstream_archive
from unit.store.gguf_bytes import gguf_bytes

from dmr.errors import InvalidModelFile, InvalidReference
from dmr.service.storekeeping import Storekeeping
from dmr.store.archive import ReceivedArchive, adopt_archive
from dmr.store.repackage import repackage_model
from dmr.store.store import ModelStore
from dmr.types import ModelRecord, Removal, Repackaging

ARCHIVE = upstream_archive(gguf_bytes())


class ObedientManager:
    """Does what the manager's process would do."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self.asked: list[Any] = []

    def adopt_model(self, manifest: bytes, name: str, reference: str) -> ModelRecord:
        self.asked.append((digest(manifest), name, reference))
        return adopt_archive(self._store, ReceivedArchive(manifest, name), reference)

    def repackage_model(self, base: str, wish: Repackaging) -> ModelRecord:
        return repackage_model(self._store, base, wish)

    def purge_models(self, force: bool) -> Removal:
        self.asked.append(force)
        return self._store.purge()


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


@pytest.fixture
def manager(store: ModelStore) -> ObedientManager:
    return ObedientManager(store)


@pytest.fixture
def storekeeping(manager: ObedientManager, store: ModelStore) -> Storekeeping:
    return Storekeeping(manager, store)  # type: ignore[arg-type]


def test_there_and_back(storekeeping: Storekeeping, manager: ObedientManager, store: ModelStore) -> None:
    record = storekeeping.load(io.BytesIO(tar_of(ARCHIVE)), "one")
    with storekeeping.export("one") as archive:
        data = archive.read()
    assert storekeeping.repackage("one", Repackaging("two", context_size=9)).config.context_size == 9
    assert storekeeping.usage().models > 0
    assert len(storekeeping.purge(True).deleted) == 2
    assert storekeeping.load(io.BytesIO(data)).tags == ("docker.io/ai/one:latest",)
    assert manager.asked == [(record.id, "", "one"), True, (record.id, "docker.io/ai/one:latest", "")]
    assert store.verify("one") == []


def test_what_is_refused_does_not_reach_the_manager(storekeeping: Storekeeping, manager: ObedientManager) -> None:
    untouched = io.BytesIO(tar_of(ARCHIVE))
    for name in ("a b", "a@sha256:" + "0" * 64):
        with pytest.raises(InvalidReference):
            storekeeping.load(untouched, name)
    assert untouched.tell() == 0
    with pytest.raises(InvalidModelFile):
        storekeeping.load(io.BytesIO(b"junk" * 500))
    assert manager.asked == []
