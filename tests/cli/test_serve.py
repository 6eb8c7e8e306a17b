from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dmr.cli.main import cli
from dmr.config import read_settings

ROOT = Path(__file__).parents[2]
TOLD = [
    "DMR_CONFIG",
    "DMR_HOST",
    "MODEL_RUNNER_PORT",
    "MODELS_PATH",
    "DMR_CONTEXT_SIZE",
    "DMR_THREADS",
    "DMR_WORKERS",
    "DMR_KEEP_ALIVE",
    "LOG_LEVEL",
    "GLIBC_TUNABLES",
]
CACHES = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}


@pytest.fixture
def serve(tmp_path: Path) -> Any:
    """Run `dmr serve` as a process, with a gunicorn that only tells how it was called."""
    packages = tmp_path / "packages"
    (packages / "gunicorn").mkdir(parents=True)
    (packages / "gunicorn" / "__main__.py").write_text(
        "import json, os, sys\n"
        f"print(json.dumps([os.getpid(), sys.argv[1:], {{k: os.environ[k] for k in {TOLD} if k in os.environ}}]))\n"
    )
    (packages / "dmr_server").mkdir()
    for package in ("gunicorn", "dmr_server"):
        (packages / package / "__init__.py").touch()

    def run(*flags: str, **environment: str) -> tuple[list[str], dict[str, str]]:
        environ = {k: v for k, v in os.environ.items() if k not in TOLD}
        environ |= {"PYTHONPATH": os.pathsep.join([str(packages), str(ROOT)]), **environment}
        with subprocess.Popen(
            [sys.executable, "-c", "from dmr.cli.main import main; main()", "serve", *flags],
            env=environ,
            stdout=subprocess.PIPE,
        ) as process:
            pid, arguments, variables = json.loads(process.communicate(timeout=60)[0])
        assert pid == process.pid, "a signal to `dmr serve` must reach the server itself"
        return arguments, variables

    return run


def test_serve_becomes_gunicorn_with_our_configuration(serve: Any) -> None:
    arguments, variables = serve()
    assert arguments == ["-c", "python:dmr_server.gunicorn_conf", "dmr_server.wsgi:app"]
    assert variables == CACHES


def test_threads_keep_no_freed_memory_unless_somebody_has_chosen_otherwise(serve: Any) -> None:
    _, variables = serve(GLIBC_TUNABLES="glibc.malloc.check=1")
    assert variables == {"GLIBC_TUNABLES": "glibc.malloc.check=1"}


def test_each_flag_becomes_a_setting_and_wins_over_the_environment(serve: Any, tmp_path: Path) -> None:
    flags = (
        "--host 0.0.0.0 --port 8080 --context-size 4096 --threads 3 --workers 4 --keep-alive 1h30m --log-level DEBUG"
    )
    _, variables = serve(*flags.split(), "--models-path", str(tmp_path), MODEL_RUNNER_PORT="1", LOG_LEVEL="error")
    settings = read_settings(variables)
    assert (settings.host, settings.port, settings.models_path) == ("0.0.0.0", 8080, tmp_path)
    assert (settings.engine.context_size, settings.engine.num_threads, settings.num_workers) == (4096, 3, 4)
    assert (settings.keep_alive, settings.log_level) == (5400.0, "debug")


def test_the_environment_is_passed_on_where_no_flag_is_given(serve: Any) -> None:
    _, variables = serve("--keep-alive", "-1", MODEL_RUNNER_PORT="8081")
    assert read_settings(variables).port == 8081
    assert read_settings(variables).keep_alive == -1


def test_the_server_reads_the_file_that_a_flag_names(serve: Any, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text("[server]\nport = 8080\n")
    _, variables = serve("--config", str(tmp_path / "own.toml"))
    assert read_settings(variables).port == 8080


@pytest.fixture
def no_exec(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("started although the flags are wrong")

    monkeypatch.setattr(os, "execv", refuse)


@pytest.mark.usefixtures("no_exec")
@pytest.mark.parametrize(
    "flags",
    [
        ["--port", "0"],
        ["--port", "65536"],
        ["--port", "http"],
        ["--keep-alive", "soon"],
        ["--context-size", "-1"],
        ["--workers", "0"],
        ["--log-level", "loud"],
        ["extra"],
    ],
)
def test_wrong_flags_start_nothing(flags: list[str]) -> None:
    result = CliRunner().invoke(cli, ["serve", *flags])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error: " in result.stderr


@pytest.mark.usefixtures("no_exec")
def test_a_wrong_variable_starts_nothing() -> None:
    result = CliRunner().invoke(cli, ["serve"], env={"MODEL_RUNNER_PORT": "many"})
    assert result.exit_code == 1
    assert result.stderr == "Error: MODEL_RUNNER_PORT='many' is not a whole number.\n"


@pytest.mark.usefixtures("no_exec")
def test_a_wrong_settings_file_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text("[server]\nport = 'many'\n")
    result = CliRunner().invoke(cli, ["serve"], env={"DMR_CONFIG": str(tmp_path / "own.toml")})
    assert result.exit_code == 1
    assert result.stderr == f"Error: {tmp_path}/own.toml:2: [server] port = 'many' is not a whole number.\n"
