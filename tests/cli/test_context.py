"""`dmr context`: servers by name; and servers behind TLS."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from certificates import Certificates, make_certificates
from cli.scripted_server import ScriptedServer
from click.testing import CliRunner, Result

from dmr.cli.main import cli

Run = Callable[..., Result]
VARIABLES = ("MODEL_RUNNER_TLS", "MODEL_RUNNER_TLS_SKIP_VERIFY", "MODEL_RUNNER_TLS_CA_CERT")


@pytest.fixture
def dmr(nowhere: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Without --server; the default server is not there."""
    monkeypatch.setenv("MODEL_RUNNER_PORT", nowhere.rpartition(":")[2])
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str, **settings: Any) -> Result:
        return CliRunner().invoke(cli, list(arguments), **settings)

    return run


@pytest.fixture
def lab(dmr: Run, server: ScriptedServer) -> ScriptedServer:
    """A server with the name `lab`."""
    server.on("GET /engines/ps", [])
    result = dmr(
        "context", "create", "lab", "--host", server.url.removeprefix("http://"), "--description", "The big one"
    )
    assert (result.exit_code, result.stdout) == (0, "lab\n"), result.stderr
    return server


def test_a_context_is_used_until_another_one_is(dmr: Run, lab: ScriptedServer) -> None:
    assert "No server answers" in dmr("ps").stderr
    assert dmr("context", "use", "lab").exit_code == 0
    assert dmr("ps").exit_code == 0
    assert "No server answers" in dmr("--server", "127.0.0.1:1", "ps").stderr
    assert "No server answers" in dmr("ps", env={"MODEL_RUNNER_HOST": "127.0.0.1:1"}).stderr
    assert dmr("context", "use", "default").exit_code == 0
    assert "No server answers" in dmr("ps").stderr


def test_contexts_are_listed(dmr: Run, lab: ScriptedServer, nowhere: str) -> None:
    dmr("context", "use", "lab")
    default, row = [line.split("  ") for line in dmr("context", "ls").stdout.splitlines()[1:]]
    assert (default[0], default[-1]) == ("default", "Where this machine's server listens")
    assert [cell.strip() for cell in row if cell] == ["lab", lab.url, "The big one", "*"]
    listed = json.loads(dmr("context", "ls", "--json").stdout)
    assert [(one["name"], one["current"]) for one in listed] == [("default", False), ("lab", True)]
    assert listed[0]["host"] == nowhere.replace("127.0.0.1", "localhost")
    assert json.loads(dmr("context", "inspect", "lab").stdout) == [
        {"name": "lab", "host": lab.url, "description": "The big one", "current": True}
    ]


def test_a_context_in_use_is_not_forgotten(dmr: Run, lab: ScriptedServer) -> None:
    dmr("context", "use", "lab")
    assert "choose another one first" in dmr("context", "rm", "lab").stderr
    dmr("context", "use", "default")
    assert dmr("context", "rm", "lab").stdout == "lab\n"
    assert len(dmr("context", "ls").stdout.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["use", "nosuch"], "There is no context nosuch: `dmr context ls`"),
        (["rm", "nosuch"], "There is no context nosuch"),
        (["rm", "default"], "There is no context default"),
        (["inspect", "nosuch"], "There is no context nosuch"),
        (["create", "default", "--host", "x:1"], "cannot be a context's name"),
        (["create", "../x", "--host", "x:1"], "cannot be a context's name"),
        (["create", "lab", "--host", "x:1"], "There is a context lab already"),
        (["create", "x", "--host", "a:b:c"], "is not the address of a server"),
        (["create", "x", "--host", "http://x:1", "--tls"], "contradict each other"),
    ],
)
def test_what_cannot_be_done(dmr: Run, lab: ScriptedServer, arguments: list[str], message: str) -> None:
    result = dmr("context", *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr


@pytest.mark.parametrize("content", ["{broken", '{"version":1,"contexts":7}', '{"version":2}'])
def test_a_file_that_cannot_be_used_is_told(dmr: Run, tmp_path: Path, content: str) -> None:
    path = tmp_path / "home" / "dmr" / "contexts.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    result = dmr("ps")
    assert result.exit_code == 1
    assert str(path) in result.stderr
    assert dmr("--server", "127.0.0.1:1", "ps").stderr.startswith("Error: No server answers at http://127.0.0.1:1.")


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path / "certificates", "localhost")


@pytest.fixture
def secure(certificates: Certificates) -> Iterator[ScriptedServer]:
    """A server behind TLS, with a certificate that no system trusts; `url` is without a scheme."""
    server = ScriptedServer()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)
    server.wrap(context)
    server.on("GET /engines/ps", [])
    yield server
    server.close()


def test_the_variables_say_how_the_certificate_is_checked(
    dmr: Run, secure: ScriptedServer, certificates: Certificates
) -> None:
    address = secure.url.removeprefix("http://")
    refused = dmr("--server", f"https://{address}", "ps")
    assert refused.exit_code == 1
    assert "MODEL_RUNNER_TLS_CA_CERT names the file" in refused.stderr
    trusted = {"MODEL_RUNNER_TLS": "1", "MODEL_RUNNER_TLS_CA_CERT": str(certificates.authority)}
    assert dmr("--server", address, "ps", env=trusted).exit_code == 0
    unchecked = dmr("--server", f"https://{address}", "ps", env={"MODEL_RUNNER_TLS_SKIP_VERIFY": "true"})
    assert (unchecked.exit_code, unchecked.stderr) == (0, "")


@pytest.mark.parametrize("skip", [True, False])
def test_a_context_keeps_how_it_is_checked(
    dmr: Run, secure: ScriptedServer, certificates: Certificates, skip: bool
) -> None:
    how = ["--tls-skip-verify"] if skip else ["--tls-ca-cert", str(certificates.authority)]
    assert dmr("context", "create", "lab", "--host", secure.url.removeprefix("http://"), "--tls", *how).exit_code == 0
    dmr("context", "use", "lab")
    assert dmr("ps").exit_code == 0
