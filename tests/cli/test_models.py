from __future__ import annotations

import json
import time
from typing import Any

import pytest
from cli.conftest import Run
from cli.scripted_server import Reply, ScriptedServer

ID = "354bf30d0aa3" + "0" * 52
OTHER = "b" * 64


def model(id: str = ID, tags: tuple[str, ...] = ("docker.io/ai/smollm2:latest",), **config: Any) -> dict[str, Any]:
    config = {"format": "gguf", "quantization": "Q4_K_M", "parameters": "361.82M", "size": "256.35MiB", **config}
    made = {
        "id": f"sha256:{id}",
        "created": int(time.time()) - 3 * 86400,
        "config": {"architecture": "llama", **config},
    }
    return {**made, "tags": list(tags)} if tags else made


@pytest.mark.parametrize("command", ["list", "ls"])
def test_list_is_a_table(dmr: Run, server: ScriptedServer, command: str) -> None:
    server.on("GET /models", [model(context_size=8192)])
    result = dmr(command)
    assert result.stdout == (
        "MODEL NAME  PARAMETERS  QUANTIZATION  ARCHITECTURE  MODEL ID      CREATED     CONTEXT  SIZE\n"
        "smollm2     361.82M     Q4_K_M        llama         354bf30d0aa3  3 days ago  8192     256.35MiB\n"
    )
    assert (result.exit_code, result.stderr) == (0, "")


def first_column(text: str) -> list[str]:
    return [line.split("  ")[0] for line in text.splitlines()[1:]]


def test_list_has_a_row_per_tag_by_name_and_shows_untagged_models(dmr: Run, server: ScriptedServer) -> None:
    tags = ("docker.io/ai/smollm2:q8", "docker.io/ai/smollm2:latest", "huggingface.co/org/x:latest")
    server.on("GET /models", [model(tags=tags), model(OTHER, tags=())])
    assert first_column(dmr("list").stdout) == ["<none>", "huggingface.co/org/x", "smollm2", "smollm2:q8"]


def test_list_of_an_empty_store_is_the_header_alone(dmr: Run, server: ScriptedServer) -> None:
    server.on("GET /models", [])
    assert len(dmr("list").stdout.splitlines()) == 1
    assert dmr("list", "-q").stdout == ""
    assert json.loads(dmr("list", "--json").stdout) == []


def test_list_takes_the_context_from_the_file_when_the_config_has_none(dmr: Run, server: ScriptedServer) -> None:
    server.on("GET /models", [model(gguf={"llama.context_length": "2048"})])
    assert " 2048 " in dmr("list").stdout


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        ("smollm2", ["smollm2", "smollm2:q8"]),
        ("ai/smollm2", ["smollm2", "smollm2:q8"]),
        ("docker.io/ai/smollm2", ["smollm2", "smollm2:q8"]),
        ("smollm2:q8", ["smollm2:q8"]),
        ("smollm2:latest", ["smollm2"]),
        ("smollm", []),
        ("354bf30d0aa3", ["smollm2", "smollm2:q8"]),
        (f"sha256:{OTHER}", ["other"]),
    ],
)
def test_list_selects_by_any_spelling(dmr: Run, server: ScriptedServer, wanted: str, shown: list[str]) -> None:
    tags = ("docker.io/ai/smollm2:latest", "docker.io/ai/smollm2:q8")
    server.on("GET /models", [model(tags=tags), model(OTHER, tags=("docker.io/ai/other:latest",))])
    assert first_column(dmr("list", wanted).stdout) == shown
    assert len(json.loads(dmr("list", wanted, "--json").stdout)) == (1 if shown else 0)


def test_list_refuses_a_name_that_is_none(dmr: Run, server: ScriptedServer) -> None:
    server.on("GET /models", [model()])
    result = dmr("list", "a b")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: ")


def test_list_json_keeps_fields_that_this_program_does_not_know(dmr: Run, server: ScriptedServer) -> None:
    server.on("GET /models", [{**model(), "news": {"ä": 1}}])
    assert json.loads(dmr("list", "--json").stdout)[0]["news"] == {"ä": 1}


