"""`dmr keys`: keys are made, listed and withdrawn, and what stands beside them in the file stays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cli.scripted_server import ScriptedServer
from click.testing import CliRunner, Result

from dmr.cli.apps import APPS, CONTAINERS, Target
from dmr.cli.main import cli
from dmr.config.keys import digest_of_key, read_keys

Keys = Callable[..., Result]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


@pytest.fixture
def keys(path: Path) -> Keys:
    return lambda *arguments: CliRunner().invoke(cli, ["keys", *arguments], env={"DMR_KEYS": str(path)})


def test_a_new_key_is_printed_once_and_only_its_hash_kept(keys: Keys, path: Path) -> None:
    result = keys("new", "alice")
    assert result.exit_code == 0, result.output
    plain = result.stdout.strip()
    assert plain.startswith("dmr_")
    assert plain not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    (key,) = read_keys(path)
    assert (key.name, key.digest, key.scopes) == ("alice", digest_of_key(plain), {"inference"})


def test_all_that_a_key_can_have(keys: Keys, path: Path) -> None:
    limits = ["--max-requests", "2", "--requests-per-minute", "60", "--tokens-per-minute", "1000"]
    given = ["--scope", "admin", "--scope", "metrics", "--weight", "2.5", "--expires", "2031-02-01", *limits]
    assert keys("new", "ops", *given).exit_code == 0
    listed = json.loads(keys("ls", "--json").stdout)
    assert listed == [
        {
            "name": "ops",
            "scopes": ["metrics", "admin"],
            "weight": 2.5,
            "max_requests": 2,
            "requests_per_minute": 60,
            "tokens_per_minute": 1000,
            "expires": "2031-02-01T00:00:00Z",
        }
    ]
    assert keys("ls").stdout.splitlines()[1].split()[0] == "ops"


def test_withdrawing_leaves_the_rest_as_it_was(keys: Keys, path: Path) -> None:
    for name in ("a", "b", "c"):
        keys("new", name)
    path.write_text("# ours\n" + path.read_text())
    path.chmod(0o640)
    assert keys("rm", "b").stdout == "b\n"
    assert [key.name for key in read_keys(path)] == ["a", "c"]
    assert path.read_text().startswith("# ours\n")
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["new", "a"], "There is a key 'a' already"),
        (["new", "a b"], "cannot be a key's name"),
        (["new", "b", "--weight", "0"], "weight"),
        (["new", "b", "--max-requests", "-1"], "max_requests"),
        (["new", "b", "--expires", "soon"], "is no end of a key"),
        (["rm", "b"], "There is no key 'b'"),
    ],
)
def test_what_cannot_be_done_changes_nothing(keys: Keys, path: Path, arguments: list[str], told: str) -> None:
    keys("new", "a")
    before = path.read_bytes()
    result = keys(*arguments)
    assert result.exit_code == 1
    assert told in result.stderr
    assert path.read_bytes() == before


def test_a_file_is_needed_and_must_be_right(path: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["keys", "ls"], env={"DMR_KEYS": ""})
    assert "Which file?" in result.stderr
    path.write_text("[a]\nkey = 'x'\n")
    result = CliRunner().invoke(cli, ["keys", "new", "b", "--file", str(path)])
    assert "16 to 1024" in result.stderr
    path.write_text('a = {hash = "' + "0" * 64 + '"}\n')
    result = CliRunner().invoke(cli, ["keys", "rm", "a", "--file", str(path)])
    assert "by hand" in result.stderr


def test_the_key_of_this_user_goes_with_each_request(server: ScriptedServer) -> None:
    server.on("GET /models", [])
    for arguments, environ in ((["--api-key", "k-1"], {}), ([], {"DMR_API_KEY": "k-1"})):
        result = CliRunner().invoke(cli, ["--server", server.url, *arguments, "list"], env=environ)
        assert result.exit_code == 0, result.output
        assert server.asked[-1].headers["Authorization"] == "Bearer k-1"
    CliRunner().invoke(cli, ["--server", server.url, "list"], env={"DMR_API_KEY": ""})
    assert "Authorization" not in server.asked[-1].headers
    result = CliRunner().invoke(cli, ["--server", server.url, "--api-key", "a\nb", "list"])
    assert result.exit_code == 1
    assert "no API key" in result.stderr


@pytest.mark.parametrize("name", sorted(APPS))
def test_programs_that_are_launched_get_this_users_key(name: str) -> None:
    told = repr(APPS[name].setup(Target("http://127.0.0.1:1", "m", key="my-own-key")))
    assert "my-own-key" in told
    assert "sk-dmr" not in told


@pytest.mark.parametrize("name", sorted(CONTAINERS))
def test_containers_get_it_too(name: str) -> None:
    assert "my-own-key" in CONTAINERS[name].environment(Target("http://127.0.0.1:1", "m", key="my-own-key")).values()
