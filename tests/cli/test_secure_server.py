"""Servers behind TLS and Unix sockets, as the command line reaches them."""

from __future__ import annotations

import http.server
import socketserver
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from certificates import Certificates, make_certificates
from cli.scripted_server import ScriptedServer
from click.testing import CliRunner, Result

from dmr.cli.address import own_address, parse_address
from dmr.cli.main import cli
from dmr.config import Settings, TlsSettings
from dmr.errors import InvalidRequest


def dmr(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(cli, list(arguments), env=environ)


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"[]" if self.path == "/models" and self.headers["Host"] == "localhost" else b"?"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def unix_path(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "with a blank.sock"
    with socketserver.ThreadingUnixStreamServer(str(path), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield path
        server.shutdown()
        thread.join()


def test_a_unix_socket(unix_path: Path) -> None:
    for address in (f"unix://{unix_path}", f"unix:{unix_path}"):
        result = dmr("--server", address, "list", "--json")
        assert result.exit_code == 0, result.output
        assert result.stdout.strip() == "[]"
    result = dmr("list", "--json", MODEL_RUNNER_HOST=f"unix://{unix_path}")
    assert result.stdout.strip() == "[]"


def test_a_unix_socket_where_nobody_listens(tmp_path: Path) -> None:
    result = dmr("--server", f"unix://{tmp_path}/none.sock", "ps")
    assert result.exit_code == 1
    assert "No server answers at unix://" in result.stderr
    assert not parse_address(f"unix://{tmp_path}/none.sock").accepts()


@pytest.mark.parametrize("address", ["unix:", "unix://", "unix://relative/path", "unix:x"])
def test_what_is_no_path_of_a_socket(address: str) -> None:
    with pytest.raises(InvalidRequest, match=r"unix:///PATH"):
        parse_address(address)


@pytest.fixture
def secure(server: ScriptedServer, tmp_path: Path) -> tuple[str, Certificates]:
    made = make_certificates(tmp_path / "made", "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    server.wrap(context)
    server.on("GET /models", [])
    return server.url.replace("http://127.0.0.1", "https://localhost"), made


def test_the_authority_is_named_or_was_made_here(secure: tuple[str, Certificates], tmp_path: Path) -> None:
    url, made = secure
    refused = dmr("--server", url, "list")
    assert refused.exit_code == 1
    assert "--tls-ca" in refused.stderr
    assert dmr("--server", url, "--tls-ca", str(made.authority), "list").exit_code == 0
    assert dmr("--server", url, "list", MODEL_RUNNER_TLS_CA_CERT=str(made.authority)).exit_code == 0
    own = tmp_path / "home" / ".docker" / "model-runner" / "certs"
    own.mkdir(parents=True)
    (own / "ca.crt").write_bytes(made.authority.read_bytes())
    assert dmr("--server", url, "list").exit_code == 0


def test_a_file_of_no_authority_is_told(secure: tuple[str, Certificates], tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no certificate")
    for path, told in ((tmp_path / "text", "no certificates in PEM form"), (tmp_path / "none", "No such file")):
        result = dmr("--server", secure[0], "--tls-ca", str(path), "list")
        assert result.exit_code == 1
        assert told in result.stderr


def test_where_a_server_is_found_that_has_no_plain_port() -> None:
    assert own_address(Settings(plain=False, tls=TlsSettings(enabled=True))) == "https://localhost:12444"
    assert own_address(Settings(plain=False, socket=Path("/run/dmr.sock"))) == "unix:///run/dmr.sock"
    assert own_address(Settings(tls=TlsSettings(enabled=True))) == "http://localhost:12434"
