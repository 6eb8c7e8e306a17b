"""`dmr logs`, `dmr requests` and `dmr completion`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.conftest import Run
from cli.scripted_server import Reply, ScriptedServer

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("flags", "path"),
    [
        ([], "/logs"),
        (["--follow"], "/logs?follow=true"),
        (["-f", "--no-engines"], "/logs?follow=true&no-engines=true"),
    ],
)
def test_logs(dmr: Run, server: ScriptedServer, flags: list[str], path: str) -> None:
    server.on("GET /logs", Reply(content_type="text/plain", pieces=[b"one\ntw", b"o \xff\nend"]))
    result = dmr("logs", *flags)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "one\ntwo \ufffd\nend\n", "")
    assert server.asked[0].path == path


def test_a_line_of_the_log_is_shown_when_it_comes(server: ScriptedServer) -> None:
    go_on = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"first\n"
        assert go_on.wait(20)
        yield b"second\n"

    server.on("GET /logs", Reply(content_type="text/plain", pieces=pieces()))
    program = [sys.executable, "-c", "from dmr.cli.main import main; main()", "--server", server.url, "logs", "-f"]
    with subprocess.Popen(program, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"first\n"
        go_on.set()
        assert running.communicate(timeout=20)[0] == b"second\n"
    assert running.returncode == 0


def test_logs_that_are_not_kept(dmr: Run, server: ScriptedServer) -> None:
    server.on("GET /logs", Reply(b"logs API not available: log directory not configured\n", 501, "text/plain"))
    assert dmr("logs").stderr == "Error: logs API not available: log directory not configured\n"


def test_requests_are_json(dmr: Run, server: ScriptedServer) -> None:
    records = [{"count": 1, "model": "sha256:1", "records": [{"id": "x", "news": "ä"}]}]
    server.on("GET /engines/requests", records)
    assert json.loads(dmr("requests").stdout) == records
    dmr("requests", "--model", "ai/smollm2")
    assert server.asked[1].path == "/engines/requests?model=ai%2Fsmollm2"


def test_requests_are_followed(dmr: Run, server: ScriptedServer) -> None:
    events = [
        b'event: existing_request\ndata: [{"count":1}]\n\n',
        b'event: connected\ndata: {"status": "connected"}\n\n',
        b": keep-alive\n\n",
        b'event: new_request\ndata: [{"count":2}]\n\n',
        b'event: error\ndata: {"error":"lost"}\n\n',
    ]
    server.on("GET /engines/requests", Reply(content_type="text/event-stream", pieces=events))
    result = dmr("requests", "--follow", "--include-existing")
    assert (result.exit_code, result.stdout) == (0, '[{"count":1}]\n[{"count":2}]\n')
    assert result.stderr.splitlines() == [
        "Connected to request stream. Press Ctrl+C to stop.",
        '{"error":"lost"}',
        "Stream closed by server.",
    ]
    (asked,) = server.asked
    assert asked.path == "/engines/requests?include_existing=true"
    assert asked.headers["Accept"] == "text/event-stream"


def test_existing_requests_are_for_followers(dmr: Run, server: ScriptedServer) -> None:
    assert dmr("requests", "--include-existing").exit_code == 2
    assert server.asked == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_completes_commands(lonely_dmr: Run, shell: str, tmp_path: Path) -> None:
    result = lonely_dmr("completion", shell)
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"_DMR_COMPLETE={shell}_complete" in result.stdout
    if shutil.which(shell):
        (tmp_path / "script").write_text(result.stdout)
        subprocess.run([shell, "-n", str(tmp_path / "script")], check=True, capture_output=True)


def test_bash_completes_with_the_script(lonely_dmr: Run, tmp_path: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    program = tmp_path / "dmr"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom dmr.cli.main import main\nmain()\n"
    )
    program.chmod(0o755)
    script = lonely_dmr("completion", "bash").stdout
    typed = 'COMP_WORDS=(dmr unl); COMP_CWORD=1; _dmr_completion dmr; echo "${COMPREPLY[@]}"'
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        [bash, "-c", f"{script}\n{typed}"], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["unload"]


def test_an_unknown_shell_is_wrong_usage(lonely_dmr: Run) -> None:
    assert lonely_dmr("completion", "tcsh").exit_code == 2
