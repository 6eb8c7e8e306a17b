from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cli.conftest import Run
from cli.scripted_server import Reply, ScriptedServer
from click.testing import CliRunner

from dmr.cli.main import cli
from dmr.cli.upload import Upload
from dmr.errors import InvalidModelFile
from dmr.types import ModelConfig, ModelRecord

TAG = "docker.io/ai/mine:latest"
CONTENT = b"GGUF" + bytes(range(256)) * 20_000  # several blocks of the client


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model [v1].gguf"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What was imported into the store on disk."""
    imported: list[tuple[Any, ...]] = []

    class Store:
        def __init__(self, root: Path) -> None:
            self.root = root

        def import_gguf(self, path: Path, reference: str, progress: Any = None) -> ModelRecord:
            progress(1, 2)
            progress(2, 2)
            imported.append((self.root, path, reference))
            return ModelRecord(id="sha256:1", tags=(reference,), created=0, config=ModelConfig())

    monkeypatch.setitem(sys.modules, "dmr.store.store", SimpleNamespace(ModelStore=Store))
    return imported


def test_import_sends_the_file_and_prints_the_tag_alone(dmr: Run, server: ScriptedServer, file: Path) -> None:
    server.on("POST /models/import", Reply(b'{"id":"sha256:1","tags":["a","%s"]}' % TAG.encode(), 201))
    result = dmr("import", str(file), "mine")
    assert (result.exit_code, result.stdout) == (0, f"{TAG}\n")
    assert result.stderr == "Importing model [v1].gguf (5.12MB)\n"
    sent = server.asked[-1]
    assert sent.path == "/models/import?reference=docker.io%2Fai%2Fmine%3Alatest"
    assert sent.headers["Content-Length"] == str(len(CONTENT))
    assert sent.body == CONTENT


def test_import_tells_what_the_server_says(dmr: Run, server: ScriptedServer, file: Path) -> None:
    server.on("POST /models/import", Reply(b"the file is truncated\n", 400, "text/plain"))
    result = dmr("import", str(file), "mine")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith("Error: the file is truncated\n")


def test_without_a_server_here_the_store_on_disk_is_written(
    lonely_dmr: Run, file: Path, tmp_path: Path, store: list[Any]
) -> None:
    result = lonely_dmr("import", str(file), "mine")
    assert (result.exit_code, result.stdout) == (0, f"{TAG}\n")
    assert f"Importing without a server, straight into {tmp_path / 'models'}." in result.stderr
    assert store == [(tmp_path / "models", file, TAG)]


def test_offline_asks_no_server(dmr: Run, server: ScriptedServer, file: Path, store: list[Any]) -> None:
    assert dmr("import", "--offline", str(file), "mine").exit_code == 0
    assert len(store) == 1
    assert server.asked == []


def test_a_server_elsewhere_that_is_absent_is_an_error(file: Path, store: list[Any]) -> None:
    result = CliRunner().invoke(cli, ["--server", "http://nowhere.invalid:1", "import", str(file), "mine"])
    assert result.exit_code == 1
    assert "No server answers at http://nowhere.invalid:1" in result.stderr
    assert store == []


def test_another_program_at_the_address_is_no_reason_to_write_the_store(
    dmr: Run, server: ScriptedServer, file: Path, store: list[Any]
) -> None:
    server.on("GET /health", Reply(b"<html>"))
    server.reply_to("GET /health")  # the good reply that every server here begins with
    result = dmr("import", str(file), "mine")
    assert result.exit_code == 1
    assert store == []


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (b"PK\x03\x04", "mine", "is not a GGUF file"),
        (b"", "mine", "is not a GGUF file"),
        (CONTENT, "no good", "The model name 'no good'"),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(
    dmr: Run, server: ScriptedServer, tmp_path: Path, content: bytes, name: str, message: str
) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    result = dmr("import", str(path), name)
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr
    assert server.asked == []


def test_a_file_that_is_not_there_is_wrong_usage(dmr: Run, tmp_path: Path) -> None:
    assert dmr("import", str(tmp_path / "none"), "mine").exit_code == 2


def test_progress_ends_at_the_size(file: Path) -> None:
    seen: list[tuple[int, int]] = []
    with file.open("rb") as opened:
        upload = Upload(opened, lambda done, total: seen.append((done, total)))
        while upload.read(1_000_000):
            pass
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_a_file_that_grows_is_sent_as_it_was(file: Path) -> None:
    with file.open("rb") as opened:
        upload = Upload(opened, lambda *_: None)
        with file.open("ab") as more:
            more.write(b"more")
        assert upload.read() == CONTENT
        assert upload.read() == b""


def test_a_file_that_shrinks_is_an_error_and_no_shorter_model(dmr: Run, server: ScriptedServer, file: Path) -> None:
    with file.open("rb") as opened:
        upload = Upload(opened, lambda *_: None)
        file.write_bytes(b"GGUF")
        assert upload.read(4) == b"GGUF"
        with pytest.raises(InvalidModelFile, match="has changed"):
            upload.read(4)
