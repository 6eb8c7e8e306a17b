"""What docs/production.md tells people to use: the systemd unit, nginx, readiness."""

from __future__ import annotations

import configparser
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.conftest import free_port
from faults.live_servers import Start, start, until
from server.test_live import counts, open_chat, request

from dmr.config import Settings

__all__ = ["start"]

DEPLOY = Path(__file__).parents[2] / "deploy"
CHAT = '{"model": "fast", "messages": [{"role": "user", "content": "Hi"}]}'
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def unit() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / "dmr.service")
    return parser["Service"]


def test_systemd_is_told_when_the_server_can_be_asked(start: Start, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(20)
        _, port = start(NOTIFY_SOCKET=str(tmp_path / "notify"))
        assert systemd.recv(4096).startswith(b"READY=1")
    assert request(port, "GET", "/ready")[0] == 200


def test_the_unit_lets_requests_finish_and_survives_an_engine_without_memory() -> None:
    service = unit()
    assert service["Type"] == "notify"
    assert service["KillMode"] == "mixed", "or systemd would end the engines before the answers"
    assert service["OOMPolicy"] == "continue", "or one engine without memory would end all"
    assert float(service["TimeoutStopSec"]) > Settings().grace_period
    assert "HUP" in service["ExecReload"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "dmr.service").read_text().replace("/usr/local/bin/dmr", "/bin/true")
    (tmp_path / "dmr.service").write_text(text)
    command = ["systemd-analyze", "verify", str(tmp_path / "dmr.service")]
    verified = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "dmr.service" not in verified.stderr


@pytest.fixture
def front(start: Start, tmp_path: Path) -> Iterator[tuple[int, int]]:
    """nginx as configured in deploy/, without TLS, and dmr behind it: both ports."""
    if NGINX is None:
        pytest.skip("there is no nginx")
    _, behind = start(DMR_ORIGINS="https://models.example.com")
    port = free_port()
    text = (DEPLOY / "nginx.conf").read_text().replace("127.0.0.1:12434", f"127.0.0.1:{behind}")
    text = re.sub(r"listen 443 ssl;", f"listen 127.0.0.1:{port};", text)
    text = re.sub(r" *ssl_certificate.*\n", "", text)
    (tmp_path / "site.conf").write_text(text)
    folders = "".join(
        f"{name}_temp_path {tmp_path}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main = f"pid {tmp_path}/pid; error_log stderr; daemon off; worker_processes 1; events {{}}\n"
    (tmp_path / "nginx.conf").write_text(f"{main}http {{ access_log off;\n{folders}include {tmp_path}/site.conf; }}\n")
    process = subprocess.Popen([NGINX, "-c", str(tmp_path / "nginx.conf"), "-p", str(tmp_path)], stderr=subprocess.PIPE)
    try:
        assert until(lambda: is_open(port), 10), process.stderr
        yield port, behind
    finally:
        process.terminate()
        process.communicate(timeout=10)


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_behind_nginx_streams_come_in_pieces_and_a_client_that_leaves_is_noticed(front: tuple[int, int]) -> None:
    port, behind = front
    assert request(port, "POST", "/v1/chat/completions", CHAT, Host="models.example.com")[0] == 200
    begun, closed = counts(behind)
    with open_chat(port, "busy", True) as stream:
        seen = b""
        began = time.monotonic()
        while seen.count(b"data: ") < 5:
            seen += stream.recv(1 << 16)
        assert time.monotonic() - began < 10, "it is a stream of minutes"
        assert counts(behind) == (begun + 1, closed)
    assert until(lambda: counts(behind) == (begun + 1, closed + 1), 5)
