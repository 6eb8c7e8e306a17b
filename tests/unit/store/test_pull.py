"""What a pull makes of what is here already, of mirrors, of others who pull the same, and of a disk that is full."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from loopback_registry import LoopbackRegistry, running
from transfer_models import MODELS, NOBODY, blobs_of, bring, weights, whole_model

from dmr.errors import RegistryError, RemoteModelNotFound, StoreError, Unauthorized, Unsupported
from dmr.store import pull as pulling
from dmr.store.digest import Digest
from dmr.store.download import incomplete_path
from dmr.store.layout import Layout
from dmr.store.pull import RegistryOptions
from dmr.store.registry.transport import TransferCancelled
from dmr.store.store import ModelStore
from dmr.store.transfers import inspect, pull, push, same_model

pytestmark = pytest.mark.usefixtures("impatient")


def heaviest(registry: LoopbackRegistry) -> Digest:
    return Digest(max(registry.blobs, key=lambda digest: len(registry.blobs[digest])))


@pytest.mark.parametrize("kind", MODELS)
def test_every_kind_of_model_travels_unchanged(
    kind: str, registry: LoopbackRegistry, target: ModelStore, tmp_path: Path
) -> None:
    store, name = ModelStore(tmp_path / "store"), f"{registry.host}/test/{kind.lower()}"
    MODELS[kind](store, tmp_path, name)
    push(store, name, name, NOBODY, lambda _: None)
    bring(target, name)
    assert blobs_of(target, name) == blobs_of(store, name)
    files = target.files(name)
    assert len(files.weights) == (2 if kind == "everything" else 1)
    assert (files.mmproj is not None, files.chat_template is not None) == (kind == "everything",) * 2
    assert len(target.get(name).licenses) == (2 if kind == "everything" else 0)
    told = inspect(name, "docker.io", NOBODY)
    assert (told.id, told.config, told.size) == (target.get(name).id, store.get(name).config, store.get(name).size)


# --- what is here ----------------------------------------------------------------------------------------------------


def test_a_moved_tag_is_noticed(name: str, target: ModelStore, registry: LoopbackRegistry, tmp_path: Path) -> None:
    bring(target, name)
    before, store = target.get(name).id, ModelStore(tmp_path / "other")
    path = tmp_path / "other.gguf"
    path.write_bytes(weights(1, seed=7))
    store.import_gguf(path, "test/other")
    push(store, "test/other", name, NOBODY, lambda _: None)
    bring(target, name)
    assert target.get(name).id == store.get("test/other").id
    assert target.get(before).tags == ()


def test_without_the_registry_the_tag_means_what_it_meant(
    name: str, target: ModelStore, registry: LoopbackRegistry
) -> None:
    bring(target, name)
    registry.close()
    (warning,) = bring(target, name)
    assert warning.is_warning
    assert "cannot be reached" in warning.message
    with pytest.raises(RegistryError, match="cannot be reached"):
        bring(target, name.replace(":v1", ":v2"))


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_a_model_that_is_not_whole_needs_its_registry(
    name: str, target: ModelStore, registry: LoopbackRegistry, damage: str
) -> None:
    bring(target, name)
    blob = target.root / "blobs" / "sha256" / heaviest(registry).removeprefix("sha256:")
    if damage == "short":
        os.truncate(blob, 100)
    else:
        blob.unlink()
    bring(target, name)
    assert target.verify(name) == []
    blob.unlink()
    registry.close()
    with pytest.raises(RegistryError, match="cannot be reached"):
        bring(target, name)


def test_a_registry_that_says_no_is_believed(name: str, target: ModelStore, registry: LoopbackRegistry) -> None:
    bring(target, name)
    registry.manifests.clear()
    with pytest.raises(RemoteModelNotFound):
        bring(target, name)
    registry.user = "me:secret"
    with pytest.raises(Unauthorized):
        bring(target, name)
    assert target.get(name)


def test_a_digest_that_is_here_is_not_looked_up(name: str, target: ModelStore, registry: LoopbackRegistry) -> None:
    bring(target, name)
    registry.requests.clear()
    model_id = target.get(name).id
    bring(target, f"{name.removesuffix(':v1')}:v9@{model_id}")
    assert registry.requests == []
    assert set(target.get(model_id).tags) == {name, name.replace(":v1", ":v9")}


def test_a_new_version_that_breaks_off_is_no_success(
    name: str, target: ModelStore, registry: LoopbackRegistry, tmp_path: Path
) -> None:
    bring(target, name)
    store = ModelStore(tmp_path / "other")
    whole_model(store, tmp_path, "test/other")
    push(store, "test/other", name, NOBODY, lambda _: None)
    registry.failures = [500] * 100
    with pytest.raises(RegistryError, match="answered 500"):
        bring(target, name)


def test_blobs_that_go_meanwhile_are_fetched_again(
    name: str, target: ModelStore, registry: LoopbackRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring(target, name)
    model_id, adopt, removals = target.get(name).id, pulling.adopt, [1]

    def adopt_later(*arguments: object) -> object:
        if removals and removals.pop():
            target.remove(model_id, force=True)
        return adopt(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(pulling, "adopt", adopt_later)
    bring(target, name)
    assert target.verify(name) == []


def test_a_full_disk_is_told_before_anything_comes(
    name: str, target: ModelStore, registry: LoopbackRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Space(NamedTuple):
        f_bavail: int = 1
        f_frsize: int = 1024

    monkeypatch.setattr(pulling.os, "statvfs", lambda _: Space())
    with pytest.raises(StoreError, match=r"needs 3\.\d+MiB more, but only 1\.\d+KiB are free"):
        bring(target, name)
    assert registry.count("GET", "/blobs/") == 0


def test_who_is_told_to_come_back_tomorrow_does_not_wait(
    name: str, target: ModelStore, registry: LoopbackRegistry
) -> None:
    registry.failures, registry.retry_after = [429] * 100, "86400"
    with pytest.raises(RegistryError, match="answered 429"):
        bring(target, name)
    assert registry.count("GET", "/blobs/") <= len(registry.blobs)


def test_a_pull_that_nobody_wants_does_not_wait_for_a_silent_registry(
    name: str, target: ModelStore, registry: LoopbackRegistry
) -> None:
    registry.stall_after = 1 << 20
    growing = incomplete_path(Layout(target.root).blobs, heaviest(registry))

    def is_silent() -> bool:
        return growing.exists() and growing.stat().st_size == 1 << 20

    with pytest.raises(TransferCancelled):
        pull(target, name, NOBODY, lambda _: None, is_silent)
    assert not registry.go_on.is_set()  # nor has it given up by itself: that would take longer than it waits here
    registry.go_on.set()
    registry.stall_after = 0
    assert is_silent()
    bring(target, name)
    assert target.verify(name) == []


# --- mirrors ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def mirror(registry: LoopbackRegistry, name: str) -> Iterator[LoopbackRegistry]:
    with running(LoopbackRegistry()) as server:
        server.blobs, server.manifests = dict(registry.blobs), dict(registry.manifests)
        yield server


@pytest.fixture
def home(registry: LoopbackRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry stands in for the one that mirrors are for."""
    monkeypatch.setattr("dmr.store.registry.client.HUB_HOST", registry.host)


