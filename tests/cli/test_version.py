from __future__ import annotations

import json
import sys
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import pytest
from cli.conftest import Run
from cli.scripted_server import ScriptedServer

BUILD = {"llama_cpp_commit": "abc1234", "llama_cpp_version": "b7000", "flavour": "cpu", "backends": ["CPU", "CUDA"]}


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dmr._core", SimpleNamespace(build_info=lambda: BUILD))


@pytest.fixture
def not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dmr._core", None)


def test_the_option_tells_its_own_version_and_asks_nobody(lonely_dmr: Run) -> None:
    told = lonely_dmr("--version")
    assert told.exit_code == 0
    assert told.stdout == f"dmr {metadata.version('dmr')}\n"


@pytest.mark.usefixtures("built")
def test_version_of_everything(dmr: Run, server: ScriptedServer) -> None:
    server.on("GET /version", {"version": "9.8.7", "llama_cpp_version": "b7001", "llama_cpp_commit": "def5678"})
    lines = dmr("version").stdout.splitlines()
    assert lines[0] == "Client:"
    assert lines[1].startswith(" Version:    ")
    assert lines[2].startswith(f" OS/Arch:    {sys.platform.rstrip('0123456789')}/")
    assert lines[4:7] == ["Server:", " Version:    9.8.7", " Engine:     llama.cpp b7001 (def5678)"]
    assert " llama cpp version: b7000" in lines
    assert " backends:          CPU, CUDA" in lines


@pytest.mark.usefixtures("built")
def test_version_without_a_server_is_no_error(lonely_dmr: Run) -> None:
    result = lonely_dmr("version")
    assert result.exit_code == 0
    assert "Server:\n Version:    (not reachable)\n\n" in result.stdout


@pytest.mark.usefixtures("not_built")
def test_version_without_the_native_module_is_one_line(lonely_dmr: Run) -> None:
    result = lonely_dmr("version")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1].startswith("Engine in this program: not usable: ")


@pytest.mark.usefixtures("built")
def test_version_as_json(dmr: Run, lonely_dmr: Run, server: ScriptedServer) -> None:
    server.on("GET /version", {"version": "9.8.7"})
    told: dict[str, Any] = json.loads(dmr("version", "--json").stdout)
    assert (told["server"], told["engine"], set(told["client"])) == (
        {"version": "9.8.7"},
        BUILD,
        {"version", "os", "arch"},
    )
    assert json.loads(lonely_dmr("version", "--json").stdout)["server"] is None
