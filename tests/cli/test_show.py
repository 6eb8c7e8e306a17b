"""`dmr show`, `dmr inspect` and `dmr tag`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cli.conftest import Run
from cli.scripted_server import Reply, ScriptedServer

MODEL: dict[str, Any] = {
    "id": "sha256:354bf30d0aa3",
    "tags": ["docker.io/ai/smollm2:latest", "docker.io/ai/smollm2:v1"],
    "created": 1742905342,
    "config": {
        "format": "gguf",
        "quantization": "IQ2_XXS/Q4_K_M",
        "parameters": "361.82M",
        "architecture": "llama",
        "size": "256.35MiB",
        "gguf": {"llama.context_length": "8192", "general.name": "two\nlines", "general.architecture": "llama"},
    },
}


def test_show_is_a_block_of_text(dmr: Run, server: ScriptedServer) -> None:
    server.on("GET /models/smollm2", MODEL)
    result = dmr("show", "smollm2")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        "Model:       sha256:354bf30d0aa3\n"
        "Tags:        docker.io/ai/smollm2:latest\n"
        "             docker.io/ai/smollm2:v1\n"
        "Created:     2025-03-25T12:22:22Z\n"
        "\n"
        "Format:       gguf\n"
        "Architecture: llama\n"
        "Parameters:   361.82M\n"
        "Size:         256.35MiB\n"
        "Quantization: IQ2_XXS/Q4_K_M\n"
        "Context Size: 8192\n"
        "\n"
        "GGUF Metadata:\n"
        "  general.architecture: llama\n"
        "  general.name: two\\nlines\n"
        "  llama.context_length: 8192\n"
    )


def test_show_leaves_out_what_is_not_known(dmr: Run, server: ScriptedServer) -> None:
    server.on("GET /models/m", {"id": "sha256:1", "config": {"format": "safetensors"}})
    assert dmr("show", "m").stdout == "Model:       sha256:1\n\nFormat:       safetensors\n"


def test_a_long_value_is_cut_in_the_text_and_whole_in_the_json(dmr: Run, server: ScriptedServer) -> None:
    template = "{{ x }}" * 500
    server.on("GET /models/m", {**MODEL, "config": {"gguf": {"tokenizer.chat_template": template}}})
    assert max(map(len, dmr("show", "m").stdout.splitlines())) < 250
    assert json.loads(dmr("show", "--json", "m").stdout)["config"]["gguf"]["tokenizer.chat_template"] == template


@pytest.mark.parametrize("command", ["show", "inspect"])
def test_remote_asks_the_registry(dmr: Run, server: ScriptedServer, command: str) -> None:
    server.on("GET /models/smollm2", MODEL)
    assert dmr(command, "--remote", "smollm2").exit_code == 0
    assert server.asked[-1].path == "/models/smollm2?remote=true"


def test_inspect_openai_prints_what_clients_see(dmr: Run, server: ScriptedServer) -> None:
    server.on("GET /engines/v1/models/ai/smollm2", {"id": "docker.io/ai/smollm2:latest", "object": "model"})
    assert json.loads(dmr("inspect", "--openai", "ai/smollm2").stdout)["object"] == "model"
    assert dmr("inspect", "--openai", "nosuch").stderr.startswith("Error: no such model: nosuch")
    assert dmr("inspect", "--openai", "--remote", "ai/smollm2").exit_code == 2


@pytest.mark.parametrize(
    ("target", "query"),
    [
        ("mine", "repo=docker.io%2Fai%2Fmine&tag=latest"),
        ("mine:v2", "repo=docker.io%2Fai%2Fmine&tag=v2"),
        ("localhost:5000/org/x", "repo=localhost%3A5000%2Forg%2Fx&tag=latest"),
    ],
)
def test_tag(dmr: Run, server: ScriptedServer, target: str, query: str) -> None:
    server.on("POST /models/ai%2Fsmollm2/tag", Reply(b"{}", 201))
    result = dmr("tag", "ai/smollm2", target)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f'Model "ai/smollm2" tagged successfully with "{target}"\n'
    assert server.asked[-1].path == f"/models/ai%2Fsmollm2/tag?{query}"


@pytest.mark.parametrize("target", ["a b", "", f"x@sha256:{'0' * 64}", "invalid:reference:format"])
def test_a_target_that_is_no_name_is_refused(dmr: Run, server: ScriptedServer, target: str) -> None:
    result = dmr("tag", "smollm2", target)
    assert (result.exit_code, result.stdout) == (1, "")
    assert not [asked for asked in server.asked if asked.method == "POST"]


def test_tag_of_an_unknown_model(dmr: Run) -> None:
    assert dmr("tag", "nosuch", "x").stderr.startswith("Error: no such model: nosuch")
