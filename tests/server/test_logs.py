"""GET /logs: both files as one text, by time."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast
from wsgiref.util import setup_testing_defaults

import falcon.testing
import pytest
from fakes import FakeService

from dmr.config import Settings
from dmr.log_file import ENGINE_LOG, SERVICE_LOG, LogFile, stamp
from dmr_server import ending
from dmr_server.app import create_app
from dmr_server.log_reading import Tail, merged
from dmr_server.refusal import LOOKING


@pytest.fixture
def client(service: FakeService, tmp_path: Path) -> falcon.testing.TestClient:
    return falcon.testing.TestClient(create_app(cast(Any, service), Settings(log_dir=tmp_path)))


def line(second: float, text: str) -> str:
    return f"{stamp(second)}{text}\n"


def write(path: Path, *lines: str) -> None:
    with path.open("a") as file:
        file.writelines(lines)


def test_by_time(client: falcon.testing.TestClient, tmp_path: Path) -> None:
    service = line(1, "s1"), line(3, "s3"), "  more of s3\n", line(5, "s5")
    engine = "before any time\n", line(2, "e2"), line(3, "e3"), "  more of e3\n", line(4, "e4")
    write(tmp_path / SERVICE_LOG, *service)
    write(tmp_path / ENGINE_LOG, *engine)
    told = client.simulate_get("/logs")
    assert told.headers["content-type"].startswith("text/plain")
    s1, s3, more_s3, s5 = service
    early, e2, e3, more_e3, e4 = engine
    assert told.text == "".join([early, s1, e2, s3, more_s3, e3, more_e3, e4, s5])
    assert client.simulate_get("/logs", query_string="no-engines=1").text == "".join(service)


def test_an_engine_need_not_have_logged_anything(client: falcon.testing.TestClient, tmp_path: Path) -> None:
    write(tmp_path / SERVICE_LOG, line(1, "s1"))
    assert client.simulate_get("/logs").text == line(1, "s1")


def test_what_was_put_aside_is_told_too(tmp_path: Path) -> None:
    file = LogFile(tmp_path / SERVICE_LOG, max_bytes=10)
    for second in range(4):
        file.write(line(second, "s").encode())
    file.close()
    tail = Tail(tmp_path / SERVICE_LOG)
    assert b"".join(merged([tail])).decode() == "".join(line(second, "s") for second in range(4))
    tail.close()


def test_a_tail_goes_on_behind_what_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / SERVICE_LOG
    file = LogFile(path, max_bytes=10)
    tail = Tail(path)
    told = []
    for second in range(8):
        file.write(line(second, "s").encode())
        if second % 3 == 0:
            told += list(merged([tail]))
    told += list(merged([tail]))
    assert b"".join(told).decode() == "".join(line(second, "s") for second in range(8))
    file.close()
    tail.close()


def test_half_a_line_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / SERVICE_LOG
    write(path, line(1, "whole"), "half")
    tail = Tail(path)
    assert list(merged([tail])) == [line(1, "whole").encode()]
    write(path, " and half\n")
    assert list(merged([tail])) == [b"half and half\n"]
    path.write_text("emptied by another program\n"[:9] + "\n")
    assert list(merged([tail])) == [b"emptied b\n"]
    tail.close()


def test_head_leaves_nothing_open(client: falcon.testing.TestClient, tmp_path: Path) -> None:
    write(tmp_path / SERVICE_LOG, line(1, "s1"))
    told = client.simulate_head("/logs")  # an open file would be a warning, and a warning a failure
    assert (told.status_code, told.content) == (200, b"")


@pytest.mark.parametrize("name", ["follow", "no-engines"])
def test_a_wrong_word_for_true(client: falcon.testing.TestClient, tmp_path: Path, name: str) -> None:
    write(tmp_path / SERVICE_LOG, line(1, "s1"))
    told = client.simulate_get("/logs", query_string=f"{name}=maybe")
    assert (told.status_code, told.text) == (400, f'invalid {name} parameter: "maybe" is not a valid boolean\n')
    assert client.simulate_get("/logs", query_string=f"{name}=1&{name}=maybe").status_code == 400


def test_no_log_yet(client: falcon.testing.TestClient) -> None:
    told = client.simulate_get("/logs")
    assert (told.status_code, told.text) == (404, "service log not found\n")


def test_no_folder(service: FakeService) -> None:
    app = create_app(cast(Any, service), Settings())
    told = falcon.testing.TestClient(app).simulate_get("/logs")
    assert told.status_code == 501
    assert told.text.startswith("logs API not available: log directory not configured")


def follow(client: falcon.testing.TestClient, connection: socket.socket | None = None) -> Iterator[bytes]:
    environ: dict[str, Any] = {"REQUEST_METHOD": "GET", "PATH_INFO": "/logs", "QUERY_STRING": "follow=true"}
    setup_testing_defaults(environ)
    if connection is not None:
        environ["gunicorn.socket"] = connection
    return iter(client.app(environ, lambda status, headers: None))


def test_follow(client: falcon.testing.TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / SERVICE_LOG, line(1, "s1"))
    pieces = follow(client)
    assert next(pieces).decode() == line(1, "s1")
    write(tmp_path / ENGINE_LOG, line(2, "e2"))  # it begins later
    assert next(pieces).decode() == line(2, "e2")
    monkeypatch.setattr(ending, "_begun", True)
    assert list(pieces) == []
    cast(Any, pieces).close()


def test_a_full_server_has_no_thread_for_what_does_not_end(client: falcon.testing.TestClient, tmp_path: Path) -> None:
    write(tmp_path / SERVICE_LOG, line(1, "s1"))
    asked = ("/logs", "follow=1", {}), ("/logs", "", {}), ("/engines/requests", "", {"Accept": "text/event-stream"})
    with ThreadPoolExecutor(1, thread_name_prefix=LOOKING) as looking:
        told = [
            looking.submit(client.simulate_get, path, query_string=query, headers=headers).result()
            for path, query, headers in asked
        ]
    assert [answer.status_code for answer in told] == [503, 200, 503]
    assert told[0].headers["retry-after"] == "10"


def test_follow_ends_with_its_client(client: falcon.testing.TestClient, tmp_path: Path) -> None:
    write(tmp_path / SERVICE_LOG, line(1, "s1"))
    ours, theirs = socket.socketpair()
    pieces = follow(client, ours)
    next(pieces)
    theirs.close()
    assert list(pieces) == []
    cast(Any, pieces).close()
    ours.close()
