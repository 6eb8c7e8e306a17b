from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from unit.store.gguf_bytes import Tensor, gguf_bytes

from dmr.errors import (
    Conflict,
    InvalidModelFile,
    InvalidReference,
    ModelNotFound,
    StoreError,
    Unsupported,
)
from dmr.store.store import ModelStore
from dmr.types import Removal


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def write_model(folder: Path, name: str = "tiny.gguf", fill: int = 0) -> Path:
    """A different model for each `fill`."""
    path = folder / name
    path.write_bytes(gguf_bytes(tensors=[Tensor("weight", data=bytes([fill]) * 128)]))
    return path


def blob_names(store: ModelStore) -> set[str]:
    return {path.name for path in (store.root / "blobs" / "sha256").glob("*")}


# --- reading ---------------------------------------------------------------------------------------------------------


def test_an_absent_store_is_empty_and_stays_absent(store: ModelStore) -> None:
    assert store.models() == []
    assert store.disk_usage() == 0
    for call in (store.get, store.files, store.remove, store.verify, lambda name: store.tag(name, "b")):
        with pytest.raises(ModelNotFound, match="'smollm2'"):
            call("smollm2")
    assert not store.root.exists()


@pytest.mark.parametrize("text", ["", "a//b", "../x", "a\x00"])
def test_bad_names_are_told_apart_from_unknown_ones(store: ModelStore, text: str) -> None:
    for call in (store.get, store.files, store.remove, store.verify, lambda name: store.tag(name, "b")):
        with pytest.raises(InvalidReference):
            call(text)


def test_a_model_is_listed_with_what_its_file_says(store: ModelStore, tmp_path: Path) -> None:
    record = store.import_gguf(write_model(tmp_path), "Tiny")
    assert store.models() == [record] == [store.get("tiny")]
    assert record.tags == ("docker.io/ai/tiny:latest",)
    assert (record.config.format, record.config.architecture, record.config.context_size) == ("gguf", "llama", 2048)
    assert abs(record.created - (store.root / "models.json").stat().st_mtime) < 60


def test_files_are_the_blobs(store: ModelStore, tmp_path: Path) -> None:
    path = write_model(tmp_path)
    files = store.files(store.import_gguf(path, "tiny").id)
    assert [weights.read_bytes() for weights in files.weights] == [path.read_bytes()]
    assert (files.mmproj, files.chat_template) == (None, None)


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_damaged_weights_are_not_handed_to_an_engine(store: ModelStore, tmp_path: Path, damage: str) -> None:
    store.import_gguf(write_model(tmp_path), "tiny")
    (weights,) = store.files("tiny").weights
    weights.unlink() if damage == "missing" else os.truncate(weights, 5)
    with pytest.raises(StoreError, match="pull it again"):
        store.files("tiny")
    assert len(store.models()) == 1  # it can still be seen, and removed


def test_verify_names_what_is_damaged(store: ModelStore, tmp_path: Path) -> None:
    model_id = store.import_gguf(write_model(tmp_path), "tiny").id
    assert store.verify("tiny") == []
    (weights,) = store.files("tiny").weights
    weights.write_bytes(b"x" * weights.stat().st_size)
    assert store.verify("tiny") == [f"sha256:{weights.name}"]
    manifest = store.root / "manifests" / "sha256" / model_id.removeprefix("sha256:")
    manifest.write_bytes(b"{}")
    weights.unlink()
    assert store.verify("tiny") == [model_id, f"sha256:{weights.name}"]


