"""Requests that go on to engines beyond this machine, over real sockets."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from wsgiref.util import setup_testing_defaults

import falcon.testing
import pytest
from fakes import FakeRecords, FakeService
from loopback_engine import LoopbackEngine

from dmr.config import Alias, Settings, UpstreamEngine
from dmr.errors import ModelNotFound
from dmr.service.names import Names
from dmr.service.upstreams import Upstreams
from dmr_server.app import create_app

CHAT = "/engines/cluster/v1/chat/completions"
ASKED = {"model": "far/llama", "messages": [{"role": "user", "content": "Hello!"}]}


@pytest.fixture
def engine() -> Iterator[LoopbackEngine]:
    engine = LoopbackEngine()
    yield engine
    engine.close()


def connect(service: FakeService, url: str, **options: Any) -> None:
    service.upstreams = Upstreams([UpstreamEngine("cluster", url, **options)], {"CLUSTER_KEY": "s3cret"})


@pytest.fixture
def app(service: FakeService, settings: Settings, engine: LoopbackEngine) -> Any:
    connect(service, engine.url, api_key_env="CLUSTER_KEY")
    return create_app(cast(Any, service), settings)


@pytest.fixture
def client(app: Any) -> falcon.testing.TestClient:
    return falcon.testing.TestClient(app)


def start(app: Any, path: str, body: Any, connection: socket.socket | None = None) -> tuple[str, Iterator[bytes]]:
    """Status and body as they come, without waiting for the end."""
    sent = json.dumps(body).encode()
    environ: dict[str, Any] = {"REQUEST_METHOD": "POST", "PATH_INFO": path, "CONTENT_LENGTH": str(len(sent))}
    setup_testing_defaults(environ)
    environ["wsgi.input"].write(sent)
    environ["wsgi.input"].seek(0)
    if connection is not None:
        environ["gunicorn.socket"] = connection
    told: list[str] = []
    pieces = app(environ, lambda status, headers: told.append(status))
    return told[0], pieces


def test_a_request_by_the_name_of_the_engine(client: falcon.testing.TestClient, engine: LoopbackEngine) -> None:
    answer = client.simulate_post(CHAT, json=ASKED, headers={"X-Request-Id": "mine", "Accept": "*/*"})
    assert (answer.status_code, answer.json) == (200, {"choices": []})
    (asked,) = engine.asked
    assert (asked.method, asked.path, json.loads(asked.body)) == ("POST", "/v1/chat/completions", ASKED)
    assert asked.headers["x-request-id"] == "mine"


def test_keys_stay_where_they_belong(client: falcon.testing.TestClient, engine: LoopbackEngine) -> None:
    engine.headers["Set-Cookie"] = "a=b"
    answer = client.simulate_post(CHAT, json=ASKED, headers={"Authorization": "Bearer ours", "Cookie": "c=d"})
    assert "set-cookie" not in answer.headers
    headers = {name.lower(): value for name, value in engine.asked[0].headers.items()}
    assert headers["authorization"] == "Bearer s3cret"
    assert "cookie" not in headers


def test_every_path_and_query_below_v1(client: falcon.testing.TestClient, engine: LoopbackEngine) -> None:
    assert client.simulate_get("/engines/cluster/v1/models/far%2Fllama", query_string="a=1&b=%20").status_code == 200
    assert engine.asked[0].path == "/v1/models/far%2Fllama?a=1&b=%20"


@pytest.mark.parametrize("path", ["/admin", "/v1x", "", "/v1/a b"])
def test_no_other_path_is_passed_on(client: falcon.testing.TestClient, engine: LoopbackEngine, path: str) -> None:
    assert client.simulate_post(f"/engines/cluster{path}", json=ASKED).status_code == 404
    assert not engine.asked


@pytest.mark.parametrize("path", ["/v1/../admin", "/v1/%2e%2e/admin", "/v1/%252e%252e/admin", "/v1/x%2F..%2Fy"])
def test_no_path_leads_out_of_the_engine(app: Any, engine: LoopbackEngine, path: str) -> None:
    answer = falcon.testing.TestClient(app).simulate_post(
        "/engines/cluster/", extras={"RAW_URI": f"/engines/cluster{path}"}, json=ASKED
    )
    assert answer.status_code == 400
    assert not engine.asked


def test_a_stream_comes_piece_by_piece(app: Any, engine: LoopbackEngine) -> None:
    go_on = threading.Event()

    def answer() -> Iterator[bytes]:
        yield b"data: 1\n\n"
        assert go_on.wait(10)
        yield b"data: 2\n\n"

    engine.headers["Content-Type"] = "text/event-stream"
    engine.answer = answer
    status, pieces = start(app, CHAT, {**ASKED, "stream": True})
    assert status == "200 OK"
    assert next(pieces) == b"data: 1\n\n"  # while the engine waits
    go_on.set()
    assert list(pieces) == [b"data: 2\n\n"]


@pytest.mark.parametrize("has_begun", [True, False])
def test_a_client_that_leaves_ends_the_request_at_the_engine(app: Any, engine: LoopbackEngine, has_begun: bool) -> None:
    waits = threading.Event()

    def answer() -> Iterator[bytes]:
        if has_begun:
            yield b"data: 1\n\n"
        waits.set()
        while not engine.client_left.wait(0.02):
            yield b"data: 2\n\n"

    engine.headers["Content-Type"] = "text/event-stream"
    engine.answer = answer
    ours, theirs = socket.socketpair()
    _, pieces = start(app, CHAT, {**ASKED, "stream": True}, ours)
    next(pieces)
    assert waits.wait(10)
    theirs.close()
    for _ in pieces:  # it ends, without an error of anybody
        pass
    cast(Any, pieces).close()
    ours.close()
    assert engine.client_left.wait(10)


def test_a_client_that_leaves_before_the_answer(app: Any, engine: LoopbackEngine) -> None:
    silent = threading.Event()
    engine.answer = lambda: iter(())
    original = engine._send_head
    engine._send_head = lambda *args: (silent.wait(10), original(*args))[1]  # type: ignore[method-assign]
    ours, theirs = socket.socketpair()
    theirs.close()
    status, _ = start(app, CHAT, ASKED, ours)
    silent.set()
    ours.close()
    assert status.startswith("499")


def test_the_status_and_error_of_the_engine_are_its_own(
    client: falcon.testing.TestClient, engine: LoopbackEngine
) -> None:
    engine.status = 429
    engine.headers["Retry-After"] = "7"
    engine.answer = lambda: [b'{"error":{"message":"slow down"}}']
    answer = client.simulate_post(CHAT, json=ASKED)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
    assert answer.json["error"]["message"] == "slow down"


def test_an_answer_before_the_whole_request_was_read(client: falcon.testing.TestClient, service: FakeService) -> None:
    """As servers do that refuse a large body by its head."""

    def refuse(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\n{}")
            connection.shutdown(socket.SHUT_RD)
            connection.recv(1)  # what comes is dropped, until the other side has enough

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=refuse, args=(listener,), daemon=True).start()
        connect(service, f"http://127.0.0.1:{listener.getsockname()[1]}")
        answer = client.simulate_post(CHAT, json={**ASKED, "user": "x" * 90_000})
    assert (answer.status_code, answer.json) == (413, {})


def test_a_query_that_no_address_can_have(app: Any, engine: LoopbackEngine) -> None:
    answer = falcon.testing.TestClient(app).simulate_post(CHAT, query_string="a=\xe4", json=ASKED)
    assert answer.status_code == 400
    assert not engine.asked


def test_a_redirect_is_not_followed(client: falcon.testing.TestClient, engine: LoopbackEngine) -> None:
    engine.status = 307
    engine.headers["Location"] = f"{engine.url}/elsewhere"
    answer = client.simulate_post(CHAT, json=ASKED)
    assert answer.status_code == 307
    assert "location" not in answer.headers
    assert len(engine.asked) == 1


def test_an_engine_that_is_not_there(client: falcon.testing.TestClient, service: FakeService) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        connect(service, f"http://127.0.0.1:{free.getsockname()[1]}")
    first, second = (client.simulate_post(CHAT, json=ASKED) for _ in range(2))
    assert (first.status_code, first.json["error"]["code"]) == (502, "upstream_failed")
    assert "cluster" in first.json["error"]["message"]
    assert (second.status_code, second.headers["retry-after"]) == (503, "3")  # nobody tries again at once


def test_an_engine_that_is_silent(client: falcon.testing.TestClient, service: FakeService) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        connect(service, f"http://127.0.0.1:{silent.getsockname()[1]}/v1", timeout=0.05)
        answer = client.simulate_post(CHAT, json=ASKED)
    assert (answer.status_code, answer.json["error"]["code"]) == (504, "timeout")


def test_a_stream_that_breaks_off_says_so(app: Any, engine: LoopbackEngine) -> None:
    engine.headers["Content-Type"] = "text/event-stream"
    engine.answer = lambda: [b"data: 1\n\n"]
    engine.breaks_off = True
    _, pieces = start(app, CHAT, {**ASKED, "stream": True})
    first, last = pieces
    assert first == b"data: 1\n\n"
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "upstream_failed"


def test_a_stream_of_messages_that_breaks_off(app: Any, engine: LoopbackEngine) -> None:
    engine.headers["Content-Type"] = "text/event-stream"
    engine.answer = lambda: [b"event: ping\ndata: {}\n\n"]
    engine.breaks_off = True
    _, pieces = start(app, "/v1/messages", ASKED)
    _, last = pieces
    name, data = last.decode().splitlines()[:2]
    assert (name, json.loads(data.removeprefix("data: "))["type"]) == ("event: error", "error")


def test_an_alias_of_a_model_elsewhere(
    client: falcon.testing.TestClient, service: FakeService, engine: LoopbackEngine
) -> None:
    service.names = Names(cast(Any, FakeRecords(service)), [Alias("claude-*", "far/llama")])
    assert client.simulate_post("/v1/messages", json={**ASKED, "model": "claude-9"}).status_code == 200
    assert json.loads(engine.asked[-1].body) == ASKED


def test_requests_that_went_on_are_recorded(service: FakeService, engine: LoopbackEngine, tmp_path: Path) -> None:
    connect(service, engine.url)
    app = create_app(cast(Any, service), Settings(runtime_dir=tmp_path, record="bodies"))
    client = falcon.testing.TestClient(app)
    client.simulate_post(CHAT, json=ASKED)
    client.simulate_post("/v1/chat/completions", json=ASKED)
    (group,) = client.simulate_get("/engines/requests", params={"model": "cluster/far/llama"}).json
    for record in group["records"]:
        assert (record["model"], record["backend"], record["status_code"]) == ("far/llama", "cluster", 200)
        assert json.loads(record["request"]) == ASKED
        assert record["response"] == '{"choices":[]}'
    assert group["count"] == 2
    counted = client.simulate_get("/metrics").text
    assert 'dmr_model_requests_total{model="far/llama",mode="completion",status="200"} 2' in counted
    assert 'route="/engines/{engine}/v1/*",method="POST",status="200"} 1' in counted


def test_only_the_models_that_the_settings_name(
    client: falcon.testing.TestClient, service: FakeService, engine: LoopbackEngine
) -> None:
    connect(service, engine.url, models=("one", "two"))
    assert client.simulate_post(CHAT, json=ASKED).status_code == 404
    listed = client.simulate_get("/engines/cluster/v1/models").json["data"]
    assert [model["id"] for model in listed] == ["one", "two"]
    assert client.simulate_post(CHAT, json={**ASKED, "model": "two"}).status_code == 200
    assert len(engine.asked) == 1


def test_to_preload_asks_nothing(client: falcon.testing.TestClient, engine: LoopbackEngine) -> None:
    assert client.simulate_post(CHAT, json=ASKED, headers={"X-Preload-Only": "true"}).status_code == 200
    assert not engine.asked


@pytest.mark.parametrize(
    ("path", "passed"),
    [
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/engines/v1/completions", "/v1/completions"),
        ("/v1/embeddings", "/v1/embeddings"),
        ("/rerank", "/v1/rerank"),
        ("/v1/messages", "/v1/messages"),
        ("/anthropic/v1/messages/count_tokens", "/v1/messages/count_tokens"),
        ("/v1/responses", "/v1/responses"),
    ],
)
def test_a_model_that_only_an_engine_has(
    client: falcon.testing.TestClient, engine: LoopbackEngine, path: str, passed: str
) -> None:
    assert client.simulate_post(path, json=ASKED).json == {"choices": []}
    assert engine.asked[-1].path == passed
    assert json.loads(engine.asked[-1].body) == ASKED


def test_the_store_goes_first(
    client: falcon.testing.TestClient, service: FakeService, engine: LoopbackEngine, answer: Any
) -> None:
    engine.models.append("ai/smollm2")
    service.enqueue(*answer)
    told = client.simulate_post("/v1/chat/completions", json={**ASKED, "model": "ai/smollm2"}).json
    assert told["choices"][0]["message"]["content"] == "Hello world"
    assert not engine.asked


def test_a_model_that_nobody_has(client: falcon.testing.TestClient, service: FakeService) -> None:
    service.enqueue(ModelNotFound("nowhere"))
    answer = client.simulate_post("/v1/chat/completions", json={**ASKED, "model": "nowhere"})
    assert (answer.status_code, answer.json["error"]["code"]) == (404, "model_not_found")


def test_a_body_that_is_wrong_is_told_by_us(client: falcon.testing.TestClient) -> None:
    assert client.simulate_post("/v1/chat/completions", body="{").json["error"]["code"] == "invalid_json"
    assert client.simulate_post("/v1/chat/completions", body='{"model":7}').status_code == 400


def test_models_of_all_engines_are_listed(client: falcon.testing.TestClient) -> None:
    listed = {model["id"]: model["owned_by"] for model in client.simulate_get("/v1/models").json["data"]}
    assert listed["far/llama"] == "cluster"
    assert "ai/smollm2:latest" in listed
    assert client.simulate_get("/v1/models/far/llama").json["owned_by"] == "cluster"
    own = client.simulate_get("/engines/llama.cpp/v1/models").json["data"]
    assert "far/llama" not in [model["id"] for model in own]


def test_status_tells_of_health(
    client: falcon.testing.TestClient, service: FakeService, engine: LoopbackEngine
) -> None:
    assert client.simulate_get("/engines/status").json["cluster"] == "Running: 1 model"
    engine.status = 500
    connect(service, engine.url, health="/health")
    assert client.simulate_get("/engines/status").json["cluster"].startswith("Error: The engine 'cluster' answers")
    assert client.simulate_post(CHAT, json=ASKED).status_code == 503  # it is known to be ill


def test_where_no_engine_is_set_its_address_is_unknown(client: falcon.testing.TestClient, service: FakeService) -> None:
    service.upstreams = Upstreams()
    assert client.simulate_post(CHAT, json=ASKED).status_code == 404