def test_list_quiet_prints_short_ids(dmr: Run, server: ScriptedServer) -> None:
    server.on("GET /models", [model(), model(OTHER)])
    assert dmr("list", "-q").stdout == "354bf30d0aa3\nbbbbbbbbbbbb\n"


def test_a_tag_that_is_no_reference_is_shown_as_it_is(dmr: Run, server: ScriptedServer) -> None:
    server.on("GET /models", [model(tags=("What is this?",))])
    assert first_column(dmr("list").stdout) == ["What is this?"]


def test_inspect_prints_the_object_with_four_blanks(dmr: Run, server: ScriptedServer) -> None:
    server.on("GET /models/ai%2Fsmollm2:latest", model())
    result = dmr("inspect", "ai/smollm2:latest")
    assert json.loads(result.stdout)["id"] == f"sha256:{ID}"
    assert result.stdout.startswith('{\n    "id": ')


@pytest.mark.parametrize("command", ["inspect", "rm"])
def test_an_unknown_model(dmr: Run, command: str) -> None:
    result = dmr(command, "nosuch")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: no such model: nosuch (`dmr list` shows")


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_cannot_address_another_route(dmr: Run, server: ScriptedServer, name: str) -> None:
    result = dmr("rm", name)
    assert result.exit_code == 1
    assert "is not the name of a model" in result.stderr
    assert server.asked == []


@pytest.mark.parametrize("name", ["../engines/ps", "a?force=true", "a#b", "ä ö"])
def test_a_strange_name_stays_one_segment_of_the_path(dmr: Run, server: ScriptedServer, name: str) -> None:
    dmr("rm", name)
    [asked] = server.asked
    assert asked.path.count("/") == 2
    assert "?" not in asked.path


def test_rm_prints_what_was_done_in_order(dmr: Run, server: ScriptedServer) -> None:
    server.on("DELETE /models/a", [{"Untagged": "docker.io/ai/a:latest"}, {"Deleted": f"sha256:{ID}"}])
    server.on("DELETE /models/b", [{"Untagged": "docker.io/ai/b:latest"}])
    result = dmr("rm", "a", "b")
    assert result.stdout == (
        f"Untagged: docker.io/ai/a:latest\nDeleted: sha256:{ID}\nUntagged: docker.io/ai/b:latest\n"
    )
    assert [a.path for a in server.asked] == ["/models/a", "/models/b"]


def test_rm_stops_at_the_first_failure_and_keeps_what_it_printed(dmr: Run, server: ScriptedServer) -> None:
    server.on("DELETE /models/a", [{"Untagged": "a"}])
    server.on("DELETE /models/b", Reply(b"it has two tags\n", 409, "text/plain"))
    result = dmr("rm", "a", "b", "c")
    assert (result.exit_code, result.stdout) == (1, "Untagged: a\n")
    assert result.stderr == "Error: removing b failed with status 409: it has two tags\n"
    assert len(server.asked) == 2


def test_rm_force_reaches_the_server(dmr: Run, server: ScriptedServer) -> None:
    server.on("DELETE /models/a", [])
    dmr("rm", "-f", "a")
    assert server.asked[0].path == "/models/a?force=true"


def test_rm_needs_a_name(dmr: Run) -> None:
    assert dmr("rm").exit_code == 2


def test_list_openai_prints_what_clients_see(dmr: Run, server: ScriptedServer) -> None:
    listed = {"object": "list", "data": [{"id": "docker.io/ai/smollm2:latest"}]}
    server.on("GET /engines/v1/models", listed)
    assert json.loads(dmr("list", "--openai").stdout) == listed
    assert dmr("list", "--openai", "-q").exit_code == 2


def test_models_of_another_server(lonely_dmr: Run, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    listed = {"object": "list", "data": [{"id": "b", "created": int(time.time()) - 3 * 86400}, {"id": "a"}]}
    server.on("GET /v1/models", listed)
    result = lonely_dmr("list", "--openaiurl", f"{server.url}/v1")
    assert result.stdout == "MODEL NAME  CREATED\na\nb           3 days ago\n"
    assert json.loads(lonely_dmr("list", "--json", "--openaiurl", f"{server.url}/v1/").stdout) == listed
    assert server.asked[0].headers["Authorization"] == "Bearer sk-other"
