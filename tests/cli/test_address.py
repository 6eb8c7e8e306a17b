from __future__ import annotations

from pathlib import Path

import pytest
from cli.scripted_server import ScriptedServer
from click.testing import CliRunner

from dmr.cli.address import DEFAULT_ADDRESS, Address, own_address, parse_address
from dmr.cli.main import cli
from dmr.config import Settings
from dmr.errors import InvalidRequest


@pytest.mark.parametrize(
    ("text", "url", "is_local"),
    [
        ("", "http://localhost:12434", True),
        ("http://localhost:12434/", "http://localhost:12434", True),
        ("localhost", "http://localhost:12434", True),
        ("localhost:8080", "http://localhost:8080", True),
        ("127.0.0.2:1", "http://127.0.0.2:1", True),
        ("[::1]:12434", "http://[::1]:12434", True),
        ("[::1]", "http://[::1]:12434", True),
        (' "http://gpu.example:12434//" ', "http://gpu.example:12434", False),
        ("gpu.example", "http://gpu.example:12434", False),
        ("http://gpu.example", "http://gpu.example", False),
        ("https://gpu.example/prefix/", "https://gpu.example/prefix", False),
        ("10.0.0.7:12434", "http://10.0.0.7:12434", False),
    ],
)
def test_addresses_as_users_write_them(text: str, url: str, is_local: bool) -> None:
    assert parse_address(text) == Address(url, is_local)


@pytest.mark.parametrize(
    "text",
    [
        "ftp://localhost",
        "http://",
        ":12434",
        "localhost:port",
        "localhost:99999",
        "http://user:secret@localhost",
        "http://localhost/?a=b",
        "local host",
        "http://[::1",
        "unix2:///run/x.sock",
    ],
)
def test_what_is_no_address_is_refused_with_both_places_to_look(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"--server or MODEL_RUNNER_HOST"):
        parse_address(text)


@pytest.mark.parametrize(
    ("settings", "address"),
    [
        (Settings(), DEFAULT_ADDRESS),
        (Settings(port=8080), "http://localhost:8080"),
        (Settings(host="0.0.0.0"), DEFAULT_ADDRESS),
        (Settings(host="::", port=1), "http://localhost:1"),
        (Settings(host="::1"), "http://[::1]:12434"),
        (Settings(host="[fd00::5]"), "http://[fd00::5]:12434"),
        (Settings(host="127.0.0.2"), "http://127.0.0.2:12434"),
        (Settings(host="gpu.lan", port=80), "http://gpu.lan:80"),
        (Settings(port=0), DEFAULT_ADDRESS),
    ],
)
def test_where_a_server_with_these_settings_is_found(settings: Settings, address: str) -> None:
    assert own_address(settings) == address
    parse_address(address)


def test_commands_go_where_the_settings_would_have_a_server_listen(server: ScriptedServer, tmp_path: Path) -> None:
    server.on("GET /version", {"version": "9.9"})
    host, _, port = server.url.removeprefix("http://").partition(":")
    (tmp_path / "own.toml").write_text(f"[server]\nhost = '{host}'\nport = {port}\n")
    environ = {"DMR_CONFIG": str(tmp_path / "own.toml")}
    assert "9.9" in CliRunner().invoke(cli, ["version"], env=environ).stdout
    elsewhere = {**environ, "MODEL_RUNNER_HOST": "http://127.0.0.1:1"}
    assert "9.9" not in CliRunner().invoke(cli, ["version"], env=elsewhere).stdout
    assert "9.9" in CliRunner().invoke(cli, ["--server", server.url, "version"], env=elsewhere).stdout
    assert "9.9" in CliRunner().invoke(cli, ["version"], env={"MODEL_RUNNER_PORT": port}).stdout


def test_a_wrong_settings_file_is_told_by_commands_that_need_it(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text("[server\n")
    result = CliRunner().invoke(cli, ["ps"], env={"DMR_CONFIG": str(tmp_path / "own.toml")})
    assert (result.exit_code, result.stdout) == (1, "")
    assert "own.toml is not TOML" in result.stderr
