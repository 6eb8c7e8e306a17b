"""A registry on loopback, a store with a model that is pushed there, and a store that is empty."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback_registry import LoopbackRegistry, running
from transfer_models import NOBODY, plain_model

from dmr.store.registry import transport
from dmr.store.store import ModelStore
from dmr.store.transfers import push


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long before the next attempt."""
    monkeypatch.setattr(transport, "MAX_WAIT", 0.01)


@pytest.fixture
def registry() -> Iterator[LoopbackRegistry]:
    with running(LoopbackRegistry()) as server:
        yield server


@pytest.fixture
def source(tmp_path: Path) -> ModelStore:
    """A store with one model of 3 MiB."""
    store = ModelStore(tmp_path / "source")
    plain_model(store, tmp_path, "test/model")
    return store


@pytest.fixture
def target(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "target")


@pytest.fixture
def name(registry: LoopbackRegistry, source: ModelStore) -> str:
    """The model's name in the registry, where it is already."""
    pushed = f"{registry.host}/test/model:v1"
    push(source, "test/model", pushed, NOBODY, lambda _: None)
    registry.requests.clear()
    return pushed
