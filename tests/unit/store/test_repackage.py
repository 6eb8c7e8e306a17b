"""Models made of others: what changes, and that all else stays byte for byte."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from unit.store.archives import blob_path, digest, tar_of
from unit.store.gguf_bytes import gguf_bytes

from dmr.errors import InvalidModelFile, InvalidReference, InvalidRequest, ModelNotFound
from dmr.store.archive import load_archive
from dmr.store.packaging import Package, package_into
from dmr.store.repackage import repackage_model
from dmr.store.store import ModelStore
from dmr.types import ModelRecord, Repackaging

WEIGHTS = gguf_bytes()


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


@pytest.fixture
def base(store: ModelStore, tmp_path: Path) -> ModelRecord:
    (tmp_path / "m.gguf").write_bytes(WEIGHTS)
    (tmp_path / "t").write_text("{{ x }}")
    (tmp_path / "l").write_text("do as you like")
    package = Package(gguf=tmp_path / "m.gguf", chat_template=tmp_path / "t", licenses=(tmp_path / "l",))
    return package_into(store, package, "base")


def documents(store: ModelStore, record: ModelRecord) -> tuple[dict[str, Any], dict[str, Any]]:
    """Manifest and config."""
    manifest = json.loads((store.root / "manifests" / "sha256" / record.id[7:]).read_bytes())
    return manifest, json.loads((store.root / "blobs" / "sha256" / manifest["config"]["digest"][7:]).read_bytes())


def test_another_context(store: ModelStore, base: ModelRecord) -> None:
    record = repackage_model(store, "base", Repackaging("big:v2", context_size=4096))
    assert (record.tags, record.config.context_size) == (("docker.io/ai/big:v2",), 4096)
    old, new = documents(store, base), documents(store, record)
    assert new[0]["layers"] == old[0]["layers"]
    assert new[1]["config"].pop("context_size") == 4096
    assert old[1]["config"].pop("context_size") == 2048
    assert new[1] == old[1]
    assert store.get("base") == base
    assert repackage_model(store, "base", Repackaging("big:v2", context_size=4096)) == record


def test_nothing_else_is_one_more_name(store: ModelStore, base: ModelRecord) -> None:
    record = repackage_model(store, "base", Repackaging("other"))
    assert (record.id, record.tags) == (base.id, ("docker.io/ai/base:latest", "docker.io/ai/other:latest"))
    assert repackage_model(store, base.id, Repackaging("other", context_size=2048)).id == base.id


def test_another_template_takes_the_place_of_the_old_one(store: ModelStore, base: ModelRecord) -> None:
    repackage_model(store, "base", Repackaging("new", chat_template="{{ y }}"))
    assert (store.chat_template("new"), store.chat_template("base")) == ("{{ y }}", "{{ x }}")
    repackage_model(store, "base", Repackaging("none", chat_template=""))
    assert store.chat_template("none") is None


def test_licences_are_added(store: ModelStore, base: ModelRecord) -> None:
    record = repackage_model(store, "base", Repackaging("new", licenses=("do as you like", "more", "more")))
    assert record.licenses == ("do as you like", "more")


def test_a_projector_that_was_uploaded(store: ModelStore, base: ModelRecord) -> None:
    projector = gguf_bytes({"general.architecture": "clip"})
    store.add_file(io.BytesIO(projector), len(projector), digest(projector))
    assert repackage_model(store, "base", Repackaging("sees", mmproj=digest(projector))).has_mmproj
    assert store.verify("sees") == []
    assert not list((store.root / "uploads" / "sha256").iterdir())
    other = gguf_bytes({"general.architecture": "clip", "x": 1})
    store.add_file(io.BytesIO(other), len(other), digest(other))
    repackage_model(store, "sees", Repackaging("sees", mmproj=digest(other)))
    found = store.files("sees").mmproj
    assert found is not None
    assert found.read_bytes() == other


def test_there_and_back_in_the_other_format(store: ModelStore, base: ModelRecord) -> None:
    record = repackage_model(store, "base", Repackaging("pack", format="cncf", context_size=512))
    manifest, config = documents(store, record)
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert [layer["mediaType"].removeprefix("application/vnd.cncf.model.") for layer in manifest["layers"]] == [
        "weight.v1.raw",
        "weight.config.v1.raw",
        "doc.v1.raw",
    ]
    assert config["modelfs"]["diffIds"] == [layer["digest"] for layer in manifest["layers"]]
    assert store.files("pack").weights[0].read_bytes() == WEIGHTS
    assert (store.chat_template("pack"), record.licenses) == ("{{ x }}", ("do as you like",))
    assert record.config.context_size == 512
    back = repackage_model(store, "pack", Repackaging("back", format="docker", context_size=2048))
    assert back.id == base.id


def test_what_is_not_understood_stays(store: ModelStore) -> None:
    config = json.dumps({"config": {"format": "gguf", "extra": 1}, "more": [2]}).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "config": {
                "mediaType": "application/vnd.docker.ai.model.config.v0.2+json",
                "digest": digest(config),
                "size": len(config),
            },
            "layers": [
                {
                    "mediaType": "application/vnd.docker.ai.gguf.v3",
                    "digest": digest(WEIGHTS),
                    "size": len(WEIGHTS),
                    "urls": ["u"],
                }
            ],
            "annotations": {"a": "b"},
            "subject": {"x": "y"},
        }
    ).encode()
    members = {blob_path(WEIGHTS): WEIGHTS, blob_path(config): config, "manifest.json": manifest}
    base = load_archive(store, io.BytesIO(tar_of(members)), "base")
    new = documents(store, repackage_model(store, "base", Repackaging("new", context_size=7)))
    old = documents(store, base)
    old[1]["config"]["context_size"] = 7
    assert new[1] == old[1]
    old[0]["config"] = new[0]["config"]
    assert new[0] == old[0]
    assert new[0]["config"]["mediaType"].endswith("v0.2+json")


@pytest.mark.parametrize(
    ("wish", "kind", "reason"),
    [
        (Repackaging("a b"), InvalidReference, "a b"),
        (Repackaging("x", context_size=0), InvalidRequest, "0 tokens"),
        (Repackaging("x", format="zip"), InvalidRequest, "unknown"),
        (Repackaging("x", mmproj="x"), InvalidRequest, "digest"),
        (Repackaging("x", mmproj="sha256:" + "0" * 64), InvalidRequest, "was not uploaded"),
        (Repackaging("x", mmproj=digest(WEIGHTS)), InvalidModelFile, "not a vision projector"),
        (Repackaging("x", chat_template="x" * (5 << 20)), InvalidRequest, "larger than"),
    ],
)
def test_wrong_wishes(
    store: ModelStore, base: ModelRecord, wish: Repackaging, kind: type[Exception], reason: str
) -> None:
    before = {path: hashlib.sha256(path.read_bytes()).digest() for path in store.root.rglob("*") if path.is_file()}
    with pytest.raises(kind, match=reason):
        repackage_model(store, "base", wish)
    assert before == {p: hashlib.sha256(p.read_bytes()).digest() for p in store.root.rglob("*") if p.is_file()}


def test_an_unknown_base(store: ModelStore) -> None:
    with pytest.raises(ModelNotFound):
        repackage_model(store, "absent", Repackaging("x"))