def test_a_model_that_cannot_be_read_is_skipped_with_a_warning(
    store: ModelStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = store.import_gguf(write_model(tmp_path), "bad")
    good = store.import_gguf(write_model(tmp_path, fill=1), "good")
    (store.root / "manifests" / "sha256" / bad.id.removeprefix("sha256:")).unlink()
    assert store.models() == [good]
    assert bad.id in caplog.text
    with pytest.raises(StoreError, match="manifest"):
        store.get("bad")
    assert store.remove("bad").deleted == (bad.id,)
    assert store.verify("good") == []


def test_a_newer_layout_is_refused_and_not_touched(store: ModelStore, tmp_path: Path) -> None:
    store.root.mkdir()
    (store.root / "layout.json").write_text('{"version":"2.0.0"}')
    for call in (store.models, lambda: store.get("a"), lambda: store.import_gguf(write_model(tmp_path), "a")):
        with pytest.raises(StoreError, match=r"version 2\.0\.0"):
            call()
    assert [path.name for path in store.root.iterdir()] == ["layout.json"]


def test_a_newer_minor_layout_is_read(store: ModelStore) -> None:
    store.root.mkdir()
    (store.root / "layout.json").write_text('{"version":"1.7.0","x":1}')
    assert store.models() == []


@pytest.mark.parametrize("name", ["layout.json", "models.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", '{"version":7,"models":7}', '{"version":"x","models":"x"}'])
def test_a_damaged_store_is_reported_and_not_overwritten(
    store: ModelStore, tmp_path: Path, name: str, text: str
) -> None:
    store.import_gguf(write_model(tmp_path), "tiny")
    (store.root / name).write_text(text)
    for call in (store.models, lambda: store.get("tiny"), lambda: store.tag("tiny", "b"), lambda: store.remove("tiny")):
        with pytest.raises(StoreError, match=name):
            call()
    assert (store.root / name).read_text() == text


def test_a_store_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("")
    for call in (lambda s: s.models(), lambda s: s.import_gguf(write_model(tmp_path), "a")):
        with pytest.raises(StoreError):
            call(ModelStore(tmp_path / "models"))


# --- importing -------------------------------------------------------------------------------------------------------


def test_what_is_written_is_upstreams_layout(store: ModelStore, tmp_path: Path) -> None:
    path = write_model(tmp_path)
    model_id = store.import_gguf(path, "tiny").id
    assert json.loads((store.root / "layout.json").read_text()) == {"version": "1.0.0"}
    manifest_bytes = (store.root / "manifests" / "sha256" / model_id.removeprefix("sha256:")).read_bytes()
    assert model_id == "sha256:" + hashlib.sha256(manifest_bytes).hexdigest()
    manifest = json.loads(manifest_bytes)
    weights = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    assert [layer["digest"] for layer in manifest["layers"]] == [weights]
    assert manifest["layers"][0]["size"] == path.stat().st_size
    config = manifest["config"]["digest"]
    entry = {"id": model_id, "tags": ["docker.io/ai/tiny:latest"], "files": [weights, config]}
    assert json.loads((store.root / "models.json").read_text()) == {"models": [entry]}
    for digest in entry["files"]:
        blob = (store.root / "blobs" / "sha256" / digest.removeprefix("sha256:")).read_bytes()
        assert digest == "sha256:" + hashlib.sha256(blob).hexdigest()
    assert list(store.root.rglob("*.incomplete")) == []


def test_importing_again_is_the_same_model(store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = store.import_gguf(write_model(tmp_path), "tiny")
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    assert store.import_gguf(write_model(tmp_path, "renamed.gguf"), "tiny") == first
    again = store.import_gguf(write_model(tmp_path), "other:v1")
    assert (again.id, again.created) == (first.id, first.created)
    assert again.tags == ("docker.io/ai/tiny:latest", "docker.io/ai/other:v1")
    assert len(store.models()) == 1
    assert len(blob_names(store)) == 2


def test_importing_again_heals_what_is_damaged(store: ModelStore, tmp_path: Path) -> None:
    record = store.import_gguf(write_model(tmp_path), "tiny")
    for damage in (b"x" * store.files("tiny").weights[0].stat().st_size, b"short"):
        store.files("tiny").weights[0].write_bytes(damage)
        assert len(store.verify("tiny")) == 1
        assert store.import_gguf(write_model(tmp_path), "tiny") == record
        assert store.verify("tiny") == []


def test_a_tag_belongs_to_one_model(store: ModelStore, tmp_path: Path) -> None:
    old = store.import_gguf(write_model(tmp_path), "tiny")
    new = store.import_gguf(write_model(tmp_path, fill=1), "tiny")
    assert store.get("tiny") == new
    assert store.get(old.id).tags == ()
    assert store.remove(old.id) == Removal(deleted=(old.id,))


def test_moving_takes_the_file(store: ModelStore, tmp_path: Path) -> None:
    path = write_model(tmp_path)
    data = path.read_bytes()
    store.import_gguf(path, "tiny", move=True)
    assert not path.exists()
    assert store.files("tiny").weights[0].read_bytes() == data


@pytest.mark.parametrize("name", ["", "a b", "../a", "a@sha256:" + "0" * 64, "0" * 64])
def test_nothing_is_written_for_a_bad_name(store: ModelStore, tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidReference):
        store.import_gguf(write_model(tmp_path), name)
    assert not store.root.exists()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"not a model", "GGUF"),
        (gguf_bytes()[:-1], "truncated"),
        (gguf_bytes({}), "architecture"),
        (gguf_bytes(tensors=[]), "0 tensors"),
        (gguf_bytes({"general.architecture": "clip"}), "vision projector"),
    ],
)
def test_nothing_is_written_for_a_bad_file(store: ModelStore, tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(InvalidModelFile, match=reason):
        store.import_gguf(path, "bad", move=True)
    assert path.exists()
    assert not store.root.exists()


def test_a_file_that_is_replaced_after_its_check_is_refused(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_model(tmp_path)
    stage = store._layout.blobs.stage_file

    def replace_then_stage(source: Path, **options: object) -> object:
        source.write_bytes(b"something else")
        return stage(source, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(store._layout.blobs, "stage_file", replace_then_stage)
    with pytest.raises(InvalidModelFile, match="changed"):
        store.import_gguf(path, "tiny")
    assert store.models() == []
    assert blob_names(store) == set()


def write_shards(folder: Path, count: int = 3) -> list[Path]:
    paths = []
    for number in range(count):
        split = {"split.no": number, "split.count": count, "split.tensors.count": count}
        metadata = {"general.architecture": "llama", "llama.context_length": 64, **split} if number == 0 else split
        paths.append(folder / f"m-{number + 1:05}-of-{count:05}.gguf")
        paths[-1].write_bytes(gguf_bytes(metadata, [Tensor(f"t{number}", data=bytes([number]) * 128)]))
    return paths


@pytest.mark.parametrize("given", [0, 2])
def test_shards_are_one_model_whichever_is_named(store: ModelStore, tmp_path: Path, given: int) -> None:
    paths = write_shards(tmp_path)
    seen: list[tuple[int, int]] = []
    record = store.import_gguf(paths[given], "split", progress=lambda done, total: seen.append((done, total)))
    assert [path.read_bytes() for path in store.files("split").weights] == [path.read_bytes() for path in paths]
    assert record.config.parameters == "96"
    assert record.config.context_size == 64
    total = sum(path.stat().st_size for path in paths)
    assert seen == sorted(seen)
    assert seen[-1] == (total, total)


def test_shards_must_be_complete_and_what_they_claim(store: ModelStore, tmp_path: Path) -> None:
    first, second, third = write_shards(tmp_path)
    kept = second.read_bytes()
    second.unlink()
    with pytest.raises(InvalidModelFile, match=r"m-00002-of-00003\.gguf is missing"):
        store.import_gguf(first, "split")
    second.write_bytes(third.read_bytes())
    with pytest.raises(InvalidModelFile, match="is not shard 2 of 3"):
        store.import_gguf(first, "split")
    second.write_bytes(kept)
    first.rename(tmp_path / "renamed.gguf")
    with pytest.raises(InvalidModelFile, match="must be named like"):
        store.import_gguf(tmp_path / "renamed.gguf", "split")


def test_projector_template_and_licences_come_along(store: ModelStore, tmp_path: Path) -> None:
    projector = tmp_path / "mm.gguf"
    projector.write_bytes(gguf_bytes({"general.architecture": "clip"}))
    texts = [tmp_path / name for name in ("t.jinja", "LICENSE", "NOTICE")]
    for path in texts:
        path.write_text(f"{path.name} {{{{ x }}}}")
    options = {"mmproj": projector, "chat_template": texts[0], "licenses": texts[1:]}
    record = store.import_gguf(write_model(tmp_path), "full", **options)  # type: ignore[arg-type]
    files = store.files("full")
    assert files.mmproj is not None
    assert files.chat_template is not None
    assert files.mmproj.read_bytes() == projector.read_bytes()
    assert files.chat_template.read_bytes() == texts[0].read_bytes()
    assert len(files.weights) == 1
    assert len(blob_names(store)) == 6
    assert store.import_gguf(write_model(tmp_path), "bare").id != record.id
    store.remove("full")
    assert store.verify("bare") == []


def test_companions_are_checked(store: ModelStore, tmp_path: Path) -> None:
    model, binary = write_model(tmp_path), tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidModelFile, match="not a vision projector"):
        store.import_gguf(model, "a", mmproj=model)
    with pytest.raises(InvalidModelFile, match="not UTF-8"):
        store.import_gguf(model, "a", chat_template=binary)
    with pytest.raises(InvalidModelFile, match="cannot be opened"):
        store.import_gguf(model, "a", licenses=[tmp_path / "missing"])


# --- tagging and removing --------------------------------------------------------------------------------------------


def test_tag_adds_and_takes_away(store: ModelStore, tmp_path: Path) -> None:
    one = store.import_gguf(write_model(tmp_path), "foo/one:v2")
    two = store.import_gguf(write_model(tmp_path, fill=1), "two")
    tagged = store.tag("foo/one:v2", "Two")
    assert tagged.tags == ("docker.io/foo/one:v2", "docker.io/ai/two:latest")
    assert store.get("two").id == one.id
    assert store.get(two.id).tags == ()
    assert store.tag("foo/one:v2", "two") == tagged


def test_loose_names_are_for_tag_and_for_those_who_ask(store: ModelStore, tmp_path: Path) -> None:
    record = store.import_gguf(write_model(tmp_path), "foo/smollm2:v2")
    assert store.get("SmolLM2", loose=True) == store.get("smollm2:v2", loose=True) == record
    for loosely in (False, True):
        with pytest.raises(ModelNotFound):
            store.get("smollm2:v3" if loosely else "smollm2", loose=loosely)
    with pytest.raises(ModelNotFound):
        store.remove("smollm2")
    assert store.tag("smollm2", "mine").id == record.id


def test_removing_by_tag(store: ModelStore, tmp_path: Path) -> None:
    model_id = store.import_gguf(write_model(tmp_path), "a").id
    store.tag("a", "b")
    assert store.remove("a", force=True) == Removal(untagged=("docker.io/ai/a:latest",))
    assert store.get("b").tags == ("docker.io/ai/b:latest",)
    assert store.verify("b") == []
    assert store.remove("b") == Removal(untagged=("docker.io/ai/b:latest",), deleted=(model_id,))
    assert store.models() == []
    assert blob_names(store) == set()
    assert list((store.root / "manifests" / "sha256").iterdir()) == []


@pytest.mark.parametrize("spelling", ["{id}", "{hex}", "{short}", "a@{id}", "other/name@{id}"])
def test_removing_by_id(store: ModelStore, tmp_path: Path, spelling: str) -> None:
    model_id = store.import_gguf(write_model(tmp_path), "a").id
    store.tag("a", "b")
    digits = model_id.removeprefix("sha256:")
    text = spelling.format(id=model_id, hex=digits, short=digits[:12])
    with pytest.raises(Conflict, match="must be forced"):
        store.remove(text)
    assert len(store.models()) == 1
    removal = store.remove(text, force=True)
    assert removal == Removal(("docker.io/ai/a:latest", "docker.io/ai/b:latest"), (model_id,))
    with pytest.raises(ModelNotFound):
        store.remove(text)


def test_removing_by_id_needs_no_force_for_one_tag(store: ModelStore, tmp_path: Path) -> None:
    model_id = store.import_gguf(write_model(tmp_path), "a").id
    assert store.remove(model_id).deleted == (model_id,)


def test_shared_blobs_stay(store: ModelStore, tmp_path: Path) -> None:
    template = tmp_path / "t.jinja"
    template.write_text("{{ x }}")
    store.import_gguf(write_model(tmp_path), "a", chat_template=template)
    store.import_gguf(write_model(tmp_path, fill=1), "b", chat_template=template)
    store.remove("a")
    assert store.verify("b") == []
    assert len(blob_names(store)) == 3


def test_a_removed_model_takes_its_bundle_along(store: ModelStore, tmp_path: Path) -> None:
    record = store.import_gguf(write_model(tmp_path), "a")
    bundle = store.root / "bundles" / "sha256" / record.id.removeprefix("sha256:")
    (bundle / "model").mkdir(parents=True)
    before = store.disk_usage()
    os.link(store.files("a").weights[0], bundle / "model" / "model.gguf")
    assert store.disk_usage() == before  # two names, one file
    store.remove("a")
    assert not bundle.exists()


def test_disk_usage_counts_the_whole_folder(store: ModelStore, tmp_path: Path) -> None:
    store.import_gguf(write_model(tmp_path), "a")
    assert store.disk_usage() == sum(path.stat().st_size for path in store.root.rglob("*") if path.is_file())


def test_models_that_an_engine_cannot_run_are_listed_but_have_no_files(store: ModelStore) -> None:
    upstream = UpstreamStore(store.root)
    upstream.add("docker.io/ai/st:latest", "application/vnd.docker.ai.safetensors", b"st", {"format": "safetensors"})
    assert store.get("st").config.format == "safetensors"
    with pytest.raises(Unsupported, match="'safetensors'"):
        store.files("st")


# --- a store that upstream wrote -------------------------------------------------------------------------------------


class UpstreamStore:
    """Writes a store by hand, as upstream does."""

    def __init__(self, root: Path) -> None:
        self.root, self.models = root, list[object]()
        root.mkdir(parents=True)
        (root / "layout.json").write_text('{"version":"1.0.0"}')

    def _put(self, kind: str, data: bytes) -> str:
        digits = hashlib.sha256(data).hexdigest()
        path = self.root / kind / "sha256" / digits
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return f"sha256:{digits}"

    def add(self, tag: str, media_type: str, weights: bytes, config: dict[str, object]) -> str:
        descriptor = {"created": "2025-03-25T12:22:22Z"}
        layer = self._put("blobs", weights)
        rootfs = {"type": "rootfs", "diff_ids": [layer]}
        raw = json.dumps({"config": config, "descriptor": descriptor, "rootfs": rootfs}).encode()
        config_digest = self._put("blobs", raw)
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.docker.ai.model.config.v0.1+json",
                "size": len(raw),
                "digest": config_digest,
            },
            "layers": [{"mediaType": media_type, "size": len(weights), "digest": layer}],
        }
        model_id = self._put("manifests", json.dumps(manifest, indent=2).encode())
        self.models.append({"id": model_id, "tags": [tag], "files": [layer, config_digest], "later": {"x": 1}})
        (self.root / "models.json").write_text(json.dumps({"models": self.models, "also": 1}, indent=2))
        return model_id


