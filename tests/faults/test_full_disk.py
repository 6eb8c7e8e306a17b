"""Row 40: no write succeeds any more, in a running server. The store's own tests refuse each single step."""

from __future__ import annotations

import concurrent.futures
import resource
from collections.abc import Callable
from pathlib import Path

from e2e.conftest import Server, children_of
from tiny_models import SCRIPT_ANSWER, model_file

Start = Callable[..., Server]
ROOM = 4096  # bytes that a file may have: as on a full disk, a write fails in the middle


def limit_files(server: Server, num_bytes: int) -> None:
    for pid in (server.process.pid, *children_of(server.process.pid)):
        hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (num_bytes, hard))


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_server_whose_disk_is_full_says_so_and_serves_on(own_server: Start, tmp_path: Path) -> None:
    server = own_server()
    server.chat("test/tiny-script")
    before = files_of(server.folder / "models")
    data = model_file("tiny-think", tmp_path).read_bytes() + bytes(64)  # another one than is there
    server.log.write_bytes(b"")
    limit_files(server, ROOM)
    for _ in range(3):
        response = server.post("/models/import?reference=test/new", data)
        assert response.status in (500, 507), response.data
        assert b"too large" in response.data or b"space" in response.data, response.data
    assert server.get("/models/test/new").status == 404
    assert server.chat("test/tiny-script")["choices"][0]["message"]["content"] == SCRIPT_ANSWER
    assert files_of(server.folder / "models") == before
    limit_files(server, resource.RLIM_INFINITY)
    assert server.post("/models/import?reference=test/new", data).status == 201
    assert server.chat("test/new")


def test_a_model_is_loaded_where_nothing_can_be_written(own_server: Start) -> None:
    server = own_server()
    limit_files(server, ROOM)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: server.chat("test/tiny-script"), range(4)))
    assert {answer["choices"][0]["message"]["content"] for answer in answers} == {SCRIPT_ANSWER}
