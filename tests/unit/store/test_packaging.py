"""Models made of files: what is written for each source and format, straight into a store or by way of an archive."""

from __future__ import annotations

import io
import json
import random
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from unit.store.gguf_bytes import Tensor, gguf_bytes

from dmr.errors import InvalidModelFile, InvalidRequest
from dmr.store.archive import load_archive
from dmr.store.packaging import FORMATS, Package, package_into, prepare_package
from dmr.store.safetensors import read_safetensors_header
from dmr.store.store import ModelStore
from dmr.types import ModelRecord


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A GGUF, a projector, a template and two licences."""
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "m.gguf").write_bytes(gguf_bytes())
    (folder / "mm.gguf").write_bytes(gguf_bytes({"general.architecture": "clip"}))
    (folder / "t.jinja").write_text("{{ x }}")
    (folder / "LICENSE").write_text("do as you like")
    (folder / "NOTICE").write_text("by me")
    return folder


def safetensors(tensors: dict[str, tuple[str, list[int], int]], metadata: dict[str, str] | None = None) -> bytes:
    """`tensors`: name to type, shape and bytes."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    offset = 0
    for name, (kind, shape, size) in tensors.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(offset)


def manifest_of(store: ModelStore, record: ModelRecord) -> dict[str, Any]:
    return json.loads((store.root / "manifests" / "sha256" / record.id.removeprefix("sha256:")).read_bytes())


def layers_of(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (layer["mediaType"].removeprefix("application/vnd."), layer["annotations"]["org.cncf.model.filepath"])
        for layer in manifest["layers"]
    ]


def whole_package(files: Path, **changes: Any) -> Package:
    chosen: dict[str, Any] = {
        "gguf": files / "m.gguf",
        "mmproj": files / "mm.gguf",
        "chat_template": files / "t.jinja",
        "licenses": (files / "LICENSE", files / "NOTICE"),
        "context_size": 512,
    }
    return Package(**{**chosen, **changes})


# --- GGUF ------------------------------------------------------------------------------------------------------------


def test_a_package_of_everything(store: ModelStore, files: Path) -> None:
    record = package_into(store, whole_package(files), "me/full")
    manifest = manifest_of(store, record)
    assert manifest["config"]["mediaType"] == "application/vnd.docker.ai.model.config.v0.1+json"
    assert "artifactType" not in manifest
    assert layers_of(manifest) == [
        ("docker.ai.gguf.v3", "model.gguf"),
        ("docker.ai.mmproj", "model.mmproj"),
        ("docker.ai.chat.template.jinja", "template.jinja"),
        ("docker.ai.license", "LICENSE"),
        ("docker.ai.license", "LICENSE-2"),
    ]
    assert (record.tags, record.config.context_size) == (("docker.io/me/full:latest",), 512)


def test_a_cncf_package_of_everything(store: ModelStore, files: Path) -> None:
    manifest = manifest_of(store, package_into(store, whole_package(files, format="cncf"), "me/full"))
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    assert layers_of(manifest) == [
        ("cncf.model.weight.v1.raw", "model.gguf"),
        ("cncf.model.weight.v1.raw", "model.mmproj"),
        ("cncf.model.weight.config.v1.raw", "template.jinja"),
        ("cncf.model.doc.v1.raw", "LICENSE"),
        ("cncf.model.doc.v1.raw", "LICENSE-2"),
    ]
    config = json.loads((store.root / "blobs" / "sha256" / manifest["config"]["digest"][7:]).read_bytes())
    assert config["modelfs"] == {"type": "layers", "diffIds": [layer["digest"] for layer in manifest["layers"]]}
    assert config["config"]["paramSize"] == "32"


@pytest.mark.parametrize("form", FORMATS)
def test_either_format_is_the_same_model_to_use(store: ModelStore, files: Path, form: str) -> None:
    record = package_into(store, whole_package(files, format=form), "x")
    found = store.files("x")
    assert found.mmproj is not None
    assert found.chat_template is not None
    assert [path.read_bytes() for path in found.weights] == [(files / "m.gguf").read_bytes()]
    assert found.mmproj.read_bytes() == (files / "mm.gguf").read_bytes()
    assert store.chat_template("x") == "{{ x }}"
    assert record.licenses == ("do as you like", "by me")
    assert record.has_mmproj
    assert (record.config.architecture, record.config.context_size) == ("llama", 512)


