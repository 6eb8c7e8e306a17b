"""The management routes, in upstream's words and shapes."""

from __future__ import annotations

from typing import Any

import falcon.testing
import pytest
from fakes import FakeService, model_record

from dmr.errors import Conflict, InvalidModelFile, StoreError
from dmr.types import RunningModel
from dmr_server.docker import go_duration

ID = "sha256:" + "ab" * 32
TAGS = ["docker.io/ai/smollm2:latest", "docker.io/ai/smollm2:135M-Q4_1"]
SHOWN = {
    "id": ID,
    "tags": TAGS,
    "created": 1742905342,
    "config": {
        "format": "gguf",
        "quantization": "Q4_1",
        "parameters": "134.52M",
        "architecture": "llama",
        "size": "91.73MiB",
        "gguf": {"general.architecture": "llama"},
        "context_size": 8192,
    },
}


def test_models(client: falcon.testing.TestClient, service: FakeService) -> None:
    assert client.simulate_get("/models").json == [SHOWN]
    assert client.simulate_get("/models/ai/smollm2").json == {**SHOWN, "capabilities": list(service.features)}
    service.models = [model_record()]
    assert "tags" not in client.simulate_get("/models").json[0]
    service.models = []
    assert client.simulate_get("/models").text == "[]"


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "/models/nope", 404, "error while getting model: model not found\n"),
        ("DELETE", "/models/nope", 404, "error while deleting model: model not found\n"),
        ("POST", "/models/ai/smollm2/dance", 404, 'unknown action "dance"\n'),
        ("POST", "/models/import", 400, "error while importing model: missing reference query parameter\n"),
        ("PATCH", "/models/nope", 405, "Method Not Allowed\n"),
    ],
)
def test_errors_are_lines_of_text(
    client: falcon.testing.TestClient, method: str, path: str, status: int, text: str
) -> None:
    result = client.simulate_request(method, path)
    assert (result.status_code, result.text) == (status, text)
    assert result.headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("query", "force"),
    [
        ("", False),
        ("force", True),
        ("force=", True),
        ("force=1", True),
        ("force=true", True),
        ("force=0", False),
        ("force=yes", False),
    ],
)
def test_delete(client: falcon.testing.TestClient, service: FakeService, query: str, force: bool) -> None:
    result = client.simulate_delete("/models/ai/smollm2", query_string=query)
    assert result.json == [{"Untagged": TAGS[0]}, {"Untagged": TAGS[1]}, {"Deleted": ID}]
    assert service.removed == [("ai/smollm2", force)]


def test_delete_conflict(client: falcon.testing.TestClient, service: FakeService) -> None:
    service.failure = Conflict(
        'unable to delete "x" (must be forced) due to multiple tag references: resource conflict'
    )
    result = client.simulate_delete("/models/ai/smollm2")
    assert result.status_code == 409
    assert result.text == f"error while deleting model: {service.failure}\n"


def test_a_remote_model_is_read_from_its_registry(client: falcon.testing.TestClient, service: FakeService) -> None:
    service.remote_models.records["ai/elsewhere"] = model_record(id="sha256:" + "cd" * 32)
    result = client.simulate_get("/models/ai/elsewhere", query_string="remote")
    assert (result.json["id"], "tags" in result.json) == ("sha256:" + "cd" * 32, False)
    assert client.simulate_get("/models/ai/elsewhere", query_string="remote=no").status_code == 404
    result = client.simulate_get("/models/ai/smollm2", query_string="remote=true")
    assert (result.status_code, result.text) == (404, "error while getting model: model not found\n")


def test_import(client: falcon.testing.TestClient, service: FakeService) -> None:
    content = b"GGUF" + bytes(3_000_000)
    result = client.simulate_post("/models/import", query_string="reference=me/mine:1", body=content)
    assert (result.status_code, result.json["tags"]) == (201, ["docker.io/me/mine:1"])
    assert service.imported == {"me/mine:1": (content, len(content))}


def test_import_that_ends_early(client: falcon.testing.TestClient, service: FakeService) -> None:
    result = client.simulate_post(
        "/models/import", query_string="reference=a", body=b"GGUF", headers={"content-length": "10"}
    )
    assert result.status_code == 400
    assert "ended after 4 of 10 bytes" in result.text
    assert service.imported == {}


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [({"content-encoding": "gzip"}, b"x", 415), ({"content-type": "multipart/form-data"}, b"x", 415), ({}, b"", 400)],
)
def test_import_of_something_else(
    client: falcon.testing.TestClient, headers: dict[str, str], body: bytes, status: int
) -> None:
    result = client.simulate_post("/models/import", query_string="reference=a", body=body, headers=headers)
    assert result.status_code == status


