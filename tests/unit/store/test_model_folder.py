"""What a folder is taken for, and why some are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_safetensors import write_tiny_llama
from unit.store.gguf_bytes import Tensor, gguf_bytes

from dmr.errors import InvalidModelFile
from dmr.store.model_folder import ModelFolder, read_model_folder
from dmr.store.packaging import package_into
from dmr.store.store import ModelStore


def write_model(path: Path, **metadata: object) -> Path:
    path.write_bytes(gguf_bytes({"general.architecture": "llama", **metadata}, tensors=[Tensor(path.stem)]))
    return path


def write_shards(folder: Path, count: int = 2) -> list[Path]:
    split = {"split.count": count, "split.tensors.count": count}
    names = [f"big-{number + 1:05}-of-{count:05}.gguf" for number in range(count)]
    return [write_model(folder / name, **{"split.no": number, **split}) for number, name in enumerate(names)]


def write_projector(path: Path) -> Path:
    path.write_bytes(gguf_bytes({"general.architecture": "clip"}))
    return path


def test_everything_that_belongs_to_a_model_is_found(tmp_path: Path) -> None:
    shards, mmproj = write_shards(tmp_path), write_projector(tmp_path / "a-projector.gguf")
    for name in ("chat_template.jinja", "other.jinja", "LICENSE", "NOTICE.txt", "README.md", "license.png", "x.bin"):
        (tmp_path / name).write_text(name)
    (tmp_path / "below").mkdir()
    write_model(tmp_path / "below" / "other.gguf")
    found = read_model_folder(tmp_path)
    assert (found.weights, found.mmproj, found.safetensors) == (shards[0], mmproj, None)
    assert found.chat_template == tmp_path / "chat_template.jinja"
    assert [path.name for path in found.licenses] == ["LICENSE", "NOTICE.txt"]
    store = ModelStore(tmp_path / "store")
    package_into(store, found.package(shards[0], mmproj), "mine")
    assert len(store.files("mine").weights) == 2
    assert store.get("mine").licenses == ("LICENSE", "NOTICE.txt")
    assert store.chat_template("mine") == "chat_template.jinja"


def test_a_folder_of_safetensors_must_be_converted(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    (tmp_path / "LICENSE").write_text("You may.")
    assert read_model_folder(tmp_path) == ModelFolder(safetensors=tmp_path, licenses=(tmp_path / "LICENSE",))
    write_model(tmp_path / "model.gguf")
    assert read_model_folder(tmp_path).weights == tmp_path / "model.gguf"


def test_an_empty_folder_holds_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(InvalidModelFile, match=r"neither GGUF files, nor a config\.json with"):
        read_model_folder(tmp_path)
    with pytest.raises(InvalidModelFile, match="cannot be read"):
        read_model_folder(tmp_path / "none")


def test_of_several_models_none_is_taken(tmp_path: Path) -> None:
    write_shards(tmp_path)
    write_model(tmp_path / "small.gguf")
    with pytest.raises(InvalidModelFile, match=r"several models: big-00001-of-00002\.gguf, small\.gguf\. Import one"):
        read_model_folder(tmp_path)


def test_incomplete_and_ambiguous_folders_are_told(tmp_path: Path) -> None:
    projector = write_projector(tmp_path / "p1.gguf")
    with pytest.raises(InvalidModelFile, match="but no language model"):
        read_model_folder(tmp_path)
    first, _ = write_shards(tmp_path)
    content = first.read_bytes()
    first.unlink()
    with pytest.raises(InvalidModelFile, match="lacks the first file"):
        read_model_folder(tmp_path)
    first.write_bytes(content)
    write_projector(tmp_path / "p2.gguf")
    with pytest.raises(InvalidModelFile, match=r"projectors: p1\.gguf, p2\.gguf\. Choose one: dmr package"):
        read_model_folder(tmp_path)
    projector.unlink()
    for name in ("a.jinja", "b.jinja"):
        (tmp_path / name).write_text("x")
    with pytest.raises(InvalidModelFile, match=r"several chat templates: a\.jinja, b\.jinja\. Call the right one"):
        read_model_folder(tmp_path)


def test_a_damaged_file_is_told_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(InvalidModelFile, match=r"model\.gguf"):
        read_model_folder(tmp_path)
