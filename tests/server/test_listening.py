"""TLS, Unix sockets and SIGHUP: a real gunicorn with dmr's own configuration, over fakes."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import stat
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from certificates import make_certificates
from server.test_live import Server, until

from dmr.config.keys import ApiKey, digest_of_key, format_key

CHAT = "/v1/chat/completions"
Start = Callable[..., Server]
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl to make certificates")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Server] = []

    def begin(**environ: str) -> Server:
        started.append(Server(tmp_path, **{"HOME": str(tmp_path), "MODEL_RUNNER_TLS_PORT": "0", **environ}))
        return started[-1]

    yield begin
    for server in started:
        server.stop()


def tls_port(server: Server) -> int:
    return int(server.wait_for(r"dmr listens on https://127\.0\.0\.1:(\d+)"))


def trusting(authority: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority))


def ask(connection: http.client.HTTPConnection, method: str, path: str, body: Any = None, **headers: str) -> Any:
    connection.request(method, path, json.dumps(body) if body is not None else None, headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def chat(model: str, **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], **fields}


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=10)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(self._path)


@needs_openssl
def test_a_certificate_is_made_and_both_ports_answer(start: Start, tmp_path: Path) -> None:
    server = start(MODEL_RUNNER_TLS_ENABLED="true")
    port = tls_port(server)
    folder = tmp_path / ".docker" / "model-runner" / "certs"
    assert {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir() if file.name[0] != "."} == {
        "ca.crt": 0o644,
        "ca.key": 0o600,
        "server.crt": 0o600,
        "server.key": 0o600,
        "server.names": 0o600,
    }
    for name in ("localhost", "127.0.0.1"):
        secure = http.client.HTTPSConnection(name, port, timeout=10, context=trusting(folder / "ca.crt"))
        for _ in range(3):  # on one connection
            assert ask(secure, "GET", "/health")[0] == 200
        status, answer = ask(secure, "POST", CHAT, chat("fast"))
        assert status == 200
        assert json.loads(answer)["choices"][0]["message"]["content"] == "0 1 2 "
        status, answer = ask(secure, "POST", CHAT, chat("drip", stream=True))
        assert status == 200
        assert answer.endswith(b"data: [DONE]\n\n")
        assert answer.count(b'"content":"') >= 4
        secure.close()
    plain = http.client.HTTPConnection(
        "127.0.0.1", int(server.wait_for(r"dmr listens on http://127\.0\.0\.1:(\d+)")), timeout=10
    )
    assert ask(plain, "GET", "/health")[0] == 200
    plain.close()


@needs_openssl
def test_old_versions_strangers_and_plain_http_are_refused_and_harm_nobody(start: Start, tmp_path: Path) -> None:
    made = make_certificates(tmp_path / "own")
    server = start(
        MODEL_RUNNER_TLS_ENABLED="true",
        MODEL_RUNNER_TLS_CERT=str(made.certificate),
        MODEL_RUNNER_TLS_KEY=str(made.key),
        DMR_PLAIN="false",
    )
    port = tls_port(server)
    old = trusting(made.authority)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    for context in (old, ssl.create_default_context()):
        with pytest.raises(ssl.SSLError), socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            context.wrap_socket(connection, server_hostname="127.0.0.1").close()
    with socket.create_connection(("127.0.0.1", port), timeout=15) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert b"200 OK" not in connection.recv(1000)
    secure = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=trusting(made.authority))
    assert ask(secure, "GET", "/health")[0] == 200
    secure.close()
    assert "dmr listens on http://" not in server.stderr
    assert "Traceback" not in server.stderr


@needs_openssl
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_is_noticed_behind_tls(start: Start, tmp_path: Path, stream: bool) -> None:
    server = start(MODEL_RUNNER_TLS_ENABLED="true")
    authority = tmp_path / ".docker" / "model-runner" / "certs" / "ca.crt"
    port = tls_port(server)
    looker = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=trusting(authority))

    def counts() -> tuple[str, str]:
        told = json.loads(ask(looker, "GET", "/version")[1])
        return told["started"], told["closed"]

    leaver = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=trusting(authority))
    leaver.request("POST", CHAT, json.dumps(chat("queued", stream=stream)))
    assert until(lambda: counts() == ("1", "0"), 5)
    time.sleep(1.0)
    assert counts() == ("1", "0")
    leaver.close()
    assert until(lambda: counts() == ("1", "1"), 3)
    looker.close()


@needs_openssl
def test_a_new_certificate_is_taken_without_a_restart(start: Start, tmp_path: Path) -> None:
    first, second = make_certificates(tmp_path / "a"), make_certificates(tmp_path / "b")
    files = {"MODEL_RUNNER_TLS_CERT": str(first.certificate), "MODEL_RUNNER_TLS_KEY": str(first.key)}
    server = start(MODEL_RUNNER_TLS_ENABLED="true", LOOK_INTERVAL="0", **files)
    port = tls_port(server)
    second.key.replace(first.key)
    second.certificate.replace(first.certificate)
    secure = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=trusting(second.authority))
    assert ask(secure, "GET", "/health")[0] == 200
    secure.close()


def test_a_unix_socket_answers_with_its_mode_and_is_removed(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "dmr.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    server = start(MODEL_RUNNER_SOCK=str(path), DMR_SOCKET_MODE="0660", DMR_SOCKET_GROUP=str(os.getgid()))
    server.wait_for(r"(dmr listens on unix://)")
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    connection = UnixConnection(path)
    assert ask(connection, "GET", "/health")[0] == 200
    answer = ask(connection, "POST", CHAT, chat("drip", stream=True))[1]
    assert answer.endswith(b"data: [DONE]\n\n")
    connection.close()
    again = start(MODEL_RUNNER_SOCK=str(path))
    assert again.process.wait(15) != 0
    assert f"Another server listens on {path}" in "".join(again.lines)
    assert path.exists()
    assert server.stop() == 0
    assert not path.exists()


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"DMR_PLAIN": "false"}, "leaves nothing to listen on"),
        ({"MODEL_RUNNER_TLS_ENABLED": "1", "MODEL_RUNNER_TLS_CERT": "x.pem"}, "TLS needs both"),
        (
            {"MODEL_RUNNER_TLS_ENABLED": "1", "MODEL_RUNNER_TLS_CERT": "x.pem", "MODEL_RUNNER_TLS_KEY": "x.key"},
            "x.pem and x.key cannot be used for TLS",
        ),
        ({"MODEL_RUNNER_TLS_ENABLED": "1", "MODEL_RUNNER_TLS_AUTO_CERT": "0"}, "TLS needs a certificate"),
        ({"MODEL_RUNNER_SOCK": "no-such-folder/x.sock"}, "There is no folder no-such-folder"),
        ({"MODEL_RUNNER_SOCK": __file__}, "is no socket"),
        ({"MODEL_RUNNER_SOCK": "x.sock", "DMR_SOCKET_GROUP": "no-such-group"}, "There is no group"),
        ({"DMR_KEYS": "no-such-file.toml"}, "cannot be read"),
    ],
)
def test_where_it_cannot_listen_it_does_not_start(start: Start, environ: dict[str, str], told: str) -> None:
    server = start(**environ)
    assert server.process.wait(20) != 0
    server.stop()
    assert told in server.stderr
    assert "Traceback" not in server.stderr


def write_keys(path: Path, **keys: str) -> None:
    part = path.with_suffix(".part")
    part.write_text("\n".join(format_key(ApiKey(name=name, digest=digest_of_key(key))) for name, key in keys.items()))
    part.replace(path)


def test_sighup_takes_keys_on_and_no_stream_ends(start: Start, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    write_keys(keys, old="old-key-0123456789")
    server = start(DMR_KEYS=str(keys))
    port = int(server.wait_for(r"dmr listens on http://127\.0\.0\.1:(\d+)"))

    def status(key: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        found: int = ask(connection, "GET", "/v1/models", Authorization=f"Bearer {key}")[0]
        connection.close()
        return found

    assert until(lambda: status("old-key-0123456789") == 200, 5)
    streaming = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    body = json.dumps(chat("busy", stream=True))
    streaming.request("POST", CHAT, body, {"Authorization": "Bearer old-key-0123456789"})
    answer = streaming.getresponse()
    assert answer.status == 200
    write_keys(keys, new="new-key-0123456789")
    server.process.send_signal(signal.SIGHUP)
    assert until(lambda: status("new-key-0123456789") == 200, 8)
    assert status("old-key-0123456789") == 401
    for _ in range(200):  # longer than the grace period of a worker that ends
        assert answer.readline()
    keys.write_text("[broken")
    server.process.send_signal(signal.SIGHUP)
    server.wait_for(r"(Nothing is changed by SIGHUP: .*not TOML)")
    assert status("new-key-0123456789") == 200
    streaming.close()


def test_sighup_takes_settings_on_if_they_are_right(start: Start, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[server]\norigins = []\n")
    server = start(DMR_CONFIG=str(config))
    port = int(server.wait_for(r"dmr listens on http://127\.0\.0\.1:(\d+)"))

    def status() -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        found: int = ask(connection, "GET", "/health", Origin="https://page.example")[0]
        connection.close()
        return found

    assert until(lambda: status() == 403, 5)
    config.write_text("[server]\norigin")
    server.process.send_signal(signal.SIGHUP)
    server.wait_for(r"(Nothing is changed by SIGHUP)")
    assert status() == 403
    config.write_text('[server]\norigins = ["https://page.example"]\nport = 1\n')
    server.process.send_signal(signal.SIGHUP)
    server.wait_for(r"(new workers take over)")
    assert until(lambda: status() == 200, 10)
