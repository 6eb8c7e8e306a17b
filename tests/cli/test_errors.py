"""Every failure is one clear line on stderr, nothing on stdout, and exit status 1."""

from __future__ import annotations

import json
import socket
import threading

import pytest
from cli.conftest import Run
from cli.scripted_server import CHAT, Reply, ScriptedServer
from click.testing import CliRunner

from dmr.cli.main import cli

COMMANDS = [
    ["inspect", "--openai", "a"],
    ["inspect", "--remote", "a"],
    ["show", "--remote", "a"],
    ["pull", "a"],
    ["push", "a"],
    ["ps"],
    ["unload", "--all"],
    ["status"],
    ["run", "a", "Hello"],
    ["run", "-d", "a"],
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_no_server(lonely_dmr: Run, nowhere: str, arguments: list[str]) -> None:
    result = lonely_dmr(*arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: No server answers at {nowhere}. Start it with `dmr serve`.\n"


def test_no_server_elsewhere_is_another_advice() -> None:
    result = CliRunner().invoke(cli, ["--server", "http://nowhere.invalid:1", "ps"])
    assert result.stderr == "Error: No server answers at http://nowhere.invalid:1. Check MODEL_RUNNER_HOST.\n"


def test_the_address_comes_from_the_environment(server: ScriptedServer) -> None:
    server.on("GET /models", [])
    host = server.url.removeprefix("http://") + "/"
    assert CliRunner().invoke(cli, ["list"], env={"MODEL_RUNNER_HOST": host}).exit_code == 0
    assert server.asked[0].headers["User-Agent"] == "dmr"


def test_a_bad_address_is_told(server: ScriptedServer) -> None:
    result = CliRunner().invoke(cli, ["list"], env={"MODEL_RUNNER_HOST": "http://a:b:c"})
    assert result.exit_code == 1
    assert "MODEL_RUNNER_HOST" in result.stderr


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b'{"error":{"message":"The model is odd.","type":"x","param":null,"code":null}}', 422, "The model is odd."),
        (b'{"error":"Only text."}', 400, "Only text."),
        (b'{"message":"Flat."}', 400, "Flat."),
        (b"unable to load runner\n", 500, "unable to load runner"),
        (b"", 500, "The server answered with status 500."),
        (b"<html>Bad gateway</html>", 502, "The server answered with status 502."),
        (b'{"error":{"message":7}}', 500, "The server answered with status 500."),
        (b'{"broken', 500, "The server answered with status 500."),
        (b"\x1b[2Jclean\xff", 500, "[2Jclean\ufffd"),
        (b"", 301, "The server answered with status 301."),
    ],
)
def test_every_shape_of_error(dmr: Run, server: ScriptedServer, body: bytes, status: int, message: str) -> None:
    for route in ("GET /models", f"POST {CHAT}"):
        server.on(route, Reply(body, status, "text/plain", headers={"Location": "/elsewhere"} if status == 301 else {}))
    for arguments in (["list"], ["run", "a", "Hello"]):
        result = dmr(*arguments)
        assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"Error: {message}\n")


@pytest.mark.parametrize("body", [b"<html>router login</html>", b"{}", b'[{"id": 1}]', b"", b"[" * 10_000])
def test_another_program_at_the_address(dmr: Run, server: ScriptedServer, body: bytes) -> None:
    server.on("GET /models", Reply(body))
    result = dmr("list")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"Error: The answer of {server.url} is not a model runner's: ")


@pytest.mark.parametrize(
    "said", [b"", b"SSH-2.0-OpenSSH_9.9\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[1,"]
)
def test_something_that_hangs_up(said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            asked = b""
            while not asked:  # it is looked first whether anything listens
                connection = listener.accept()[0]
                with connection:
                    asked = connection.recv(65536)
                    if asked:
                        connection.sendall(said)

        thread = threading.Thread(target=hang_up)
        thread.start()
        result = CliRunner().invoke(cli, ["--server", f"http://127.0.0.1:{listener.getsockname()[1]}", "list"])
        thread.join()
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: The server")
    assert len(result.stderr.splitlines()) == 1


def test_a_server_that_goes_silent_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmr.cli.transport._READ_TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        result = CliRunner().invoke(cli, ["--server", url, "list"])
    assert result.stderr == f"Error: The server at {url} has stopped answering.\n"


def test_ctrl_c_is_quiet(dmr: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dmr.cli.server_api.ServerApi.get", interrupt)
    result = dmr("list")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "")


def test_status(dmr: Run, server: ScriptedServer) -> None:
    server.on("GET /engines/status", {"llama.cpp": "Running: llama.cpp b1", "x": "Not Installed"})
    result = dmr("status")
    assert result.exit_code == 0
    assert result.stdout == (
        f"dmr is running at {server.url}\n\n"
        "BACKEND    STATUS         DETAILS\n"
        "llama.cpp  Running        llama.cpp b1\n"
        "x          Not Installed\n"
    )
    assert json.loads(dmr("status", "--json").stdout)["backends"]["llama.cpp"] == "Running: llama.cpp b1"


def test_status_without_the_list_of_engines(dmr: Run, server: ScriptedServer) -> None:
    assert dmr("status").stdout == f"dmr is running at {server.url}\n"


def test_status_as_json_tells_that_it_is_not_running(lonely_dmr: Run, nowhere: str) -> None:
    result = lonely_dmr("status", "--json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert (told["running"], told["endpoint"]) == (False, nowhere)
