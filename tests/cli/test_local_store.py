"""Where no server answers on this machine, commands about models work on the store on disk, and say so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli.conftest import Run
from click.testing import CliRunner
from unit.store.gguf_bytes import gguf_bytes

from dmr.cli.main import cli

TAG = "docker.io/ai/mine:latest"


@pytest.fixture
def mine(lonely_dmr: Run, tmp_path: Path) -> str:
    """A model in the store on disk."""
    file = tmp_path / "mine.gguf"
    file.write_bytes(gguf_bytes({"general.architecture": "llama"}))
    result = lonely_dmr("import", str(file), "mine")
    assert (result.exit_code, result.stdout) == (0, f"{TAG}\n"), result.stderr
    return "mine"


def test_list_reads_the_store_and_says_so(lonely_dmr: Run, mine: str, nowhere: str, tmp_path: Path) -> None:
    result = lonely_dmr("list")
    assert result.stdout.splitlines()[1].startswith("mine  ")
    assert result.stderr == f"No server answers at {nowhere}: this is the store at {tmp_path / 'models'}.\n"
    (model,) = json.loads(lonely_dmr("list", "--json").stdout)
    assert (model["tags"], model["config"]["format"]) == ([TAG], "gguf")


def test_whoever_types_an_address_means_that_server(mine: str, nowhere: str) -> None:
    result = CliRunner().invoke(cli, ["--server", nowhere, "list"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert nowhere in result.stderr


def test_a_model_is_shown_tagged_and_removed(lonely_dmr: Run, mine: str) -> None:
    assert "general.architecture: llama" in lonely_dmr("show", mine).stdout
    assert json.loads(lonely_dmr("inspect", mine).stdout)["tags"] == [TAG]
    assert lonely_dmr("tag", mine, "other:v1").exit_code == 0
    assert lonely_dmr("rm", mine).stdout == f"Untagged: {TAG}\n"
    removed = json.loads(lonely_dmr("rm", "other:v1", "--json").stdout)
    assert [next(iter(action)) for action in removed] == ["Untagged", "Deleted"]
    assert json.loads(lonely_dmr("list", "--json").stdout) == []


def test_df_counts_the_store(lonely_dmr: Run, mine: str) -> None:
    assert json.loads(lonely_dmr("df", "--json").stdout)["models_disk_usage"] > 0


def test_a_model_is_carried_from_one_store_to_another(
    lonely_dmr: Run, mine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (before,) = json.loads(lonely_dmr("list", "--json").stdout)
    archive = tmp_path / "mine.tar"
    assert lonely_dmr("export", mine, "-o", str(archive)).exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.gguf", "mine.tar", "models"]
    assert lonely_dmr("export", mine).stdout_bytes == archive.read_bytes()

    monkeypatch.setenv("MODELS_PATH", str(tmp_path / "other"))
    assert lonely_dmr("load", str(archive)).stdout == f"{TAG}\n"
    told = json.loads(lonely_dmr("load", "--tag", "again:v1", "--json", input=archive.read_bytes()).stdout)
    assert told == {"id": before["id"], "tags": [TAG, "docker.io/ai/again:v1"]}


def test_what_is_no_archive_is_refused(lonely_dmr: Run, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"no tar" * 1000)
    result = lonely_dmr("load", str(tmp_path / "x.tar"))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "archive" in result.stderr


def test_an_export_that_fails_leaves_no_file(lonely_dmr: Run, tmp_path: Path) -> None:
    result = lonely_dmr("export", "nosuch", "-o", str(tmp_path / "x.tar"))
    assert (result.exit_code, list(tmp_path.glob("x.tar*"))) == (1, [])
    assert "no such model: nosuch" in result.stderr


def test_a_package_has_what_it_is_made_of(lonely_dmr: Run, tmp_path: Path) -> None:
    for name, data in [("w.gguf", gguf_bytes()), ("t.jinja", b"{{ x }}"), ("LICENSE", b"Free.")]:
        (tmp_path / name).write_bytes(data)
    files = [f"--gguf={tmp_path}/w.gguf", f"--chat-template={tmp_path}/t.jinja", "-l", f"{tmp_path}/LICENSE"]
    result = lonely_dmr("package", *files, "--context-size", "512", "packed:v1")
    assert (result.exit_code, result.stdout) == (0, "docker.io/ai/packed:v1\n"), result.stderr
    assert json.loads(lonely_dmr("inspect", "packed:v1").stdout)["config"]["context_size"] == 512

    result = lonely_dmr("package", "--from", "packed:v1", "--context-size", "64", "--json", "packed:short")
    assert json.loads(result.stdout)["tags"] == ["docker.io/ai/packed:short"], result.stderr
    assert json.loads(lonely_dmr("inspect", "packed:short").stdout)["config"]["context_size"] == 64


def test_a_package_in_the_other_format(lonely_dmr: Run, tmp_path: Path) -> None:
    (tmp_path / "w.gguf").write_bytes(gguf_bytes())
    made = lonely_dmr("package", "--gguf", str(tmp_path / "w.gguf"), "--format", "cncf", "--json", "packed")
    digest = json.loads(made.stdout)["id"].removeprefix("sha256:")
    manifest = json.loads((tmp_path / "models" / "manifests" / "sha256" / digest).read_bytes())
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"


@pytest.mark.parametrize("sources", [[], ["--gguf", "{f}", "--from", "x"], ["--gguf", "{f}", "--dduf", "{f}"]])
def test_a_package_has_exactly_one_source(lonely_dmr: Run, tmp_path: Path, sources: list[str]) -> None:
    (tmp_path / "f").write_bytes(b"GGUF")
    result = lonely_dmr("package", *(source.format(f=tmp_path / "f") for source in sources), "name")
    assert result.exit_code == 2
    assert "exactly one of" in result.stderr


def test_a_package_is_not_pushed_without_a_server(lonely_dmr: Run, tmp_path: Path) -> None:
    (tmp_path / "w.gguf").write_bytes(gguf_bytes())
    result = lonely_dmr("package", "--gguf", str(tmp_path / "w.gguf"), "--push", "packed")
    assert result.exit_code == 1
    assert "only a server pushes" in result.stderr


def test_import_prints_json(lonely_dmr: Run, mine: str, tmp_path: Path) -> None:
    told = json.loads(lonely_dmr("import", "--json", str(tmp_path / "mine.gguf"), "other").stdout)
    assert told == {"model": "docker.io/ai/other:latest", "tags": [TAG, "docker.io/ai/other:latest"]}


def test_verify_finds_the_damaged_file(lonely_dmr: Run, mine: str, tmp_path: Path) -> None:
    result = lonely_dmr("verify")
    assert (result.exit_code, result.stdout) == (0, f"{TAG}: undamaged\n")
    weights = max((tmp_path / "models" / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
    weights.chmod(0o600)
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    result = lonely_dmr("verify", mine)
    assert (result.exit_code, result.stdout) == (1, f"mine: damaged: sha256:{weights.name}\n")
    told = json.loads(lonely_dmr("verify", "--json").stdout)
    assert told == [{"model": TAG, "damaged": [f"sha256:{weights.name}"]}]
    assert lonely_dmr("verify", "nosuch").stderr.startswith("Error: no such model: nosuch")


@pytest.mark.parametrize("answer", ["y\n", "YES\n"])
def test_purge_asks_first(lonely_dmr: Run, mine: str, answer: str) -> None:
    result = lonely_dmr("purge", input=answer)
    assert (result.exit_code, result.stdout) == (0, "All models are removed.\n")
    assert "WARNING!" in result.stderr
    assert result.stderr.count("Are you sure you want to continue? [y/N] ") == 1
    assert json.loads(lonely_dmr("list", "--json").stdout) == []


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_purge_keeps_all_without_a_yes(lonely_dmr: Run, mine: str, answer: str) -> None:
    result = lonely_dmr("purge", input=answer)
    assert (result.exit_code, result.stdout) == (1, "Operation cancelled.\n")
    assert len(json.loads(lonely_dmr("list", "--json").stdout)) == 1


@pytest.mark.parametrize("flag", ["--force", "--yes"])
def test_purge_need_not_ask(lonely_dmr: Run, mine: str, flag: str) -> None:
    assert json.loads(lonely_dmr("purge", flag, "--json", input="").stdout) == {"purged": True}


@pytest.mark.parametrize("arguments", [["inspect", "x"], ["show", "x"], ["rm", "x"], ["tag", "x", "y"]], ids=" ".join)
def test_an_unknown_model(lonely_dmr: Run, arguments: list[str]) -> None:
    result = lonely_dmr(*arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-1].startswith("Error: no such model: x (")


@pytest.mark.parametrize("arguments", [["list"], ["rm", "a"], ["df"]], ids=" ".join)
def test_another_machines_models_are_not_looked_for_here(arguments: list[str]) -> None:
    result = CliRunner().invoke(cli, ["--server", "http://nowhere.invalid:1", *arguments])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: No server answers at http://nowhere.invalid:1. Check MODEL_RUNNER_HOST.\n"
