from __future__ import annotations

import json
from typing import Any

import pytest
from cli.conftest import Run
from cli.scripted_server import Reply, ScriptedServer

ROUTE = "/engines/_configure"
ENTRY = {"Backend": "llama.cpp", "Model": "docker.io/ai/x:latest", "ModelID": "sha256:1", "Mode": "completion"}


@pytest.fixture
def accepting(server: ScriptedServer) -> ScriptedServer:
    server.on(f"POST {ROUTE}", Reply(status=202))
    return server


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        (["--context-size", "4096"], {"context-size": 4096}),
        (["--context-size", "-1", "--mode", "embedding"], {"context-size": -1, "mode": "embedding"}),
        (["--keep-alive", "1h"], {"keep_alive": "1h"}),
        (["--think"], {"llamacpp": {"reasoning-budget": -1}}),
        (["--think=false"], {"llamacpp": {"reasoning-budget": 0}}),
        (["--no-think"], {"llamacpp": {"reasoning-budget": 0}}),
        (["--reasoning-budget", "9"], {"llamacpp": {"reasoning-budget": 9}}),
        (
            ["--speculative-draft-model", "small", "--speculative-num-tokens", "4"],
            {"speculative": {"draft_model": "small", "num_tokens": 4}},
        ),
        (["--speculative-min-acceptance-rate", "0.5"], {"speculative": {"min_acceptance_rate": 0.5}}),
        (["--", "--temp", "0.7", "-1"], {"runtime-flags": ["--temp", "0.7", "-1"]}),
        (["--", "--think=false"], {"runtime-flags": ["--think=false"]}),  # not ours to understand
        (
            ["--replace-flags", "--", "--grammar", "root ::= 'a'"],
            {"runtime-flags": None, "raw-runtime-flags": "--grammar 'root ::= '\"'\"'a'\"'\"''"},
        ),
        (["--unset", "context-size", "--unset", "keep-alive"], {"context-size": None, "keep_alive": None}),
        (["--unset", "reasoning-budget"], {"llamacpp": {"reasoning-budget": None}}),
        (["--unset", "speculative"], {"speculative": None}),
        (
            ["--unset", "speculative-num-tokens", "--speculative-draft-model", "small"],
            {"speculative": {"num_tokens": None, "draft_model": "small"}},
        ),
        (["--gpu-memory-utilization", "0.5"], {"vllm": {"gpu-memory-utilization": 0.5}}),
    ],
    ids=str,
)
def test_what_is_named_is_sent(
    dmr: Run, accepting: ScriptedServer, arguments: list[str], fields: dict[str, Any]
) -> None:
    for command in (["configure", "smollm2"], ["configure", "set", "smollm2"]):
        result = dmr(*command, *arguments)
        assert (result.exit_code, result.output) == (0, "")
        assert accepting.asked[-1].json == {"model": "smollm2", **fields}


def test_options_may_stand_before_the_model(dmr: Run, accepting: ScriptedServer) -> None:
    assert dmr("configure", "--think", "smollm2", "--", "--jinja").exit_code == 0
    wanted = {"model": "smollm2", "llamacpp": {"reasoning-budget": -1}, "runtime-flags": ["--jinja"]}
    assert accepting.asked[-1].json == wanted


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["smollm2"], 1, "Nothing is named that could be set"),
        (["smollm2", "--mode", "embedding"], 1, "Nothing is named that could be set"),
        (["smollm2", "--temp", "1"], 2, "Runtime flags go after '--'."),
        (["smollm2", "--context-size", "many"], 2, "not a valid integer"),
        (["smollm2", "--mode", "image-generation"], 2, "image-generation"),
        (["smollm2", "--think", "--reasoning-budget", "5"], 1, "say the same"),
        (["smollm2", "--think=perhaps"], 2, "perhaps"),
        (["smollm2", "--keep-alive", "1h", "--unset", "keep-alive"], 1, "--unset keep-alive contradicts"),
        (["smollm2", "--speculative-num-tokens", "4", "--unset", "speculative"], 1, "--unset speculative contradicts"),
        (["smollm2", "--replace-flags"], 1, "--replace-flags needs flags after '--'"),
        (["reset"], 2, "Give the names of models, or --all."),
        (["reset", "--all", "smollm2"], 2, "Give the names of models, or --all."),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_told(
    dmr: Run, accepting: ScriptedServer, arguments: list[str], status: int, message: str
) -> None:
    result = dmr("configure", *arguments)
    assert result.exit_code == status
    assert message in result.stderr
    assert accepting.asked == []


def test_the_servers_refusal_is_shown(dmr: Run, server: ScriptedServer) -> None:
    text = 'runtime flag "--log-file" is not allowed for backend "llama.cpp"'
    server.on(f"POST {ROUTE}", Reply(text.encode(), 400, "text/plain"))
    result = dmr("configure", "smollm2", "--", "--log-file", "x")
    assert (result.exit_code, result.stderr) == (1, f"Error: {text}\n")


def test_an_unknown_model_is_told(dmr: Run, server: ScriptedServer) -> None:
    server.on(f"POST {ROUTE}", Reply(b"model not found", 404, "text/plain"))
    result = dmr("configure", "missing", "--think")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: no such model: missing")


def test_configurations_are_shown_as_json(dmr: Run, server: ScriptedServer) -> None:
    entries = [{**ENTRY, "Config": {"context-size": 64}, "News": 1}]
    server.on(f"GET {ROUTE}", entries)
    assert json.loads(dmr("configure", "show").stdout) == entries
    assert json.loads(dmr("configure", "show", "ai/x").stdout) == entries
    assert [asked.path for asked in server.asked] == [ROUTE, f"{ROUTE}?model=ai%2Fx"]


def test_configurations_are_reset(dmr: Run, server: ScriptedServer) -> None:
    server.on(f"DELETE {ROUTE}", {"reset": 1}, {"reset": 1}, {"reset": 0})
    assert dmr("configure", "reset", "a", "b", "--mode", "embedding").stdout == "Reset 2 configuration(s).\n"
    assert dmr("configure", "reset", "--all").stdout == "Nothing was configured.\n"
    paths = [f"{ROUTE}?model=a&mode=embedding", f"{ROUTE}?model=b&mode=embedding", ROUTE]
    assert [asked.path for asked in server.asked] == paths
