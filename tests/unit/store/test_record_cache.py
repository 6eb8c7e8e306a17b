from __future__ import annotations

from pathlib import Path

import pytest
from unit.store.gguf_bytes import Tensor, gguf_bytes

from dmr.errors import InvalidReference, ModelNotFound
from dmr.store import record_cache
from dmr.store.record_cache import RecordCache
from dmr.store.store import ModelStore


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def add(store: ModelStore, name: str, fill: int = 0) -> None:
    path = store.root.parent / "one.gguf"
    path.write_bytes(gguf_bytes(tensors=[Tensor("weight", data=bytes([fill]) * 128)]))
    store.import_gguf(path, name)


def test_a_record_is_read_once(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    add(store, "one")
    cache = RecordCache(store)
    assert cache.known("one") is None
    record = cache.get("one")
    assert record == store.get("one")
    monkeypatch.setattr(store, "get", lambda reference: pytest.fail("read again"))
    assert cache.get("one") is record
    assert cache.known("one") is record


def test_whatever_changes_the_store_is_seen(store: ModelStore) -> None:
    cache = RecordCache(store)
    with pytest.raises(ModelNotFound):
        cache.get("one")
    add(store, "one")
    first = cache.get("one")
    store.tag("one", "two")
    assert cache.known("one") is None
    assert len(cache.get("one").tags) == 2
    add(store, "one", fill=1)
    assert cache.get("one").id != first.id
    store.remove("one", False)
    assert cache.known("one") is None
    with pytest.raises(ModelNotFound):
        cache.get("one")
    with pytest.raises(InvalidReference):
        cache.get("a//b")


def test_it_does_not_grow_for_ever(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_cache, "MAX_REMEMBERED", 2)
    for name in ("a", "b", "c", "d"):
        add(store, name, fill=ord(name))
    cache = RecordCache(store)
    for name in ("a", "b", "c", "d"):
        cache.get(name)
    assert len(cache._known) <= 3