@pytest.mark.parametrize("form", FORMATS)
def test_by_way_of_an_archive_it_is_the_same_model(
    store: ModelStore, files: Path, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now)
    steps: list[tuple[int, int]] = []
    package = whole_package(files, format=form)
    prepared = prepare_package(package, lambda done, total: steps.append((done, total)))
    with prepared.open("me/full:v2") as archive:
        record = load_archive(store, io.BytesIO(archive.read()))
    assert (record.id, record.tags) == (prepared.id, ("docker.io/me/full:v2",))
    assert package_into(ModelStore(tmp_path / "other"), package, "me/full:v2").id == record.id
    assert steps[-1][0] == steps[-1][1] == sum(layer["size"] for layer in manifest_of(store, record)["layers"])


def test_shards_are_found_by_any_of_them(store: ModelStore, tmp_path: Path) -> None:
    for number in range(2):
        metadata = {"general.architecture": "llama", "split.no": number, "split.count": 2, "split.tensors.count": 2}
        path = tmp_path / f"m-{number + 1:05}-of-00002.gguf"
        path.write_bytes(gguf_bytes(metadata, [Tensor(f"t{number}")]))
    record = package_into(store, Package(gguf=path, format="cncf"), "x")
    assert [name for _, name in layers_of(manifest_of(store, record))] == [
        "model-00001-of-00002.gguf",
        "model-00002-of-00002.gguf",
    ]
    assert len(store.files("x").weights) == 2


def test_another_context_is_another_model_and_the_same_is_not(store: ModelStore, files: Path) -> None:
    plain = package_into(store, Package(gguf=files / "m.gguf"), "x")
    assert package_into(store, Package(gguf=files / "m.gguf", context_size=2048), "x") == plain
    smaller = package_into(store, Package(gguf=files / "m.gguf", context_size=16), "y")
    assert smaller.id != plain.id
    assert package_into(store, Package(gguf=files / "m.gguf", context_size=16), "y") == smaller
    assert package_into(store, Package(gguf=files / "m.gguf", format="cncf"), "z").id not in (plain.id, smaller.id)


def test_a_file_that_changes_while_the_archive_is_sent_is_noticed(files: Path, store: ModelStore) -> None:
    prepared = prepare_package(Package(gguf=files / "m.gguf"))
    with (files / "m.gguf").open("ab") as file:
        file.write(b"more")
    with prepared.open("x") as archive, pytest.raises(Exception, match="changed while it was read"):
        archive.read()
    (files / "m.gguf").write_bytes(gguf_bytes(tensors=[Tensor("weight", data=b"x" * 128)]))
    with prepared.open("x") as archive, pytest.raises(InvalidModelFile, match="damaged"):
        load_archive(store, io.BytesIO(archive.read()))


# --- folders and DDUF ------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "st"
    (folder / "sub").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / ".git" / "config.json").write_text("{}")
    (folder / "a.safetensors").write_bytes(safetensors({"w": ("BF16", [3, 4], 24)}, {"format": "pt"}))
    (folder / "sub" / "b.safetensors").write_bytes(safetensors({"v": ("BF16", [2], 4)}))
    (folder / "config.json").write_text('{"architectures":["LlamaForCausalLM"],"max_position_embeddings":4096}')
    (folder / "tokenizer.model").write_bytes(b"\xff\xfe")
    (folder / "chat_template.jinja").write_text("{{ y }}")
    (folder / "LICENSE.txt").write_text("mine")
    (folder / "weights.bin").write_bytes(b"not taken")
    return folder


def test_a_folder_is_one_layer_for_each_file(store: ModelStore, folder: Path) -> None:
    record = package_into(store, Package(safetensors_dir=folder), "st")
    manifest = manifest_of(store, record)
    assert manifest["config"]["mediaType"] == "application/vnd.docker.ai.model.config.v0.2+json"
    assert layers_of(manifest) == [
        ("docker.ai.safetensors", "a.safetensors"),
        ("docker.ai.safetensors", "sub/b.safetensors"),
        ("docker.ai.license", "LICENSE.txt"),
        ("docker.ai.chat.template.jinja", "chat_template.jinja"),
        ("docker.ai.model.file", "config.json"),
        ("docker.ai.model.file", "tokenizer.model"),
    ]
    config = record.config
    assert (config.format, config.quantization, config.parameters) == ("safetensors", "BF16", "14")
    assert (config.architecture, config.context_size) == ("LlamaForCausalLM", 4096)
    assert config.safetensors == {"format": "pt", "tensor_count": "2"}
    assert (record.licenses, store.chat_template("st")) == (("mine",), "{{ y }}")


