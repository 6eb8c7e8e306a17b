from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import click
import pytest
from cli.conftest import Run
from cli.scripted_server import ScriptedServer
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from dmr.cli.main import cli

ROOT = Path(__file__).parents[2]
NAMES = sorted(cli.commands)


def test_the_commands_are_all_there() -> None:
    expected = "bench df import inspect list ps pull push rm run serve show status tag unload version"
    assert set(expected.split()) <= set(NAMES)


@pytest.mark.parametrize("name", [*NAMES, "ls", "stop"])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_each_command_has_help(name: str, flag: str) -> None:
    result = CliRunner().invoke(cli, [name, flag])
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: ")
    assert result.stderr == ""


@pytest.mark.parametrize("name", NAMES)
def test_each_command_has_a_summary_of_one_line_and_explains_every_option(name: str) -> None:
    command = cli.commands[name]
    summary = command.get_short_help_str(limit=10_000)
    assert summary.endswith(".")
    assert len(summary) <= 72
    assert all(p.help for p in command.params if isinstance(p, click.Option))


def test_the_help_tells_how_to_start() -> None:
    text = CliRunner().invoke(cli, ["--help"]).stdout
    assert "dmr serve" in text
    assert "dmr completion bash" in text
    assert "MODEL_RUNNER_HOST" in text


def test_an_unknown_command_is_wrong_usage() -> None:
    result = CliRunner().invoke(cli, ["lst"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "No such command 'lst'" in result.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys, atexit\n"
        "heavy = {'rich', 'urllib3', 'falcon', 'numpy', 'gunicorn', 'http', 'asyncio', 'readline'}\n"
        "atexit.register(lambda: sys.stderr.write(','.join(sorted(heavy & set(sys.modules)))))\n"
        "sys.path.insert(0, sys.argv.pop(1))\n"
        "from dmr.cli.main import main\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(ROOT), *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("Usage: dmr")
    assert done.stderr == ""


def test_the_page_of_the_manual_is_fresh() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "generate_cli.py"))["render"]()
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == made, "run: python docs/generate_cli.py"


def completions(url: str, arguments: list[str], incomplete: str) -> list[str]:
    complete = ShellComplete(cli, {}, "dmr", "_DMR_COMPLETE")
    return [item.value for item in complete.get_completions(["--server", url, *arguments], incomplete)]


@pytest.mark.parametrize("arguments", [["run"], ["rm", "x"], ["list"], ["import", "x.gguf"], ["unload"], ["inspect"]])
def test_the_shell_completes_names_of_models(server: ScriptedServer, arguments: list[str]) -> None:
    tags = ["docker.io/ai/smollm2:latest", "docker.io/ai/smollm2:q8", "docker.io/ai/qwen3:latest"]
    server.on("GET /models", [{"id": "sha256:1", "tags": tags}, {"id": "sha256:2"}])
    assert completions(server.url, arguments, "smol") == ["smollm2", "smollm2:q8"]


def test_completion_without_a_server_is_empty(nowhere: str, dmr: Run) -> None:
    assert completions(nowhere, ["run"], "s") == []