def by_mirrors(*hosts: str) -> RegistryOptions:
    return RegistryOptions(mirrors=hosts, environ={})


@pytest.mark.usefixtures("home")
def test_a_mirror_goes_first(target: ModelStore, registry: LoopbackRegistry, mirror: LoopbackRegistry) -> None:
    bring(target, "test/model:v1", by_mirrors(f"http://{mirror.host}/"))
    assert target.get("test/model:v1").tags == ("docker.io/test/model:v1",)
    assert registry.requests == []


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("fault", ["gone", "forgot", "refuses", "has no blobs", "breaks off"])
def test_a_mirror_may_fail_in_any_way(
    target: ModelStore, registry: LoopbackRegistry, mirror: LoopbackRegistry, fault: str
) -> None:
    blob = heaviest(registry)
    if fault == "forgot":
        mirror.manifests.clear()
    elif fault == "refuses":
        mirror.user = "me:secret"
    elif fault == "has no blobs":
        mirror.blobs.clear()
    elif fault == "breaks off":
        mirror.cut_after = [1 << 20, *[10] * 20]
    else:
        mirror.close()
    bring(target, "test/model:v1", by_mirrors(mirror.host))
    assert target.verify("test/model:v1") == []
    brought = mirror.bytes_sent[blob]
    # Of the last piece of ten bytes it is not known whether anybody still read it.
    assert len(registry.blobs[blob]) <= registry.bytes_sent[blob] + brought <= len(registry.blobs[blob]) + 10


def test_mirrors_are_for_the_default_registry_only(
    name: str, target: ModelStore, registry: LoopbackRegistry, mirror: LoopbackRegistry
) -> None:
    bring(target, name, by_mirrors(mirror.host))
    assert mirror.requests == []


# --- several at a time -----------------------------------------------------------------------------------------------