def test_a_template_that_is_given_takes_the_folders_place(store: ModelStore, folder: Path, files: Path) -> None:
    package = Package(safetensors_dir=folder, chat_template=files / "t.jinja", licenses=(files / "NOTICE",))
    record = package_into(store, package, "st")
    assert store.chat_template("st") == "{{ x }}"
    assert set(record.licenses) == {"mine", "by me"}


def test_a_dduf_file(store: ModelStore, tmp_path: Path) -> None:
    (tmp_path / "m.dduf").write_bytes(b"PK\x03\x04" + bytes(100))
    record = package_into(store, Package(dduf=tmp_path / "m.dduf"), "d")
    assert record.config.diffusers == {"layout": "dduf", "dduf_file": "model.dduf"}
    assert (record.config.format, record.config.architecture, record.config.size) == ("diffusers", "diffusers", "104B")
    assert layers_of(manifest_of(store, record)) == [("docker.ai.dduf", "model.dduf")]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a safetensors file"),
        (struct.pack("<Q", 1 << 60) + b"{}", "not a safetensors file"),
        (struct.pack("<Q", 2) + b"[]", "cannot be understood"),
        (struct.pack("<Q", 8) + b'{"a":{}}', "cannot be understood"),
        (safetensors({"w": ("F32", [1], 4)})[:-1], "cut off"),
        (safetensors({"w": ("F32", [-1], 4)}), "header is wrong"),
    ],
)
def test_a_damaged_safetensors_file_is_refused(folder: Path, data: bytes, reason: str) -> None:
    (folder / "a.safetensors").write_bytes(data)
    with pytest.raises(InvalidModelFile, match=reason):
        prepare_package(Package(safetensors_dir=folder))


def test_flipped_bits_in_a_safetensors_header(tmp_path: Path) -> None:
    whole, dice = safetensors({"w": ("BF16", [3, 4], 24), "v": ("F32", [2], 8)}, {"a": "b"}), random.Random(3)
    path = tmp_path / "a.safetensors"
    for _ in range(1500):
        data = bytearray(whole)
        for _ in range(dice.randint(1, 4)):
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        path.write_bytes(data)
        try:
            read_safetensors_header(path)
        except InvalidModelFile:
            continue


# --- what does not go together ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "Exactly one source"),
        ({"gguf": "m.gguf", "dduf": "m.gguf"}, "Exactly one source"),
        ({"safetensors_dir": ".", "mmproj": "mm.gguf"}, "with a GGUF file only"),
        ({"dduf": "m.gguf", "chat_template": "t.jinja"}, "no chat template"),
        ({"dduf": "m.gguf"}, "not a DDUF file"),
        ({"gguf": "m.gguf", "format": "zip"}, "'zip' is unknown; there are docker and cncf"),
        ({"gguf": "m.gguf", "context_size": 0}, "A context of 0 tokens"),
        ({"gguf": "m.gguf", "context_size": 1 << 31}, "1 to 2147483647 are"),
        ({"gguf": "m.gguf", "mmproj": "m.gguf"}, "not a vision projector"),
        ({"gguf": "absent.gguf"}, "cannot be opened"),
        ({"safetensors_dir": "absent"}, "is not a folder"),
        ({"safetensors_dir": "."}, r"has no \.safetensors files"),
    ],
)
def test_a_wrong_wish_is_told_and_nothing_is_written(
    store: ModelStore, files: Path, options: dict[str, Any], reason: str
) -> None:
    paths = {"gguf", "dduf", "safetensors_dir", "mmproj", "chat_template"}
    package = Package(**{name: files / value if name in paths else value for name, value in options.items()})
    with pytest.raises(InvalidRequest, match=reason):
        package_into(store, package, "x")
    assert not store.root.exists()