SMOLLM2 = {
    "format": "gguf",
    "quantization": "IQ2_XXS/Q4_K_M",
    "parameters": "361.82M",
    "architecture": "llama",
    "size": "256.35MiB",
    "gguf": {"general.architecture": "llama", "llama.context_length": "8192"},
    "context_size": 8192,
}


@pytest.fixture
def smollm2(store: ModelStore) -> str:
    upstream = UpstreamStore(store.root)
    return upstream.add("docker.io/ai/smollm2:latest", "application/vnd.docker.ai.gguf.v3", b"weights", SMOLLM2)


def test_an_upstream_store_is_listed(store: ModelStore, smollm2: str) -> None:
    (record,) = store.models()
    assert record.id == smollm2
    assert record.tags == ("docker.io/ai/smollm2:latest",)
    assert record.created == 1742905342
    assert record.config.quantization == "IQ2_XXS/Q4_K_M"
    assert record.config.gguf["llama.context_length"] == "8192"
    assert store.files(smollm2).weights[0].read_bytes() == b"weights"
    assert store.verify(smollm2) == []


@pytest.mark.parametrize(
    "text",
    [
        "smollm2",
        " SmolLM2 ",
        "smollm2:latest",
        "smollm2:",
        "ai/smollm2",
        "ai/smollm2:latest",
        "docker.io/ai/smollm2:latest",
        "index.docker.io/ai/smollm2",
        "{id}",
        "{hex}",
        "{short}",
        "smollm2@{id}",
    ],
)
def test_an_upstream_model_is_got_by_all_spellings(store: ModelStore, smollm2: str, text: str) -> None:
    digits = smollm2.removeprefix("sha256:")
    assert store.get(text.format(id=smollm2, hex=digits, short=digits[:12])).id == smollm2


