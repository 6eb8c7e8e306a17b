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
