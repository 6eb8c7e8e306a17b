"""`dmr launch`: others' programs, told where this server is."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli.conftest import Run
from cli.scripted_server import ScriptedServer

from dmr.cli.apps import APPS, CONTAINERS

ROOT = Path(__file__).parents[2]
MODEL = {
    "id": "sha256:1",
    "tags": ["docker.io/ai/qwen3:latest"],
    "config": {"architecture": "qwen3", "gguf": {"qwen3.context_length": "40960"}},
}
FAKE = f"""#!{sys.executable}
import json, os, sys
print(json.dumps({{"arguments": sys.argv[1:], "environment": dict(os.environ)}}))
sys.exit(7)
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole PATH."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def one_model(server: ScriptedServer) -> ScriptedServer:
    server.on("GET /models", [MODEL])
    server.on("GET /models/qwen3", MODEL)
    return server


def install(programs: Path, name: str) -> None:
    (programs / name).write_text(FAKE)
    (programs / name).chmod(0o755)


def launched(server: ScriptedServer, *arguments: str) -> dict[str, Any]:
    """What the program saw that took the place of `dmr`."""
    command = [sys.executable, "-c", "from dmr.cli.main import main; main()", "--server", server.url, "launch"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    return {**seen, "stderr": done.stderr}


def test_without_a_name_all_are_listed(dmr: Run, server: ScriptedServer, programs: Path) -> None:
    install(programs, "claude")
    rows = {line.split()[0]: line for line in dmr("launch").stdout.splitlines()[1:]}
    assert set(rows) == {*APPS, *CONTAINERS}
    assert rows["claude"].endswith("  yes")
    assert rows["codex"].endswith("  no codex")
    assert rows["openwebui"].endswith("  no docker")
    assert server.asked == []
    listed = {one["app"]: one["installed"] for one in json.loads(dmr("launch", "--json").stdout)}
    assert (listed["claude"], listed["openwebui"]) == (True, False)
    assert dmr("launch", "claude", "--json").exit_code == 2


def test_claude_is_told_by_its_environment(one_model: ScriptedServer, programs: Path) -> None:
    install(programs, "claude")
    seen = launched(one_model, "claude", "--", "--print", "Hi")
    assert seen["arguments"] == ["--model", "qwen3", "--print", "Hi"]
    assert seen["environment"]["ANTHROPIC_BASE_URL"] == one_model.url
    assert seen["environment"]["ANTHROPIC_DEFAULT_HAIKU_MODEL"] == "qwen3"


def test_codex_is_told_by_its_arguments(one_model: ScriptedServer, programs: Path) -> None:
    install(programs, "codex")
    arguments = launched(one_model, "codex", "--", "exec", "Hi")["arguments"]
    assert arguments[-2:] == ["exec", "Hi"]
    assert arguments[:-2:2] == ["-c"] * (len(arguments) // 2 - 1)
    settings = dict(argument.split("=", 1) for argument in arguments[1:-2:2])
    assert settings == {  # TOML, as codex reads it
        "model": '"qwen3"',
        "model_provider": '"dmr"',
        "model_context_window": "40960",
        "model_providers.dmr.name": '"dmr"',
        "model_providers.dmr.base_url": f'"{one_model.url}/v1"',
        "model_providers.dmr.wire_api": '"responses"',
    }


def test_openclaw_is_told_by_a_file_of_ours(one_model: ScriptedServer, programs: Path) -> None:
    install(programs, "openclaw")
    path = Path(launched(one_model, "openclaw")["environment"]["OPENCLAW_CONFIG_PATH"])
    assert path.stat().st_mode & 0o077 == 0
    settings = json.loads(path.read_text())
    assert settings["models"]["providers"]["dmr"]["baseUrl"] == f"{one_model.url}/v1"
    assert settings["agents"]["defaults"]["model"]["primary"] == "dmr/qwen3"


@pytest.mark.parametrize("name", sorted(APPS))
def test_a_dry_run_prints_a_line_for_a_shell(
    dmr: Run, one_model: ScriptedServer, programs: Path, tmp_path: Path, name: str
) -> None:
    result = dmr("launch", name, "--dry-run", "--", "two words")
    assert (result.exit_code, result.stderr) == (0, "")
    install(programs, APPS[name].program)
    done = subprocess.run(["/bin/sh", "-c", result.stdout], capture_output=True, text=True, check=False)
    seen = json.loads(done.stdout)
    assert seen["arguments"][-1] == "two words"
    told = " ".join(
        [*seen["arguments"], *seen["environment"].values(), *dmr("launch", name, "--config").stdout.split()]
    )
    assert one_model.url in told
    assert "qwen3" in told
    assert not list(tmp_path.rglob("launch")), "a dry run writes nothing"


def test_config_prints_what_it_would_be_told(dmr: Run, one_model: ScriptedServer, programs: Path) -> None:
    result = dmr("launch", "opencode", "--config")
    name, _, content = result.stdout.strip().partition("=")
    assert name == "OPENCODE_CONFIG_CONTENT"
    settings = json.loads(content)
    assert settings["model"] == "dmr/qwen3"
    assert settings["provider"]["dmr"]["models"]["qwen3"]["limit"] == {"context": 40960, "output": 10240}


@pytest.mark.parametrize("name", sorted(CONTAINERS))
def test_a_container_reaches_this_machine(dmr: Run, one_model: ScriptedServer, programs: Path, name: str) -> None:
    result = dmr("launch", name, "--dry-run", "--port", "8099", "--detach", "--image", "my/image:1")
    command = shlex.split(result.stdout)
    assert command[:3] == ["docker", "run", "--detach"]
    assert command[-1] == "my/image:1"
    assert f"127.0.0.1:8099:{CONTAINERS[name].port}" in command
    port = one_model.url.rpartition(":")[2]
    assert f"http://host.docker.internal:{port}/v1" in result.stdout
    assert one_model.url not in result.stdout


def test_a_container_is_started_with_a_word_about_the_address(one_model: ScriptedServer, programs: Path) -> None:
    install(programs, "docker")
    seen = launched(one_model, "openwebui")
    assert seen["arguments"][:2] == ["run", "--rm"]
    assert "--host 0.0.0.0" in seen["stderr"]


@pytest.mark.parametrize("flag", [["--port", "1"], ["--image", "x"], ["--detach"]])
def test_what_is_for_containers_only(dmr: Run, one_model: ScriptedServer, flag: list[str]) -> None:
    assert dmr("launch", "claude", *flag).exit_code == 2


def test_a_program_that_is_not_installed(dmr: Run, one_model: ScriptedServer, programs: Path) -> None:
    result = dmr("launch", "claude")
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: claude is not installed: npm install -g @anthropic-ai/claude-code.\n",
    )
    assert "docker is not installed" in dmr("launch", "openwebui").stderr


@pytest.mark.parametrize(
    ("models", "flags", "message"),
    [
        ([], [], "There is no model yet"),
        ([MODEL, {"id": "2", "tags": ["docker.io/ai/b:latest"]}], [], "choose with --model, out of b, qwen3."),
        ([MODEL], ["--model", "nosuch"], "There is no model nosuch: `dmr pull nosuch` brings it"),
    ],
)
def test_the_model_must_be_clear(
    dmr: Run, server: ScriptedServer, programs: Path, models: list[Any], flags: list[str], message: str
) -> None:
    server.on("GET /models", models)
    result = dmr("launch", "claude", *flags)
    assert result.exit_code == 1
    assert message in result.stderr


def test_no_server(lonely_dmr: Run, programs: Path) -> None:
    assert "Start it with `dmr serve`." in lonely_dmr("launch", "claude", "--model", "m").stderr
    assert lonely_dmr("launch", "claude", "--model", "m", "--dry-run").exit_code == 0


def test_an_unknown_app_is_wrong_usage(dmr: Run) -> None:
    result = dmr("launch", "nosuch")
    assert result.exit_code == 2
    assert "openwebui" in result.stderr
