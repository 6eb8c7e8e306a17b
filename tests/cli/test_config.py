"""`dmr config`: what a server would start with, and who says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dmr.cli.main import cli
from dmr.config import read_settings

TEXT = """\
[server]
port = 8080
keep_alive = 60

[aliases]
"claude-*" = "ai/qwen3"

[engines.cluster]
url = "http://10.0.0.5:8000/v1"
api_key_env = "CLUSTER_KEY"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "own.toml"
    path.write_text(TEXT)
    return path


def dmr(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(cli, ["config", *arguments], env=environment)


def table(*arguments: str, **environment: str) -> dict[str, list[str]]:
    """Setting -> value and source."""
    result = dmr(*arguments, **environment)
    assert (result.exit_code, result.stderr) == (0, "")
    header, *lines = result.stdout.splitlines()
    assert header.split() == ["SETTING", "VALUE", "FROM"]
    return {line.split()[0]: line.split(maxsplit=2)[1:] for line in lines}


def document(*arguments: str, **environment: str) -> Any:
    return json.loads(dmr(*arguments, "--json", **environment).stdout)


def test_each_setting_says_where_it_comes_from(file: Path) -> None:
    shown = table("--keep-alive", "1h", DMR_CONFIG=str(file), DMR_WORKERS="3")
    assert shown["server.port"] == ["8080", f"{file}:2"]
    assert shown["server.keep_alive"] == ["3600", "--keep-alive"]
    assert shown["server.num_workers"] == ["3", "DMR_WORKERS"]
    assert shown["engine.max_queue"] == ["1024", "default"]
    assert shown["registry.mirrors"] == ["-", "default"]
    assert shown["aliases.claude-*"] == ["ai/qwen3", f"{file}:6"]
    assert shown["engines.cluster.url"] == ["http://10.0.0.5:8000/v1", f"{file}:9"]


def test_the_file_that_a_flag_names(file: Path) -> None:
    assert table("--config", str(file))["server.port"] == ["8080", f"{file}:2"]


def test_json(file: Path) -> None:
    shown = document("--port", "9090", DMR_CONFIG=str(file), DMR_ALIASES="gpt-*=ai/x", DMR_HOST="::1")
    assert shown["file"] == str(file)
    assert shown["server"]["port"] == {"value": 9090, "from": "flag", "at": "--port"}
    assert shown["server"]["keep_alive"] == {"value": 60.0, "from": "file", "at": f"{file}:3"}
    assert shown["server"]["host"] == {"value": "::1", "from": "environment", "at": "DMR_HOST"}
    assert shown["server"]["num_workers"] == {"value": 2, "from": "default", "at": None}
    assert shown["aliases"] == {"gpt-*": "ai/x"}
    assert shown["engines"]["cluster"]["url"] == "http://10.0.0.5:8000/v1"
    assert document()["file"] is None


def test_secrets_are_not_shown(file: Path) -> None:
    secrets = {
        "CLUSTER_KEY": "s3cret-1",
        "HF_TOKEN": "s3cret-2",
        "DOCKER_PASSWORD": "s3cret-3",
        "HTTPS_PROXY": "http://user:s3cret-4@proxy.example:3128",
    }
    for arguments in ((), ("--json",)):
        told = dmr(*arguments, DMR_CONFIG=str(file), **secrets).stdout
        assert "s3cret" not in told
        assert "CLUSTER_KEY (set)" in told
        assert "proxy.example:3128" in told
        assert "HF_TOKEN" in told
    assert "CLUSTER_KEY (not set)" in dmr(DMR_CONFIG=str(file)).stdout


def test_where_the_file_is_looked_for(file: Path, tmp_path: Path) -> None:
    assert dmr("path").stdout == f"{tmp_path}/home/dmr/config.toml\n"
    assert dmr("path", DMR_CONFIG=str(file)).stdout == f"{file}\n"
    assert dmr("--config", "elsewhere.toml", "path").stdout == "elsewhere.toml\n"


def test_a_file_is_checked(file: Path) -> None:
    assert dmr("check", str(file)).stdout == f"{file} is right.\n"
    assert dmr("check", DMR_CONFIG=str(file)).stdout == f"{file} is right.\n"
    file.write_text("[server]\nprot = 80\n")
    for result in (dmr("check", str(file)), dmr("check", DMR_CONFIG=str(file)), dmr(DMR_CONFIG=str(file))):
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == f"Error: {file}:2: [server] prot is no setting; perhaps 'port' is meant.\n"


def test_a_file_that_is_not_there_is_not_right(tmp_path: Path) -> None:
    result = dmr("check")
    assert result.exit_code == 1
    assert result.stderr == f"Error: There is no settings file {tmp_path}/home/dmr/config.toml.\n"


def test_the_example_is_a_file_that_changes_nothing(tmp_path: Path) -> None:
    example = dmr("example").stdout
    (tmp_path / "as-it-is.toml").write_text(example)
    assert read_settings({"DMR_CONFIG": str(tmp_path / "as-it-is.toml")}) == read_settings({})
    keys = example.partition("# Names that")[0].replace("\n# ", "\n").partition("\n[server]")[2]
    (tmp_path / "in-action.toml").write_text("[server]" + keys)
    assert read_settings({"DMR_CONFIG": str(tmp_path / "in-action.toml")}) == read_settings({})


def test_the_example_of_aliases_and_engines_can_be_put_into_action(tmp_path: Path) -> None:
    example = dmr("example").stdout.partition("[aliases]")
    lines = [line.removeprefix("# ") for line in (example[1] + example[2]).splitlines() if "Servers beyond" not in line]
    (tmp_path / "x.toml").write_text("\n".join(lines).replace("engines.NAME", "engines.name"))
    settings = read_settings({"DMR_CONFIG": str(tmp_path / "x.toml")})
    assert [alias.pattern for alias in settings.aliases] == ["claude-*", "gpt-*"]
    assert [engine.name for engine in settings.upstreams] == ["name"]


@pytest.mark.parametrize("arguments", [["--port", "0"], ["lost"], ["path", "extra"]])
def test_wrong_usage(arguments: list[str]) -> None:
    assert dmr(*arguments).exit_code == 2
