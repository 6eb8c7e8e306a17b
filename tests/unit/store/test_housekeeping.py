"""Where a store's space goes, and how it is had back; among others in a store that upstream has left behind."""

from __future__ import annotations

import io
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from unit.store.archives import CONFIG_TYPE, GGUF_TYPE, digest, tar_of, upstream_archive
from unit.store.gguf_bytes import Tensor, gguf_bytes

from dmr.errors import Conflict, InvalidModelFile, ModelNotFound, StoreError, Unavailable
from dmr.store import housekeeping
from dmr.store.archive import load_archive
from dmr.store.layout import Layout
from dmr.store.repackage import repackage_model
from dmr.store.store import ModelStore
from dmr.types import Removal, Repackaging, StoreUsage


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def add(store: ModelStore, folder: Path, name: str, fill: int = 0) -> str:
    path = folder / f"{name}.gguf"
    path.write_bytes(gguf_bytes(tensors=[Tensor("weight", data=bytes([fill]) * 128)]))
    return store.import_gguf(path, name).id


def put(store: ModelStore, path: str, data: bytes = b"0123456789") -> Path:
    target = store.root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    return target


@pytest.fixture
def eight_days_pass(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    now = time.time() + 8 * 24 * 3600
    return lambda: monkeypatch.setattr("time.time", lambda: now)


class UpstreamLeftovers:
    """A store as upstream leaves it: two models (one without a tag, one with an old spelling of the hub's name), their
    bundles, the bundle, the manifest and the blob of a model that is gone, and a download that broke off."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "blobs" / "sha256").mkdir(parents=True)
        (root / "layout.json").write_text('{"version":"1.0.0"}')
        self.tagged = self.model(b"\1", ["hf.co/org/Repo:Q4_K_M", "docker.io/ai/smollm2:latest"])
        self.untagged = self.model(b"\2", None)
        self.gone = self.model(b"\3", [])
        models = [self.tagged, self.untagged]
        entries = [{key: model[key] for key in ("id", "tags", "files")} for model in models]
        (root / "models.json").write_text(json.dumps({"models": entries}))
        self.unfinished = self.blob(b"half a download", "0" * 64 + ".incomplete")

    def blob(self, data: bytes, name: str = "") -> Path:
        path = self.root / "blobs" / "sha256" / (name or digest(data)[7:])
        path.write_bytes(data)
        return path

    def model(self, fill: bytes, tags: list[str] | None) -> dict[str, object]:
        weights = gguf_bytes(tensors=[Tensor("weight", data=fill * 128)])
        config = b'{"config":{"format":"gguf"},"descriptor":{"created":"2025-03-25T12:22:22Z"},"n":%d}' % fill[0]
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": {"mediaType": CONFIG_TYPE, "size": len(config), "digest": digest(config)},
                "layers": [{"mediaType": GGUF_TYPE, "size": len(weights), "digest": digest(weights)}],
            }
        ).encode()
        path, _ = self.blob(weights), self.blob(config)
        model_id = digest(manifest)
        (self.root / "manifests" / "sha256").mkdir(parents=True, exist_ok=True)
        (self.root / "manifests" / "sha256" / model_id[7:]).write_bytes(manifest)
        bundle = self.root / "bundles" / "sha256" / model_id[7:]
        (bundle / "model").mkdir(parents=True)
        (bundle / "config.json").write_bytes(config)
        os.link(path, bundle / "model" / "model.gguf")
        return {"id": model_id, "tags": tags, "files": [digest(weights), digest(config)]}


# --- usage -----------------------------------------------------------------------------------------------------------


def test_an_absent_store_takes_nothing(store: ModelStore) -> None:
    assert store.usage() == StoreUsage()
    assert store.collect() == 0
    assert store.purge() == Removal()
    assert not store.root.exists()


def test_usage_by_kind(store: ModelStore, tmp_path: Path) -> None:
    model_id = add(store, tmp_path, "a")
    models = sum(path.stat().st_size for kind in ("blobs", "manifests") for path in (store.root / kind).rglob("*/*"))
    other = store.usage().other
    put(store, "blobs/sha256/" + "0" * 64)
    put(store, "manifests/sha256/" + "0" * 64)
    put(store, "bundles/sha256/" + "0" * 64 + "/config.json")
    put(store, "blobs/sha256/" + "1" * 64 + ".incomplete", b"123")
    store.add_file(io.BytesIO(b"1234"), 4, digest(b"1234"))
    put(store, f"bundles/sha256/{model_id[7:]}/config.json", b"12345")
    os.link(store.files("a").weights[0], store.root / "bundles" / "sha256" / model_id[7:] / "model.gguf")
    assert store.usage() == StoreUsage(models=models, bundles=5, reclaimable=30, unfinished=7, other=other)
    assert store.usage().total == store.disk_usage()


# --- collecting ------------------------------------------------------------------------------------------------------


def test_only_what_is_old_and_needed_by_nobody_is_collected(store: ModelStore, tmp_path: Path) -> None:
    add(store, tmp_path, "a")
    put(store, "blobs/sha256/" + "0" * 64)
    assert store.collect() == 0  # a pull may have brought it a minute ago
    assert store.usage().reclaimable == 10


def test_what_is_left_of_upstreams_store_is_collected_and_its_models_stay(
    store: ModelStore, eight_days_pass: Callable[[], None]
) -> None:
    left = UpstreamLeftovers(store.root)
    eight_days_pass()
    before = [store.get(model["id"]) for model in (left.tagged, left.untagged)]  # type: ignore[arg-type]
    freed = store.collect()
    assert freed > 0
    assert store.models() == before
    assert not left.unfinished.exists()
    gone = str(left.gone["id"])[7:]
    assert not (store.root / "bundles" / "sha256" / gone).exists()
    assert not (store.root / "manifests" / "sha256" / gone).exists()
    assert store.usage().reclaimable == store.usage().unfinished == 0
    for model in (left.tagged, left.untagged):
        assert store.verify(str(model["id"])) == []
        assert (store.root / "bundles" / "sha256" / str(model["id"])[7:] / "model" / "model.gguf").exists()
    assert store.collect() == 0


def test_what_somebody_else_wrote_into_the_index_keeps_its_blobs(
    store: ModelStore, tmp_path: Path, eight_days_pass: Callable[[], None]
) -> None:
    add(store, tmp_path, "a")
    orphan = put(store, "blobs/sha256/" + "0" * 64)
    manifest = put(store, "manifests/sha256/" + "1" * 64)
    index = json.loads((store.root / "models.json").read_bytes())
    index["models"].append({"kind": "unknown", "parts": ["sha256:" + "0" * 64, "sha256:" + "1" * 64]})
    (store.root / "models.json").write_text(json.dumps(index))
    eight_days_pass()
    store.collect()
    assert orphan.exists()
    assert manifest.exists()


def test_nothing_is_collected_from_a_store_whose_index_is_damaged(
    store: ModelStore, tmp_path: Path, eight_days_pass: Callable[[], None]
) -> None:
    add(store, tmp_path, "a")
    before = {path.name for path in store.root.rglob("*")}
    (store.root / "models.json").write_text("{")
    eight_days_pass()
    with pytest.raises(StoreError):
        store.collect()
    assert {path.name for path in store.root.rglob("*")} == before


# --- upstream's store ------------------------------------------------------------------------------------------------


def test_upstreams_store_is_used_as_it_is(store: ModelStore) -> None:
    left = UpstreamLeftovers(store.root)
    record = store.get("hf.co/org/repo:Q4_K_M")
    assert record.id == left.tagged["id"]
    assert record.tags == ("huggingface.co/org/repo:Q4_K_M", "docker.io/ai/smollm2:latest")
    assert store.get(str(left.untagged["id"])).tags == ()
    assert store.get(str(left.untagged["id"])[7:19]).created == 1742905342
    with pytest.raises(ModelNotFound):
        store.get(str(left.gone["id"]))
    assert store.files("smollm2").weights[0].parent == store.root / "blobs" / "sha256"  # no bundle is needed
    store.tag(str(left.untagged["id"]), "named")
    assert store.remove("smollm2").untagged == ("docker.io/ai/smollm2:latest",)
    assert store.remove("hf.co/org/repo:Q4_K_M").deleted == (left.tagged["id"],)
    assert not (store.root / "bundles" / "sha256" / str(left.tagged["id"])[7:]).exists()
    entries = json.loads((store.root / "models.json").read_bytes())["models"]
    assert entries == [{**left.untagged, "tags": ["docker.io/ai/named:latest"]}]


# --- purging ---------------------------------------------------------------------------------------------------------


def test_a_purge_leaves_an_empty_store(store: ModelStore, tmp_path: Path) -> None:
    left = UpstreamLeftovers(store.root)
    store.add_file(io.BytesIO(b"1234"), 4, digest(b"1234"))
    (store.root / "hub-abc").mkdir()
    removal = store.purge()
    assert removal.deleted == (left.tagged["id"], left.untagged["id"])
    assert removal.untagged == ("huggingface.co/org/repo:Q4_K_M", "docker.io/ai/smollm2:latest")
    files = {path.name for path in store.root.rglob("*") if path.is_file()}
    assert files == {"layout.json", "models.json", "dmr.lock"}
    assert store.models() == []
    add(store, tmp_path, "again")
    assert store.verify("again") == []


def test_a_folder_that_is_no_store_is_not_purged(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("ten years of work")
    with pytest.raises(StoreError, match=r"no layout\.json. Nothing was removed"):
        ModelStore(tmp_path).purge()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_store_of_a_newer_version_is_not_purged(store: ModelStore) -> None:
    put(store, "layout.json", b'{"version":"2.0.0"}')
    kept = put(store, "blobs/sha256/" + "0" * 64)
    with pytest.raises(StoreError, match="version"):
        store.purge()
    assert kept.exists()


def test_a_damaged_store_can_be_purged(store: ModelStore, tmp_path: Path) -> None:
    add(store, tmp_path, "a")
    (store.root / "models.json").write_text("{")
    assert store.purge() == Removal()
    assert store.models() == []
    assert store.usage().models == store.usage().reclaimable == 0


# --- in use ----------------------------------------------------------------------------------------------------------


def test_a_model_that_somebody_holds_is_not_removed_without_force(store: ModelStore, tmp_path: Path) -> None:
    add(store, tmp_path, "a")
    other = ModelStore(store.root)
    with store.hold("a"), store.hold("a"):
        for change in (lambda: other.remove("a"), other.purge):
            with pytest.raises(Conflict, match="n use by another process"):
                change()
        assert store.verify("a") == []
    assert other.remove("a").deleted
    add(store, tmp_path, "a")
    with store.hold("a"):
        assert other.remove("a", force=True).deleted
    add(store, tmp_path, "a")
    with store.hold("a"):
        assert other.purge(force=True).deleted


def test_only_what_would_go_counts_as_in_use(store: ModelStore, tmp_path: Path) -> None:
    add(store, tmp_path, "a")
    store.tag("a", "b")
    repackage_model(store, "a", Repackaging("c", context_size=7))
    with store.hold("a"):
        assert store.remove("c").deleted  # its weights stay with the other model
        assert store.remove("b").deleted == ()
        assert store.get("a").tags == ("docker.io/ai/a:latest",)


@pytest.mark.parametrize(
    ("name", "force", "deletes"),
    [("a", False, False), ("a", True, False), ("{id}", False, False), ("{id}", True, True)],
)
def test_what_a_removal_would_do(store: ModelStore, tmp_path: Path, name: str, force: bool, deletes: bool) -> None:
    model_id = add(store, tmp_path, "a")
    assert store.would_delete(name.format(id=model_id), force)
    store.tag("a", "b")
    assert store.would_delete(name.format(id=model_id), force) is deletes


# --- all at the same time --------------------------------------------------------------------------------------------


def test_whatever_happens_at_the_same_time_models_stay_whole(store: ModelStore, tmp_path: Path) -> None:
    """A loader, a packager, a remover, a collector that waits for nothing, a purge: models are whole or not there."""
    archives = [tar_of(upstream_archive(gguf_bytes(tensors=[Tensor("w", data=bytes([n]) * 128)]))) for n in range(3)]
    layout, over, unexpected = Layout(store.root), threading.Event(), []

    def repeat(change: Callable[[int], object]) -> None:
        number = 0
        while not over.is_set():
            number += 1
            try:
                change(number)
            except (ModelNotFound, StoreError, InvalidModelFile, Conflict, Unavailable):
                continue  # somebody was faster
            except Exception as error:
                unexpected.append(error)
                return

    def look(_: int) -> None:
        with layout.lock(5.0):  # nobody is in the middle of anything
            try:
                manifests = [layout.read_manifest(entry.id) for entry in layout.read_index().entries]
            except StoreError as error:
                raise AssertionError from error
            assert all(layout.blobs.has(digest) for manifest in manifests for digest in manifest.digests)

    changes: list[Callable[[int], object]] = [
        lambda n: load_archive(store, io.BytesIO(archives[n % 3]), f"m{n % 3}"),
        lambda n: repackage_model(store, f"m{n % 3}", Repackaging("r", context_size=n % 3 + 1)),
        lambda n: store.remove(f"m{n % 3}"),
        lambda n: housekeeping.collect(layout, 5.0, age=-1e9),
        lambda n: store.purge() if n % 50 == 0 else None,
        look,
    ]
    threads = [threading.Thread(target=repeat, args=(change,)) for change in changes]
    for thread in threads:
        thread.start()
    time.sleep(2)
    over.set()
    for thread in threads:
        thread.join()
    assert unexpected == []
    assert [damage for record in store.models() for damage in store.verify(record.id)] == []
    for number in range(3):
        assert store.verify(load_archive(store, io.BytesIO(archives[number])).id) == []
