"""Configurations are kept: across restarts, by model and by name, and never half."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from unit.store.gguf_bytes import Tensor, gguf_bytes

from dmr.config import EngineSettings
from dmr.errors import InvalidRequest, ModelLoadFailed, StoreError
from dmr.manager.configurations import Configurations
from dmr.store.configurations import ConfigurationCache, configuration_of
from dmr.store.store import ModelStore
from dmr.types import ConfigurationChange, ConfiguredModel, Mode, ModelConfiguration, ModelRecord


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


def add(store: ModelStore, name: str, number: int = 0) -> ModelRecord:
    path = store.root.parent / f"{number}.gguf"
    path.write_bytes(gguf_bytes(tensors=[Tensor("weight", data=bytes([number]) * 128)]))
    store.import_gguf(path, name)
    return store.get(name)


def configure(made: Configurations, record: ModelRecord, mode: Mode | None = None, **fields: Any) -> ConfiguredModel:
    return made.change(record, record.tags[0], mode, ConfigurationChange(**fields))


def test_they_outlive_whoever_set_them(store: ModelStore) -> None:
    record = add(store, "one")
    configured = configure(Configurations(store), record, context_size=64, runtime_flags=("--temp", "1"))
    assert configured == ConfiguredModel(
        "docker.io/ai/one:latest", record.id, Mode.COMPLETION, ModelConfiguration(64, ("--temp", "1"))
    )
    again = Configurations(store)
    assert again.of(record) == {Mode.COMPLETION: configured.configuration}
    configure(again, record, keep_alive=-1.0)
    assert Configurations(store).of(record)[Mode.COMPLETION] == ModelConfiguration(64, ("--temp", "1"), keep_alive=-1.0)
    assert Configurations(store).keep_alive(record) == -1.0


def test_nothing_is_written_before_something_is_set(store: ModelStore) -> None:
    made = Configurations(store)
    assert made.of(add(store, "one")) == {}
    assert not (store.root / "dmr" / "configurations.json").exists()


def test_modes_have_their_own(store: ModelStore) -> None:
    record, made = add(store, "one"), Configurations(store)
    configure(made, record, context_size=64)
    configure(made, record, Mode.EMBEDDING, context_size=32)
    models = ConfigurationCache(store.root).models()
    assert configuration_of(models, record, Mode.COMPLETION).context_size == 64
    assert configuration_of(models, record, Mode.EMBEDDING).context_size == 32
    assert configuration_of(models, record, Mode.RERANKING).context_size == 64  # as for completion
    plan = made.plan(record, EngineSettings(), None)
    assert plan.embedding is not None
    assert (plan.settings.context_size, plan.embedding.context_size, plan.reranking) == (64, 32, None)


def test_what_is_refused_changes_nothing(store: ModelStore) -> None:
    record, made = add(store, "one"), Configurations(store)
    configure(made, record, context_size=64)
    before = (store.root / "dmr" / "configurations.json").read_bytes()
    with pytest.raises(InvalidRequest):
        configure(made, record, context_size=32, runtime_flags=("--top-k", "many"))
    with pytest.raises(InvalidRequest, match="The draft model 'missing' does not exist"):
        configure(made, record, context_size=32, draft_model="missing")
    assert (store.root / "dmr" / "configurations.json").read_bytes() == before
    assert made.of(record)[Mode.COMPLETION].context_size == 64


def test_a_draft_model_that_has_gone_is_told_when_the_model_is_loaded(store: ModelStore) -> None:
    record, made = add(store, "one"), Configurations(store)
    add(store, "small", 1)
    configure(made, record, draft_model="small")
    assert Path(made.plan(record, EngineSettings(), None).settings.draft_model).is_file()
    store.remove("small", force=True)
    with pytest.raises(ModelLoadFailed, match="The draft model 'small' does not exist"):
        made.plan(record, EngineSettings(), None)


def test_reset_forgets(store: ModelStore) -> None:
    one, two, made = add(store, "one"), add(store, "two", 1), Configurations(store)
    for record in (one, two):
        configure(made, record, context_size=64)
        configure(made, record, Mode.EMBEDDING, context_size=32)
    assert made.reset(one, Mode.EMBEDDING) == 1
    assert set(made.of(one)) == {Mode.COMPLETION}
    assert made.reset(one, None) == 1
    assert made.reset(one, None) == 0
    assert made.reset(None, None) == 2
    assert Configurations(store).of(two) == {}


def test_all_fields_taken_back_is_nothing_set(store: ModelStore) -> None:
    record, made = add(store, "one"), Configurations(store)
    configure(made, record, context_size=64)
    configure(made, record, context_size=None)
    assert ConfigurationCache(store.root).models() == ()


def test_a_newer_model_under_the_name_is_configured(store: ModelStore) -> None:
    old, made = add(store, "one"), Configurations(store)
    store.tag("one", "kept")
    configure(made, store.get("one"), context_size=64)
    new = add(store, "one", 1)
    assert new.id != old.id
    assert made.of(new)[Mode.COMPLETION].context_size == 64
    assert made.of(store.get("kept"))[Mode.COMPLETION].context_size == 64  # the old one still is, too
    configure(made, new, keep_alive=5.0)
    assert made.of(new)[Mode.COMPLETION] == ModelConfiguration(64, keep_alive=5.0)
    configure(made, new, context_size=None, keep_alive=None)  # and not found under the name again
    assert made.of(new) == {}
    assert Configurations(store).of(new) == {}
    assert made.of(store.get("kept"))[Mode.COMPLETION].context_size == 64


def test_another_name_does_not_inherit(store: ModelStore) -> None:
    made = Configurations(store)
    configure(made, add(store, "one"), context_size=64)
    assert made.of(add(store, "two", 1)) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged"),
        ('{"version": 1, "models": [{"mode": "dancing"}]}', "is damaged"),
        ('{"version": 2, "models": {}}', "written by a newer dmr .version 2, known is 1"),
        ("[" * 100_000, "is damaged"),
        ("\xff", "is damaged"),
    ],
    ids=lambda text: str(text)[:30],
)
def test_a_file_that_cannot_be_understood_is_told_and_kept(store: ModelStore, content: str, message: str) -> None:
    path = store.root / "dmr" / "configurations.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(StoreError, match=message):
        Configurations(store)
    with pytest.raises(StoreError, match=message):
        ConfigurationCache(store.root).models()
    assert path.read_bytes() == content.encode("latin-1")


def test_readers_notice_a_change(store: ModelStore) -> None:
    record, made, cache = add(store, "one"), Configurations(store), ConfigurationCache(store.root)
    assert cache.models() == ()
    configure(made, record, context_size=64)
    assert [each.configuration.context_size for each in cache.models()] == [64]
    assert cache.models() is cache.models()


def test_the_file_is_for_people_too(store: ModelStore) -> None:
    configure(Configurations(store), add(store, "one"), context_size=64)
    text = (store.root / "dmr" / "configurations.json").read_text()
    assert json.loads(text)["version"] == 1
    assert text.count("\n") > 5
    assert store.models()[0].tags == ("docker.io/ai/one:latest",)  # the store does not mind
