"""`dmr pull` and `dmr push`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli.conftest import Run
from cli.scripted_server import Reply, ScriptedServer

PULL = "POST /models/create"
PUSH = "POST /models/ai%2Fsmollm2/push"
ROOT = Path(__file__).parents[2]


def step(kind: str = "progress", message: str = "", id: str = "", current: int = 0, size: int = 0) -> bytes:
    layer = {"id": id, "size": size, "current": current} if id else {"size": size, "current": current}
    line = {"type": kind, "message": message, "total": size, "layer": layer, "mode": "pull"}
    return json.dumps(line).encode() + b"\n"


DONE = step("success", "Model pulled successfully")


def lines(*pieces: bytes, drop: bool = False) -> Reply:
    return Reply(content_type="text/plain", pieces=pieces, drop=drop)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited, without waiting."""
    waited: list[float] = []
    monkeypatch.setattr("dmr.cli.transfer.time.sleep", waited.append)
    return waited


def test_pull_prints_the_last_message_alone_when_piped(dmr: Run, server: ScriptedServer) -> None:
    server.on(PULL, lines(step(message="Downloaded: 1 MB", id="sha256:" + "a" * 64, current=5, size=9), DONE))
    result = dmr("pull", "smollm2")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "Model pulled successfully\n", "")
    assert server.asked[0].json == {"from": "smollm2"}
    assert server.asked[0].headers["Accept"] == "application/json"


def test_pull_tells_what_is_not_about_bytes(dmr: Run, server: ScriptedServer) -> None:
    server.on(PULL, lines(step(message="Fetching file list..."), step("warning", "old\x1b[2J format"), DONE))
    result = dmr("pull", "smollm2")
    assert result.stderr == "Fetching file list...\nWarning: old[2J format\n"


def test_a_cached_model_is_told(dmr: Run, server: ScriptedServer) -> None:
    server.on(PULL, lines(step("success", "Using cached model: 256.35MiB")))
    assert dmr("pull", "smollm2").stdout == "Using cached model: 256.35MiB\n"


def test_push(dmr: Run, server: ScriptedServer) -> None:
    server.on(PUSH, lines(step("success", "Model pushed successfully")))
    result = dmr("push", "ai/smollm2")
    assert (result.exit_code, result.stdout) == (0, "Model pushed successfully\n")


def test_an_insecure_registry_is_a_wish_of_the_command(dmr: Run, server: ScriptedServer) -> None:
    server.on(PULL, lines(DONE))
    server.on(PUSH, lines(DONE))
    dmr("pull", "--insecure", "smollm2")
    dmr("push", "--insecure", "ai/smollm2")
    assert [asked.json for asked in server.asked] == [{"from": "smollm2", "insecure": True}, {"insecure": True}]


def test_json_passes_the_lines_on(dmr: Run, server: ScriptedServer) -> None:
    moved = step(message="Downloaded: 1 MB", id="sha256:1", current=5, size=9)
    server.on(PULL, lines(moved[:10], moved[10:] + b"\n", DONE))
    result = dmr("pull", "--json", "smollm2")
    assert (result.stdout_bytes, result.stderr) == (moved + DONE, "")


