"""The app under real gunicorn on a loopback port, with dmr's own configuration and a fake manager."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from loopback_engine import LoopbackEngine

TESTS = Path(__file__).parent.parent
LIVE = TESTS / "server" / "live"
CONF = LIVE / "live_conf.py"


class Server:
    """A running gunicorn, and what it wrote to stderr."""

    def __init__(self, tmp: Path, **environ: str) -> None:
        path = os.pathsep.join(map(str, (TESTS.parent, TESTS.parent / "server", TESTS, LIVE)))
        settings = {"MODEL_RUNNER_PORT": "0", "DMR_WORKERS": "1", "DMR_WORKER_THREADS": "8", "DMR_GRACE_PERIOD": "3"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-c", str(CONF)],
            env={**os.environ, **settings, "PYTHONPATH": path, "TMPDIR": str(tmp), **environ},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(iter(self.process.stderr.readline, ""))

    @property
    def stderr(self) -> str:
        return "".join(self.lines)

    def wait_for(self, pattern: str) -> str:
        found = until(lambda: re.search(pattern, self.stderr), 20)
        assert found, self.stderr
        return str(found.group(1))

    def stop(self) -> int:
        self.process.terminate()
        status = self.process.wait(15)
        self._reader.join(5)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status


def until(check: Callable[[], Any], seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := check()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("live"))
    try:
        server.wait_for(r"(Try: curl .*)\n")
        yield server
    finally:
        assert server.stop() == 0


@pytest.fixture
def port(server: Server) -> int:
    return int(server.wait_for(r"dmr listens on http://127\.0\.0\.1:(\d+)"))


def request(port: int, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, body=body, headers=headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, json.loads(content) if content.startswith((b"{", b"[")) else content.decode()


def open_chat(port: int, model: str, stream: bool) -> socket.socket:
    body = json.dumps({"model": model, "stream": stream, "messages": [{"role": "user", "content": "Hi"}]})
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body.encode())
    return connection


def counts(port: int) -> tuple[int, int]:
    told = request(port, "GET", "/version")[1]
    return int(told["started"]), int(told["closed"])


def test_the_curl_line_names_a_model_and_the_true_port(server: Server, port: int) -> None:
    line = server.wait_for(r"(Try: curl .*)\n")
    assert f"http://127.0.0.1:{port}/v1/chat/completions" in line
    assert '"model":"ai/smollm2:latest"' in line
    assert "WARNING" not in server.stderr


def test_chunks_are_sent_as_they_come(port: int) -> None:
    with open_chat(port, "drip", True) as connection, connection.makefile("rb") as lines:
        answer = itertools.takewhile(lambda line: b"[DONE]" not in line, lines)
        arrivals = [time.monotonic() for line in answer if b'"content":"' in line and b"role" not in line]
    gaps = [later - earlier for earlier, later in itertools.pairwise(arrivals)]
    assert len(arrivals) == 4
    assert all(gap > 0.1 for gap in gaps)


@pytest.mark.parametrize(
    ("model", "stream"),
    [("ticks", True), ("ticks", False), ("queued", True), ("queued", False), ("busy", True), ("busy", False)],
)
def test_a_client_that_leaves_is_noticed_within_a_second(port: int, model: str, stream: bool) -> None:
    assert until(lambda: len(set(counts(port))) == 1, 5)  # the tests before have ended
    started, closed = counts(port)
    connection = open_chat(port, model, stream)
    assert until(lambda: counts(port)[0] == started + 1, 5)
    time.sleep(0.3)
    assert counts(port)[1] == closed  # as long as it waits nothing is given up
    connection.close()
    assert until(lambda: counts(port)[1] == closed + 1, 1.2)


@pytest.mark.parametrize("name", ["ai/smollm2", "ai%2Fsmollm2%3Alatest", "ai/smollm2:latest"])
def test_encoded_names(port: int, name: str) -> None:
    assert request(port, "GET", f"/v1/models/{name}")[1]["id"] == "ai/smollm2:latest"
    assert request(port, "GET", f"/models/{name}")[1]["tags"] == ["docker.io/ai/smollm2:latest"]


def test_the_official_client(port: int) -> None:
    client = openai.OpenAI(
        base_url=f"http://127.0.0.1:{port}/engines/v1", api_key="none", _strict_response_validation=True
    )
    with client:
        messages: Any = [{"role": "user", "content": "Hi"}]
        whole = client.chat.completions.create(model="fast", messages=messages)
        assert whole.choices[0].message.content == "0 1 2 "
        with client.chat.completions.create(model="fast", messages=messages, stream=True) as stream:
            assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "0 1 2 "
        assert client.completions.create(model="fast", prompt="Hi").choices[0].text == "0 1 2 "
        assert next(model.id for model in client.models.list()) == "ai/smollm2:latest"
        assert client.models.retrieve("ai/smollm2:latest").owned_by == "docker"
        with pytest.raises(openai.BadRequestError) as raised:
            client.chat.completions.create(model="ai/smollm2", messages=messages, temperature=9)
        assert raised.value.param == "temperature"
        assert raised.value.request_id


def test_the_official_client_streams_completions(port: int) -> None:
    # Not strictly: its type forgets that finish_reason is null until the end.
    with (
        openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none") as client,
        client.completions.create(model="fast", prompt="Hi", stream=True) as stream,
    ):
        assert "".join(chunk.choices[0].text for chunk in stream) == "0 1 2 "


def test_connections_are_kept(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    body = json.dumps({"model": "fast", "stream": True, "messages": [{"role": "user", "content": "Hi"}]})
    seen = set()
    for _ in range(3):
        connection.request("POST", "/v1/chat/completions", body)
        seen.add(connection.sock.getsockname())
        assert connection.getresponse().read().endswith(b"data: [DONE]\n\n")
    connection.close()
    assert len(seen) == 1


def test_chunked_bodies(port: int) -> None:
    pieces = (b"GGUF", bytes(3_000_000))
    status, model = request(port, "POST", "/models/import?reference=me/chunked", iter(pieces))
    assert (status, model["id"]) == (201, "sha256:3000004")
    too_large = b'{"model":"' + b"x" * 1_000_001
    assert request(port, "POST", "/v1/chat/completions", iter((too_large, b'"}')))[0] == 413


def test_a_body_cut_short_is_answered(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as answer:
            told = answer.read()
    assert told.startswith(b"HTTP/1.1 400")
    assert b"ended after 1 of 100 bytes" in told


def test_head_has_no_body_on_the_wire(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"HEAD /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        with connection.makefile("rb") as answer:
            told = answer.read()
    assert told.startswith(b"HTTP/1.1 200")
    assert told.endswith(b"\r\n\r\n")


def test_sigterm_lets_answers_end_and_leaves_nothing_behind(tmp_path: Path) -> None:
    server = Server(tmp_path)
    port = int(server.wait_for(r"dmr listens on http://127\.0\.0\.1:(\d+)"))
    server.wait_for("(Try: curl)")
    runtime_dirs = list(tmp_path.glob("dmr-*"))
    assert [folder.stat().st_mode & 0o777 for folder in runtime_dirs] == [0o700]
    with open_chat(port, "drip", True) as connection, connection.makefile("rb") as answer:
        assert b"200 OK" in answer.readline()
        server.process.terminate()
        assert b"data: [DONE]" in answer.read()
    assert server.stop() == 0
    assert not list(tmp_path.glob("dmr-*"))


def read_until(connection: socket.socket, wanted: bytes) -> bytes:
    data = b""
    while wanted not in data:
        piece = connection.recv(10_000)
        assert piece, data
        data += piece
    return data


def test_several_workers_tell_one_story_and_end_with_their_followers(tmp_path: Path) -> None:
    engine = LoopbackEngine()
    waits = threading.Event()

    def answer() -> Iterator[bytes]:
        yield b"data: 1\n\n"
        while not engine.client_left.is_set() and not waits.wait(0.02):
            yield b": still there\n\n"

    engine.headers["Content-Type"] = "text/event-stream"
    engine.answer = answer
    config = tmp_path / "config.toml"
    config.write_text(f'[engines.cluster]\nurl = "{engine.url}"\n')
    logs = tmp_path / "logs"
    # Had the followers to be waited for, the test would wait for longer than it does.
    server = Server(
        tmp_path, DMR_WORKERS="3", DMR_GRACE_PERIOD="60", DMR_CONFIG=str(config), MODEL_RUNNER_LOG_DIR=str(logs)
    )
    try:
        port = int(server.wait_for(r"dmr listens on http://127\.0\.0\.1:(\d+)"))
        log, records, chat = (socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(3))
        log.sendall(b"GET /logs?follow=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        read_until(log, b"Booting worker")
        records.sendall(b"GET /engines/requests HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
        read_until(records, b"event: connected")
        body = json.dumps({"model": "ai/smollm2", "messages": [{"role": "user", "content": "Hi"}]})
        for _ in range(12):
            assert request(port, "POST", "/v1/chat/completions", body)[0] == 200
        read_until(records, b"event: new_request")
        counted = 'dmr_http_requests_total{route="/v1/chat/completions",method="POST",status="200"} 12\n'
        assert until(lambda: all(counted in request(port, "GET", "/metrics")[1] for _ in range(8)), 10)
        body = json.dumps({"model": "far/llama", "stream": True, "messages": []})
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        chat.sendall((head + body).encode())
        read_until(chat, b"data: 1")  # while the engine goes on
        chat.close()
        assert engine.client_left.wait(10)
    finally:
        waits.set()
        status = server.stop()
        engine.close()
    assert status == 0
    assert log.recv(100_000)  # the rest, and then the end
    log.close()
    records.close()
    assert not list(tmp_path.glob("dmr-*"))


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"FAKE_MANAGER": "at_once"}, "exited with status 3"),
        ({"DMR_WORKERS": "many"}, "DMR_WORKERS='many'"),
        ({"MODEL_RUNNER_LOG_DIR": "/dev/null/logs"}, "log files cannot be written there"),
    ],
)
def test_a_start_that_fails_says_why(tmp_path: Path, environ: dict[str, str], told: str) -> None:
    server = Server(tmp_path, **environ)
    assert server.process.wait(20) != 0
    server.stop()
    assert told in server.stderr
    assert "Traceback" not in server.stderr
    assert not list(tmp_path.glob("dmr-*"))


def test_a_settings_file_that_is_being_edited_does_no_harm(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text("[server]\nmax_body_bytes = 1000\n[aliases]\n'gpt-*' = 'ai/smollm2'\n")
    server = Server(tmp_path, DMR_CONFIG=str(file))
    try:
        port = int(server.wait_for(r"dmr listens on http://127\.0\.0\.1:(\d+)"))
        server.wait_for("(Try: curl)")
        file.write_text("[server\n")
        server.process.send_signal(signal.SIGTTIN)  # one worker more
        assert until(lambda: server.stderr.count("Booting worker") == 2, 20), server.stderr
        assert not until(lambda: "failed to boot" in server.stderr or server.process.poll() is not None, 1.0)
        assert request(port, "GET", "/health")[0] == 200
        assert "not TOML" not in server.stderr
    finally:
        assert server.stop() == 0
    assert not list(tmp_path.glob("dmr-*"))
    assert not list(tmp_path.glob("settings-*"))


def test_a_wrong_settings_file_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text("[server]\nport = 'many'\n")
    server = Server(tmp_path, DMR_CONFIG=str(tmp_path / "own.toml"))
    assert server.process.wait(20) != 0
    server.stop()
    assert f"dmr: {tmp_path}/own.toml:2: [server] port = 'many' is not a whole number." in server.stderr
    assert "Traceback" not in server.stderr
