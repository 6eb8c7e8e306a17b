"""`dmr import FOLDER`: what is sent to a server, what is written without one, and what is refused."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from cli.conftest import Run
from cli.scripted_server import Reply, ScriptedServer
from tiny_safetensors import write_tiny_llama
from unit.store.gguf_bytes import Tensor, gguf_bytes
from unit.store.test_model_folder import write_model, write_projector, write_shards

from dmr.store import conversion
from dmr.store.store import ModelStore

TAG = "docker.io/ai/mine:latest"
LOADED = b'{"type":"success","message":"Model loaded successfully","id":"sha256:1","tags":["%s"]}\n' % TAG.encode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    write_shards(path)
    write_projector(path / "mmproj.gguf")
    (path / "LICENSE").write_text("You may.")
    return path


@pytest.fixture
def safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that must be converted, by something that is quick."""
    script = tmp_path / "converter.py"
    model = gguf_bytes({"general.architecture": "llama"}, tensors=[Tensor("a")])
    lines = (
        "import sys",
        "from pathlib import Path",
        f"Path(sys.argv[3]).write_bytes({model!r} + sys.argv[5].encode())",
    )
    body = "\n".join(lines)
    script.write_text(body)
    monkeypatch.setattr(conversion, "NEEDED_PACKAGES", ())
    monkeypatch.setattr(conversion, "find_script", lambda: script)
    write_tiny_llama(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_a_folder_is_sent_as_one_archive(dmr: Run, server: ScriptedServer, folder: Path) -> None:
    server.on("POST /models/load", Reply(LOADED))
    result = dmr("import", str(folder), "mine")
    assert (result.exit_code, result.stdout) == (0, f"{TAG}\n")
    with tarfile.open(fileobj=io.BytesIO(server.asked[-1].body)) as archive:
        sizes = {member.size for member in archive if member.isfile()}
    assert {path.stat().st_size for path in folder.iterdir()} <= sizes


@pytest.mark.parametrize("arguments", [[], ["--offline"]])
def test_without_a_server_it_goes_into_the_store(
    lonely_dmr: Run, folder: Path, tmp_path: Path, arguments: list[str]
) -> None:
    result = lonely_dmr("import", *arguments, str(folder), "mine")
    assert (result.exit_code, result.stdout) == (0, f"{TAG}\n")
    record = ModelStore(tmp_path / "models").get("mine")
    assert record.has_mmproj
    assert record.licenses == ("You may.",)


def test_any_file_of_a_split_model_stands_for_it(lonely_dmr: Run, folder: Path, tmp_path: Path) -> None:
    assert lonely_dmr("import", str(folder / "big-00002-of-00002.gguf"), "mine").exit_code == 0
    assert len(ModelStore(tmp_path / "models").files("mine").weights) == 2


def test_a_file_and_its_projector_become_one_model(lonely_dmr: Run, folder: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "one.gguf")
    for weights in (tmp_path / "one.gguf", folder / "big-00001-of-00002.gguf"):
        result = lonely_dmr("import", str(weights), "--mmproj", str(folder / "mmproj.gguf"), "mine")
        assert (result.exit_code, result.stdout) == (0, f"{TAG}\n"), result.stderr
        assert ModelStore(tmp_path / "models").get("mine").has_mmproj


def test_what_is_no_projector_is_refused(lonely_dmr: Run, folder: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "one.gguf")
    result = lonely_dmr("import", str(tmp_path / "one.gguf"), "--mmproj", str(tmp_path / "one.gguf"), "mine")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "one.gguf is not a vision projector" in result.stderr
    result = lonely_dmr("import", str(folder), "--mmproj", str(folder / "mmproj.gguf"), "mine")
    assert result.exit_code == 2
    assert "--mmproj is for a GGUF file" in result.stderr


def test_a_projector_is_sent_with_its_model(dmr: Run, server: ScriptedServer, folder: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "one.gguf")
    server.on("POST /models/load", Reply(LOADED))
    result = dmr("import", str(tmp_path / "one.gguf"), "--mmproj", str(folder / "mmproj.gguf"), "mine")
    assert (result.exit_code, result.stdout) == (0, f"{TAG}\n")
    with tarfile.open(fileobj=io.BytesIO(server.asked[-1].body)) as archive:
        sizes = {member.size for member in archive if member.isfile()}
    assert {(tmp_path / "one.gguf").stat().st_size, (folder / "mmproj.gguf").stat().st_size} <= sizes


def test_an_ambiguous_folder_is_refused(lonely_dmr: Run, folder: Path) -> None:
    write_model(folder / "other.gguf")
    result = lonely_dmr("import", str(folder), "mine")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "holds several models: big-00001-of-00002.gguf, other.gguf. Import one of these files." in result.stderr


def test_safetensors_are_converted_on_the_way(lonely_dmr: Run, safetensors: Path, tmp_path: Path) -> None:
    result = lonely_dmr("import", "--convert-to", "q8_0", str(safetensors), "mine")
    assert (result.exit_code, result.stdout) == (0, f"{TAG}\n"), result.stderr
    assert "Converting tiny\n" in result.stderr
    (weights,) = ModelStore(tmp_path / "models").files("mine").weights
    assert weights.read_bytes().endswith(b"q8_0")


def test_without_the_extra_it_is_said_what_to_install(
    lonely_dmr: Run, safetensors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "NEEDED_PACKAGES", ("no_such_package",))
    result = lonely_dmr("import", str(safetensors), "mine")
    assert result.exit_code == 1
    assert "pip install 'dmr[convert]'" in result.stderr


def test_convert_to_is_refused_where_nothing_is_converted(lonely_dmr: Run, folder: Path, safetensors: Path) -> None:
    assert lonely_dmr("import", "--convert-to", "F16", str(folder / "mmproj.gguf"), "mine").exit_code == 2
    assert "leave out --convert-to" in lonely_dmr("import", "--convert-to", "F16", str(folder), "mine").stderr
    assert "not to 'Q4'" in lonely_dmr("import", "--convert-to", "Q4", str(safetensors), "mine").stderr