@pytest.mark.parametrize(
    ("model", "sent"),
    [
        ("hf.co/org/repo:Q4_K_M", True),
        ("HuggingFace.co/org/repo", True),
        ("smollm2", False),
        ("registry.test/hf.co/x", False),
    ],
)
def test_the_hubs_token_goes_to_the_hub_only(
    dmr: Run, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, model: str, sent: bool
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    server.on(PULL, lines(DONE))
    dmr("pull", model)
    assert server.asked[0].json == {"from": model, **({"bearer-token": "hf_secret"} if sent else {})}


@pytest.mark.parametrize(
    "failure",
    [
        Reply(b"gateway", 502),
        Reply(b"Wait.", 503),
        Reply(b"", 504),
        lines(step(message="x", id="sha256:1", size=9), drop=True),
        lines(step(message="x", id="sha256:1", size=9)),
    ],
    ids=["502", "503", "504", "cut", "ended"],
)
def test_what_may_pass_is_tried_again(dmr: Run, server: ScriptedServer, pauses: list[float], failure: Reply) -> None:
    server.on(PULL, failure, failure, lines(DONE))
    result = dmr("pull", "smollm2")
    assert (result.exit_code, result.stdout, pauses) == (0, "Model pulled successfully\n", [1, 2])
    assert "Trying again in 2 s (2/4)." in result.stderr


def test_four_more_attempts_are_all(dmr: Run, server: ScriptedServer, pauses: list[float]) -> None:
    server.on(PULL, Reply(b"Wait.", 503))
    result = dmr("pull", "smollm2")
    assert (result.exit_code, pauses, len(server.asked)) == (1, [1, 2, 4, 8], 5)
    assert result.stderr.endswith("Error: Wait.\n")


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (Reply(b"Invalid model reference\n", 400), "Invalid model reference"),
        (Reply(b"error while pulling model: disk full\n", 500), "error while pulling model: disk full"),
        (Reply(b"slow down\n", 429), "slow down"),
        (lines(step("error", "Error: The digest is wrong.")), "The digest is wrong."),
        (lines(step("error", "")), "The transfer failed."),
        (lines(b"<html>\n"), "is not a model runner's"),
        (Reply(b"Model not found\n", 404), "`dmr search` finds those that there are"),
        (Reply(b"Unauthorized\n", 401), "log the server's user in to that registry"),
    ],
)
def test_what_will_not_pass_is_told_at_once(
    dmr: Run, server: ScriptedServer, pauses: list[float], failure: Reply, message: str
) -> None:
    server.on(PULL, failure)
    result = dmr("pull", "smollm2")
    assert (result.exit_code, result.stdout, pauses) == (1, "", [])
    assert message in result.stderr


def test_push_of_an_unknown_model(dmr: Run, server: ScriptedServer) -> None:
    server.on(PUSH, Reply(b"Model not found\n", 404))
    assert dmr("push", "ai/smollm2").stderr.startswith("Error: no such model: ai/smollm2 (`dmr list`")


def test_denied_access_to_the_hub_names_the_token(dmr: Run, server: ScriptedServer) -> None:
    server.on(PULL, Reply(b"Unauthorized\n", 401))
    assert "set HF_TOKEN" in dmr("pull", "hf.co/org/gated").stderr


def test_no_server_is_told_at_once(lonely_dmr: Run, pauses: list[float]) -> None:
    result = lonely_dmr("pull", "smollm2")
    assert (result.exit_code, pauses) == (1, [])
    assert "Start it with `dmr serve`." in result.stderr


def test_ctrl_c_cancels_the_pull(server: ScriptedServer) -> None:
    begun = threading.Event()

    def endless() -> Iterator[bytes]:
        while not server.client_left.wait(0.01):
            begun.set()
            yield step(message="x", id="sha256:1", size=9)

    server.on(PULL, Reply(pieces=endless()))
    program = [sys.executable, "-c", "from dmr.cli.main import main; main()", "--server", server.url, "pull", "m"]
    with subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert begun.wait(20)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=20)
    assert (running.returncode, out, err) == (130, b"", b"")
    assert server.client_left.wait(10), "the server must learn that nobody wants the model any more"


def test_a_terminal_sees_a_bar_for_each_layer(server: ScriptedServer) -> None:
    pytest.importorskip("pty")
    from cli.terminal import Terminal

    layers: list[Any] = [("a" * 64, 5), ("b" * 64, 9)]
    steps = [step(message="x", id=f"sha256:{id}", current=done, size=10) for id, done in layers]
    server.on(PULL, lines(step(message="Fetching file list..."), *steps, DONE))
    with Terminal("--server", server.url, "pull", "m", term="xterm") as terminal:
        assert terminal.exit_status() == 0
    assert "Fetching file list..." in terminal.screen
    assert "aaaaaaaaaaaa" in terminal.screen
    assert "9/10 bytes" in terminal.screen
    assert terminal.screen.rstrip().endswith("Model pulled successfully")
