"""What is noted of requests that do not end as they should, and when nothing can be written."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, cast

import falcon.testing
import pytest
from fakes import FakeService

from dmr.config import Settings
from dmr.types import Started, TextDelta, Tick
from dmr_server.app import create_app
from dmr_server.recording.journal import NAME

HELLO = {"model": "ai/smollm2", "messages": [{"role": "user", "content": "Hello!"}]}


def served(service: FakeService, folder: Path) -> falcon.testing.TestClient:
    return falcon.testing.TestClient(create_app(cast(Any, service), Settings(runtime_dir=folder)))


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_has_left(service: FakeService, tmp_path: Path, stream: bool) -> None:
    client = served(service, tmp_path)
    ours, theirs = socket.socketpair()
    theirs.close()
    service.enqueue(Started(5), TextDelta(0, "Hel"), *[Tick()] * 3, TextDelta(0, "lo"))
    client.simulate_post("/v1/chat/completions", json={**HELLO, "stream": stream}, extras={"gunicorn.socket": ours})
    ours.close()
    ((record,),) = [group["records"] for group in client.simulate_get("/engines/requests").json]
    assert record["status_code"] == 499
    told = client.simulate_get("/metrics").text
    assert 'dmr_http_requests_total{route="/v1/chat/completions",method="POST",status="499"} 1' in told
    assert 'dmr_model_requests_total{model="ai/smollm2:latest",mode="completion",status="499"} 1' in told


def test_where_nothing_can_be_written_requests_are_served(
    service: FakeService, tmp_path: Path, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    client = served(service, tmp_path)
    (tmp_path / NAME).write_bytes(b"no database at all" * 100)
    for _ in range(3):
        service.enqueue(*answer)
        assert client.simulate_post("/v1/chat/completions", json=HELLO).status_code == 200
    assert client.simulate_get("/engines/requests").status_code == 500
    assert client.simulate_get("/metrics").status_code == 200
    told = [record.getMessage() for record in caplog.records]
    assert sum("cannot be recorded" in message for message in told) == 1


def test_methods_and_addresses_that_anyone_makes_up_make_no_new_series(service: FakeService, tmp_path: Path) -> None:
    client = served(service, tmp_path)
    for number in range(3):
        client.simulate_get(f"/made/up/{number}")
        client.simulate_request("TRACE", f"/v1/models/{number}")
    told = client.simulate_get("/metrics").text
    assert 'dmr_http_requests_total{route="none",method="GET",status="404"} 3' in told
    assert "made" not in told
    assert "TRACE" not in told
