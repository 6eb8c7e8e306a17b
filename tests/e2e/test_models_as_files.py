"""Archives, repackaging and purging against a real server; the examples of docs/store.md run."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
from e2e.conftest import Server, add_tiny_models, children_of, wait_until
from e2e.examples import blocks
from unit.store.archives import digest, tar_of, upstream_archive
from unit.store.gguf_bytes import Tensor, gguf_bytes

MODEL = "test/tiny-random"
EXAMPLES = [block for block in blocks("docs/store.md") if block.language == "bash"]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Iterator[Server]:
    """A server whose models come and go; each test leaves the tiny ones as they were."""
    folder = tmp_path_factory.mktemp("files")
    add_tiny_models(folder / "models", tiny_folder)
    server = Server(folder)
    yield server
    server.stop()


def ask(method: str, url: str, **options: Any) -> urllib3.BaseHTTPResponse:
    with urllib3.PoolManager(retries=False, timeout=60.0) as pool:
        return pool.request(method, url, **options)


def exported(url: str) -> bytes:
    answer = ask("GET", f"{url}/models/{MODEL}/export")
    assert answer.status == 200
    return answer.data


def answers(url: str, model: str) -> bool:
    body = {"model": model, "prompt": "a", "max_tokens": 3}
    return ask("POST", f"{url}/v1/completions", json=body).status == 200


def test_a_model_leaves_as_an_archive_and_comes_back(running: Server) -> None:
    before = ask("GET", f"{running.url}/models/{MODEL}").json()
    data = exported(running.url)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames()[-1] == "manifest.json"
    assert answers(running.url, MODEL)
    assert ask("DELETE", f"{running.url}/models/{MODEL}").status == 200  # idle, so it is unloaded first
    assert not answers(running.url, MODEL)
    answer = ask("POST", f"{running.url}/models/load", body=data)
    assert (answer.status, answer.json()["tags"]) == (200, before["tags"])
    assert ask("GET", f"{running.url}/models/{MODEL}").json() == before
    assert answers(running.url, MODEL)


def test_an_archive_may_come_in_chunks(running: Server) -> None:
    data = exported(running.url)

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(data), 70_001):
            yield data[start : start + 70_001]

    answer = ask("POST", f"{running.url}/models/load?reference=me/copy:v1", body=pieces(), chunked=True)
    assert answer.status == 200
    assert answers(running.url, "me/copy:v1")


def test_an_upload_that_breaks_off_leaves_no_model(running: Server) -> None:
    data = exported(running.url)
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /models/load?reference=half HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(data)}\r\n\r\n"
        connection.sendall(head.encode() + data[: len(data) // 2])
        connection.shutdown(socket.SHUT_WR)
        assert b"400 Bad Request" in connection.recv(100)
    assert ask("GET", f"{running.url}/models/half").status == 404
    assert ask("GET", f"{running.url}/engines/df").json()["reclaimable_disk_usage"] == 0


def test_a_download_that_is_given_up_holds_nothing_open(running: Server) -> None:
    weights = gguf_bytes(tensors=[Tensor("weight", (8_000_000,), data=bytes(32_000_000))])  # more than sockets hold
    archive = tar_of(upstream_archive(weights))
    assert ask("POST", f"{running.url}/models/load?reference=big", body=archive).status == 200
    host, port = running.url.removeprefix("http://").split(":")
    most = 0
    for _ in range(5):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(f"GET /models/big/export HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert connection.recv(15) == b"HTTP/1.1 200 OK"
            most = max(most, num_open(running, weights))
    assert most > 0  # else this test would see nothing
    wait_until(lambda: num_open(running, weights) == 0, 20)
    assert ask("DELETE", f"{running.url}/models/big").status == 200


def num_open(running: Server, weights: bytes) -> int:
    """How often the server's processes have opened the blob of these weights."""
    found = []
    for pid in (running.process.pid, *children_of(running.process.pid)):
        for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):  # closed, or the process ended
                found.append(descriptor.readlink().name)
    return found.count(digest(weights).removeprefix("sha256:"))


def test_repackaged_it_has_another_context(running: Server) -> None:
    answer = ask(
        "POST",
        f"{running.url}/models/{MODEL}/repackage",
        json={"target": "me/small", "context_size": 64, "chat_template": "{{ messages[0].content }}"},
    )
    assert answer.status == 201
    assert answers(running.url, "me/small")
    shown = ask("GET", f"{running.url}/models/me/small").json()
    assert shown["config"]["context_size"] == 64
    body = {"model": "me/small", "messages": [{"role": "user", "content": "hello"}]}
    assert ask("POST", f"{running.url}/v1/apply-template", json=body).json()["prompt"] == "hello"


def test_a_purge_empties_the_store(own_server: Callable[..., Server]) -> None:
    running = own_server()
    assert answers(running.url, MODEL)
    answer = ask("DELETE", f"{running.url}/models/purge")
    assert (answer.status, answer.data) == (200, b"")
    assert ask("GET", f"{running.url}/models").json() == []
    assert ask("GET", f"{running.url}/engines/ps").json() == []
    assert not answers(running.url, MODEL)


def test_the_examples_of_the_page(running: Server, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    assert len(EXAMPLES) == 2
    for block in EXAMPLES:
        code = block.at(running.url).replace("ai/smollm2", MODEL)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        assert "successfully" in json.loads(done.stdout)["message"]
