from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from cli.conftest import Run
from cli.scripted_server import ScriptedServer

NEVER = "0001-01-01T00:00:00Z"


def runner(**fields: Any) -> dict[str, Any]:
    return {"backend_name": "llama.cpp", "model_name": "ai/smollm2", "mode": "completion", "last_used": NEVER, **fields}


def test_ps_is_a_table(dmr: Run, server: ScriptedServer) -> None:
    used = (datetime.now(timezone.utc) - timedelta(minutes=5, seconds=5)).isoformat()
    server.on("GET /engines/ps", [runner(last_used=used, keep_alive="10m0s")])
    assert dmr("ps").stdout == (
        "MODEL NAME  BACKEND    MODE        UNTIL\nsmollm2     llama.cpp  completion  4 minutes from now\n"
    )


@pytest.mark.parametrize(
    ("fields", "until"),
    [
        ({"loading": True, "in_use": True}, "Loading..."),
        ({"loading": True, "in_use": True, "loading_progress": 0.42}, "Loading... 42%"),
        ({"in_use": True, "keep_alive": "-1"}, "Forever"),
        ({"in_use": True, "keep_alive": "5m0s"}, "In use"),
        ({"keep_alive": "1h0m0s"}, "Not used yet"),
        ({"last_used": "2026-01-01T00:00:00.123456789Z", "keep_alive": "0s"}, "Expiring"),
        ({"last_used": "2026-01-01T00:00:00Z", "keep_alive": "1000000h0m0s"}, "113 years from now"),
        ({"last_used": "2026-01-01T00:00:00Z"}, "Unknown"),
        ({"last_used": "2026-01-01T00:00:00Z", "keep_alive": "soon\x1b[2J"}, "soon[2J"),
    ],
)
def test_ps_tells_until_when_each_model_stays(
    dmr: Run, server: ScriptedServer, fields: dict[str, Any], until: str
) -> None:
    server.on("GET /engines/ps", [runner(**fields)])
    assert dmr("ps").stdout.splitlines()[1] == f"smollm2     llama.cpp  completion  {until}"


def test_ps_json_keeps_fields_that_this_program_does_not_know(dmr: Run, server: ScriptedServer) -> None:
    server.on("GET /engines/ps", [runner(news=1)])
    assert json.loads(dmr("ps", "--json").stdout) == [runner(news=1)]


def test_unload_of_one_engine_as_json(dmr: Run, server: ScriptedServer) -> None:
    server.on("POST /engines/unload", {"unloaded_runners": 1})
    assert json.loads(dmr("unload", "--json", "--all", "--backend", "vllm").stdout) == {"unloaded_runners": 1}
    assert server.asked[0].json == {"all": True, "models": [], "backend": "vllm"}


@pytest.mark.parametrize(
    ("arguments", "count", "said", "sent"),
    [
        (["a", "b"], 2, "Unloaded 2 model(s).\n", {"all": False, "models": ["a", "b"]}),
        (["a"], 0, "No such model(s) running.\n", {"all": False, "models": ["a"]}),
        (["--all"], 0, "No models are running.\n", {"all": True, "models": []}),
        (["--all"], 1, "Unloaded 1 model(s).\n", {"all": True, "models": []}),
    ],
)
@pytest.mark.parametrize("command", ["unload", "stop"])
def test_unload(
    dmr: Run, server: ScriptedServer, command: str, arguments: list[str], count: int, said: str, sent: Any
) -> None:
    server.on("POST /engines/unload", {"unloaded_runners": count})
    result = dmr(command, *arguments)
    assert (result.exit_code, result.stdout) == (0, said)
    assert server.asked[0].json == sent
    assert server.asked[0].headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("arguments", [[], ["--all", "a"]])
def test_unload_takes_names_or_all(dmr: Run, server: ScriptedServer, arguments: list[str]) -> None:
    result = dmr("unload", *arguments)
    assert result.exit_code == 2
    assert "Give the names of models, or --all." in result.stderr
    assert server.asked == []


def test_df(dmr: Run, server: ScriptedServer) -> None:
    server.on("GET /engines/df", {"models_disk_usage": 1_500_000_000, "default_backend_disk_usage": 0})
    assert dmr("df").stdout == "TYPE    SIZE\nModels  1.50GB\n"


def test_df_shows_the_engine_when_it_takes_space(dmr: Run, server: ScriptedServer) -> None:
    server.on("GET /engines/df", {"models_disk_usage": 0, "default_backend_disk_usage": 42_000_000})
    assert dmr("df").stdout.splitlines()[2] == "Inference engine  42.00MB"


def test_df_tells_what_is_no_model_apart(dmr: Run, server: ScriptedServer) -> None:
    usage = {"models_disk_usage": 6_000_000, "incomplete_disk_usage": 2_000_000, "reclaimable_disk_usage": 1_000_000}
    server.on("GET /engines/df", usage)
    assert [line.split("  ")[0] + " " + line.split()[-1] for line in dmr("df").stdout.splitlines()[1:]] == [
        "Models 3.00MB",
        "Unfinished downloads 2.00MB",
        "Reclaimable 1.00MB",
    ]


def test_df_as_json_is_what_the_server_tells(dmr: Run, server: ScriptedServer) -> None:
    server.on("GET /engines/df", {"models_disk_usage": 7, "reclaimable": 3})
    assert json.loads(dmr("df", "--json").stdout) == {"models_disk_usage": 7, "reclaimable": 3}