@pytest.mark.parametrize(
    "text", ["smollm", "smollm2:LATEST", "foo/smollm2", "000000000000", "0" * 64, "smollm2@sha256:" + "0" * 64]
)
def test_others_are_not_found(store: ModelStore, smollm2: str, text: str) -> None:
    with pytest.raises(ModelNotFound):
        store.get(text)


def test_a_name_of_twelve_hex_digits_is_found_as_a_name(store: ModelStore, tmp_path: Path) -> None:
    record = store.import_gguf(write_model(tmp_path), "abcdefabcdef")
    assert store.get("abcdefabcdef") == record


def test_ambiguous_ids_are_refused(store: ModelStore) -> None:
    store.root.mkdir()
    models = [{"id": f"sha256:{'a' * 12}{digit * 52}", "tags": [], "files": []} for digit in "01"]
    (store.root / "models.json").write_text(json.dumps({"models": models}))
    with pytest.raises(InvalidReference, match="ambiguous"):
        store.get("a" * 12)


def test_an_upstream_store_is_changed_without_losing_what_is_in_it(
    store: ModelStore, smollm2: str, tmp_path: Path
) -> None:
    before = json.loads((store.root / "models.json").read_text())
    store.import_gguf(write_model(tmp_path), "mine")
    store.tag("smollm2", "copy")
    after = json.loads((store.root / "models.json").read_text())
    before["models"][0]["tags"].append("docker.io/ai/copy:latest")
    assert after["models"][0] == before["models"][0]
    assert after["also"] == 1


def test_an_upstream_model_is_removed(store: ModelStore, smollm2: str) -> None:
    (store.root / "blobs" / "sha256" / ("0" * 64 + ".incomplete")).write_bytes(b"a download of upstream's")
    assert store.remove("smollm2").deleted == (smollm2,)
    assert json.loads((store.root / "models.json").read_text()) == {"models": [], "also": 1}
    assert blob_names(store) == {"0" * 64 + ".incomplete"}


def test_blobs_of_entries_we_cannot_read_stay(store: ModelStore, smollm2: str) -> None:
    document = json.loads((store.root / "models.json").read_text())
    document["models"].append({"id": "from the future", "parts": {"x": document["models"][0]["files"]}})
    (store.root / "models.json").write_text(json.dumps(document))
    store.remove("smollm2")
    assert len(blob_names(store)) == 2
    assert json.loads((store.root / "models.json").read_text())["models"] == document["models"][1:]