def test_who_waits_for_another_pull_sees_its_progress(
    name: str, target: ModelStore, registry: LoopbackRegistry
) -> None:
    registry.seconds_per_mib = 0.4
    with ThreadPoolExecutor(2) as pool:
        first, second = [job.result(30) for job in [pool.submit(bring, target, name) for _ in range(2)]]
    blob, size = heaviest(registry), len(registry.blobs[heaviest(registry)])
    assert registry.bytes_sent[blob] == size
    for reports in (first, second):
        seen = [report.layer_done for report in reports if report.layer == blob]
        assert [done for done in seen if 0 < done < size]
        assert seen == sorted(seen)
        assert seen[-1] == size


def test_a_layer_that_is_in_two_models_is_one_copy(
    name: str, target: ModelStore, source: ModelStore, registry: LoopbackRegistry, tmp_path: Path
) -> None:
    other = f"{registry.host}/test/again"
    path = tmp_path / "licence"
    path.write_text("You may.")
    source.import_gguf(tmp_path / "model.gguf", "test/again", licenses=[path])
    push(source, "test/again", other, NOBODY, lambda _: None)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda model: bring(target, model), (name, other)))
    blob = heaviest(registry)
    assert registry.bytes_sent[blob] == len(registry.blobs[blob])
    assert target.disk_usage() < 1.1 * len(registry.blobs[blob])
    assert not list(Layout(target.root).blobs.folder.glob("*.incomplete"))


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (" smollm2 ", "docker.io/ai/smollm2:latest"),
        ("index.docker.io/ai/SmolLM2:latest", "docker.io/ai/smollm2:latest"),
        ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
        ("hf.co/Org/Repo", "hf.co/Org/Repo"),
        (" no name ", "no name"),
    ],
)
def test_spellings_of_one_model(text: str, meant: str) -> None:
    assert same_model(text, "docker.io") == meant


# --- pushing ---------------------------------------------------------------------------------------------------------


def test_an_upload_that_breaks_off_is_begun_anew(source: ModelStore, registry: LoopbackRegistry) -> None:
    registry.upload_failures = [503, 0, 500]
    name = f"{registry.host}/test/model:v1"
    push(source, "test/model", name, NOBODY, lambda _: None)
    assert set(blobs_of(source, "test/model").values()) == {
        *registry.blobs.values(),
        registry.manifests["test/model:v1"][0],
    }


def test_an_upload_that_is_refused_is_not_repeated(source: ModelStore, registry: LoopbackRegistry) -> None:
    registry.upload_failures = [413] * 20
    with pytest.raises(RegistryError, match="answered 413"):
        push(source, "test/model", f"{registry.host}/test/model:v1", NOBODY, lambda _: None)
    assert registry.count("PUT", "uploads") <= 2
    assert registry.manifests == {}


def test_one_layer_that_is_refused_ends_the_upload_of_the_others(
    source: ModelStore, registry: LoopbackRegistry, tmp_path: Path
) -> None:
    whole_model(source, tmp_path, "test/whole")
    registry.upload_failures = [413]
    with pytest.raises(RegistryError, match="answered 413"):
        push(source, "test/whole", f"{registry.host}/test/whole", NOBODY, lambda _: None)
    assert registry.manifests == {}


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_a_damaged_model_is_not_pushed(source: ModelStore, registry: LoopbackRegistry, damage: str) -> None:
    (weights,) = source.files("test/model").weights
    if damage == "short":
        os.truncate(weights, 100)
    else:
        weights.unlink()
    with pytest.raises(StoreError, match="missing or too short"):
        push(source, "test/model", f"{registry.host}/test/model", NOBODY, lambda _: None)
    assert registry.manifests == {}


# --- looking without pulling -----------------------------------------------------------------------------------------


def test_what_a_registry_has_can_be_looked_at(
    name: str, source: ModelStore, target: ModelStore, registry: LoopbackRegistry
) -> None:
    told = inspect(name, "docker.io", NOBODY)
    assert (told.id, told.tags, told.config) == (source.get("test/model").id, (), source.get("test/model").config)
    assert registry.bytes_sent[heaviest(registry)] == 0
    with pytest.raises(RemoteModelNotFound):
        inspect(f"{registry.host}/test/none", "docker.io", NOBODY)
    with pytest.raises(Unsupported):
        inspect("hf.co/Org/Repo", "docker.io", NOBODY)
    registry.wrong_bytes = True
    with pytest.raises(RegistryError, match="other bytes"):
        inspect(name, "docker.io", NOBODY)