def test_import_of_a_bad_file(client: falcon.testing.TestClient, service: FakeService) -> None:
    service.failure = InvalidModelFile("not a GGUF file")
    result = client.simulate_post("/models/import", query_string="reference=a", body=b"junk")
    assert (result.status_code, result.text) == (400, "error while importing model: not a GGUF file\n")


def running(**changes: Any) -> RunningModel:
    sound: dict[str, Any] = {
        "id": ID,
        "reference": "ai/smollm2",
        "state": "ready",
        "num_active": 0,
        "loaded_at": 1.0,
        "last_used": 1753178400.0,
        "keep_alive": 300.0,
        "pid": 5,
    }
    return RunningModel(**{**sound, **changes})


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (running(), {"last_used": "2025-07-22T10:00:00Z", "keep_alive": "5m0s"}),
        (running(last_used=1753178400.25), {"last_used": "2025-07-22T10:00:00.250000Z", "keep_alive": "5m0s"}),
        (running(num_active=2), {"last_used": "0001-01-01T00:00:00Z", "in_use": True, "keep_alive": "5m0s"}),
        (
            running(state="loading", keep_alive=-1.0),
            {"last_used": "0001-01-01T00:00:00Z", "loading": True, "keep_alive": "-1"},
        ),
        (
            running(state="loading", progress=0.4213),
            {"last_used": "0001-01-01T00:00:00Z", "loading": True, "keep_alive": "5m0s", "loading_progress": 0.42},
        ),
    ],
)
def test_ps(
    client: falcon.testing.TestClient, service: FakeService, model: RunningModel, expected: dict[str, Any]
) -> None:
    assert client.simulate_get("/engines/ps").text == "[]"
    service.running = [model]
    always = {"backend_name": "llama.cpp", "model_name": "ai/smollm2", "mode": "completion"}
    assert client.simulate_get("/engines/ps").json == [{**always, **expected}]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.5, "500ms"),
        (1.5, "1.5s"),
        (59, "59s"),
        (600, "10m0s"),
        (5400, "1h30m0s"),
        (90061, "25h1m1s"),
        (-7, "-1"),
    ],
)
def test_go_duration(seconds: float, text: str) -> None:
    assert go_duration(seconds) == text


@pytest.mark.parametrize(
    ("body", "count", "asked"),
    [
        ({"all": True}, 1, [None]),
        ({"models": ["ai/smollm2"]}, 1, [["ai/smollm2"]]),
        ({"models": ["nope", "ai/smollm2"]}, 1, [["ai/smollm2"]]),
        ({"all": False, "models": None}, 0, []),
        ({"all": True, "backend": "vllm"}, 0, []),
        ({"all": True, "backend": "llama.cpp"}, 1, [None]),
        ({}, 0, []),
    ],
)
def test_unload(client: falcon.testing.TestClient, service: FakeService, body: Any, count: int, asked: Any) -> None:
    service.running = [running()]
    assert client.simulate_post("/engines/unload", json=body).json == {"unloaded_runners": count}
    assert service.unloaded == asked


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"all":"yes"}', b'{"models":"a"}'])
def test_unload_of_nonsense(client: falcon.testing.TestClient, body: bytes) -> None:
    result = client.simulate_post("/engines/unload", body=body)
    assert result.status_code == 400
    assert result.text.startswith("invalid request")


def test_disk_usage(client: falcon.testing.TestClient, service: FakeService) -> None:
    assert client.simulate_get("/engines/df").json == {
        "models_disk_usage": 270590880,
        "default_backend_disk_usage": 0,
        "incomplete_disk_usage": 300,
        "reclaimable_disk_usage": 580,
    }
    service.failure = StoreError("disk on fire")
    result = client.simulate_get("/engines/df")
    assert (result.status_code, result.text) == (500, "Failed to get models disk usage: disk on fire\n")


def test_status_version_root(client: falcon.testing.TestClient) -> None:
    assert client.simulate_get("/engines/status").json == {"llama.cpp": "Running: llama.cpp 0c1e570"}
    assert client.simulate_get("/version").json["version"] == "0.1.0"
    assert client.simulate_get("/").text == "Docker Model Runner is running"


def test_probes(client: falcon.testing.TestClient, service: FakeService) -> None:
    assert client.simulate_get("/health").json == {"status": "ok"}
    assert client.simulate_get("/ready").status_code == 200
    service.ready = False
    assert client.simulate_get("/health").status_code == 200
    result = client.simulate_get("/ready")
    assert (result.status_code, result.headers["retry-after"]) == (503, "1")
