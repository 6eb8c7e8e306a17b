from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli.scripted_server import ScriptedServer
from click.testing import CliRunner, Result

from dmr.cli.main import cli

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the developer's own machine, and a home folder that is thrown away."""
    for name in (
        "DMR_CONFIG",
        "MODEL_RUNNER_HOST",
        "MODEL_RUNNER_PORT",
        "DMR_NO_HISTORY",
        "DMR_HOST",
        "DMR_KEEP_ALIVE",
        "LOG_LEVEL",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MODELS_PATH", str(tmp_path / "models"))


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    scripted = ScriptedServer()
    scripted.on("GET /health", {"status": "ok"})
    yield scripted
    scripted.close()


@pytest.fixture
def dmr(server: ScriptedServer) -> Run:
    """Run `dmr ARGUMENTS` in this process against the scripted server."""

    def run(*arguments: str, **settings: Any) -> Result:
        return CliRunner().invoke(cli, ["--server", server.url, *arguments], **settings)

    return run


@pytest.fixture
def nowhere() -> str:
    """An address on this machine where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def lonely_dmr(nowhere: str) -> Run:
    """Run `dmr ARGUMENTS` where no server answers."""

    def run(*arguments: str, **settings: Any) -> Result:
        return CliRunner(env={"MODEL_RUNNER_HOST": nowhere}).invoke(cli, [*arguments], **settings)

    return run
