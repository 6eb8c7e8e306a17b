"""What GET /engines/requests tells, in every worker the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from wsgiref.util import setup_testing_defaults

import falcon.testing
import pytest
from fakes import FakeService, model_record

from dmr.config import Settings
from dmr.errors import Overloaded
from dmr.types import (
    Completed,
    ConfiguredModel,
    Embeddings,
    Finished,
    FinishReason,
    Mode,
    ModelConfiguration,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallStart,
    Usage,
)
from dmr_server import ending
from dmr_server.app import create_app

MODEL = "sha256:" + "ab" * 32
HELLO = {"model": "ai/smollm2", "messages": [{"role": "user", "content": "Hello!"}]}
CHAT = "/v1/chat/completions"


def workers(service: FakeService, folder: Path, record: str, number: int = 1) -> list[falcon.testing.TestClient]:
    settings = Settings(runtime_dir=folder, record=record)
    return [falcon.testing.TestClient(create_app(cast(Any, service), settings)) for _ in range(number)]


@pytest.fixture
def worker(service: FakeService, tmp_path: Path) -> falcon.testing.TestClient:
    """One that keeps bodies."""
    return workers(service, tmp_path, "bodies")[0]


def records(client: falcon.testing.TestClient, **query: str) -> list[dict[str, Any]]:
    groups = client.simulate_get("/engines/requests", params=query).json
    for group in groups:
        assert group["count"] == len(group["records"])
    return [record for group in groups for record in group["records"]]


def test_without_bodies_nothing_of_them_is_kept(service: FakeService, tmp_path: Path, answer: Any) -> None:
    (client,) = workers(service, tmp_path, "metadata")
    service.enqueue(*answer)
    client.simulate_post(CHAT, json=HELLO, headers={"User-Agent": "curl/8.7.1", "X-Request-Origin": "tests"})
    (group,) = client.simulate_get("/engines/requests").json
    assert group["model"] == MODEL
    (record,) = group["records"]
    assert record.pop("id").startswith(f"{MODEL}_")
    assert record.pop("timestamp") > 1_700_000_000
    assert record.pop("duration_ms") >= 0
    assert record == {
        "model": "ai/smollm2",
        "method": "POST",
        "url": CHAT,
        "status_code": 200,
        "user_agent": "curl/8.7.1",
        "origin": "tests",
        "prompt_tokens": 5,
        "completion_tokens": 2,
    }
    assert not [path for path in tmp_path.iterdir() if b"Hello" in path.read_bytes()]
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_bodies(worker: falcon.testing.TestClient, service: FakeService, answer: Any) -> None:
    service.enqueue(*answer)
    told = worker.simulate_post(CHAT, json=HELLO).text
    (record,) = records(worker)
    assert json.loads(record["request"]) == HELLO
    assert record["response"] == told
    assert "error" not in record


TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
CALLS = (
    Started(5),
    TextDelta(0, "I "),
    TextDelta(0, "look."),
    ToolCallStart(0, 0, "call_1", "weather"),
    ToolCallDelta(0, 0, '{"city":'),
    ToolCallDelta(0, 0, '"Bonn"}'),
    Finished(0, FinishReason.TOOL_CALLS),
    Completed(Usage(5, 3, 7, 0)),
)


def test_a_stream_is_folded_into_the_whole_answer(worker: falcon.testing.TestClient, service: FakeService) -> None:
    service.enqueue(*CALLS)
    worker.simulate_post(CHAT, json={**HELLO, "tools": TOOLS, "stream": True})
    (record,) = records(worker)
    told = json.loads(record["response"])
    assert told["object"] == "chat.completion"
    (choice,) = told["choices"]
    assert choice["message"]["content"] == "I look."
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city":"Bonn"}'}
    assert choice["finish_reason"] == "tool_calls"
    assert record["completion_tokens"] == 7


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/v1/messages", lambda told: told["content"][0]["text"]),
        ("/anthropic/v1/messages", lambda told: told["content"][0]["text"]),
        ("/api/chat", lambda told: told["message"]["content"]),
        ("/v1/responses", lambda told: told["output"][0]["content"][0]["text"]),
    ],
)
def test_streams_of_every_dialect(
    worker: falcon.testing.TestClient, service: FakeService, answer: Any, path: str, text: Any
) -> None:
    service.enqueue(*answer)
    body = {**HELLO, "max_tokens": 9, "stream": True, "input": "Hello!"}
    assert worker.simulate_post(path, json=body).status_code == 200
    (record,) = records(worker)
    assert text(json.loads(record["response"])) == "Hello world"
    assert record["origin"] == {"/v1/messages": "anthropic/messages", "/api/chat": "ollama/completion"}.get(
        path.removeprefix("/anthropic"), "openai/responses"
    )


def test_a_stream_that_fails(worker: falcon.testing.TestClient, service: FakeService) -> None:
    service.enqueue(Started(5), TextDelta(0, "Hel"), Overloaded("too much"))
    worker.simulate_post(CHAT, json={**HELLO, "stream": True})
    (record,) = records(worker)
    assert record["status_code"] == 503
    assert "Hel" in record["error"]
    assert "response" not in record


def test_an_answer_that_is_refused(worker: falcon.testing.TestClient) -> None:
    told = worker.simulate_post(CHAT, json={**HELLO, "messages": "none"})
    (record,) = records(worker)
    assert (record["status_code"], record["error"]) == (400, told.text)


def test_a_refusal_without_bodies_is_a_word(service: FakeService, tmp_path: Path) -> None:
    (client,) = workers(service, tmp_path, "metadata")
    client.simulate_post(CHAT, json={**HELLO, "messages": "none"})
    (record,) = records(client)
    assert (record["status_code"], record["error"]) == (400, "invalid_request")


def test_what_names_no_model_is_not_recorded(worker: falcon.testing.TestClient, service: FakeService) -> None:
    worker.simulate_post("/v1/embeddings", json={"model": "nowhere", "input": "a"})
    worker.simulate_post(CHAT, body="{")
    worker.simulate_post("/tokenize", json={"model": "ai/smollm2", "content": "a"})
    worker.simulate_post(CHAT, json=HELLO, headers={"X-Preload-Only": "true"})
    assert records(worker) == []


def test_long_media_are_cut(worker: falcon.testing.TestClient) -> None:
    image = "data:image/png;base64," + "A" * 500
    parts = [
        {"type": "image_url", "image_url": {"url": image}},
        {"type": "input_audio", "input_audio": {"data": "B" * 500, "format": "wav"}},
        {"type": "text", "text": "C" * 500},
    ]
    worker.simulate_post(CHAT, json={**HELLO, "messages": [{"role": "user", "content": parts}]})
    cut_image, cut_audio, text = json.loads(records(worker)[0]["request"])["messages"][0]["content"]
    assert cut_image["image_url"]["url"] == image[:100] + "...[truncated 422 chars]"
    assert cut_audio["input_audio"]["data"] == "B" * 100 + "...[truncated 400 chars]"
    assert text["text"] == "C" * 500


def test_ten_of_each_model(service: FakeService, tmp_path: Path) -> None:
    (client,) = workers(service, tmp_path, "metadata")
    service.models.append(model_record("docker.io/ai/other:latest", id="sha256:" + "cd" * 32))
    for number in range(12):
        service.replies.append(Embeddings((b"\0\0\0\0",), (number,)))
        client.simulate_post("/v1/embeddings", json={"model": "ai/smollm2", "input": "a"})
    service.replies.append(Embeddings((b"\0\0\0\0",), (1,)))
    client.simulate_post("/v1/embeddings", json={"model": "ai/other", "input": "a"})
    first, second = client.simulate_get("/engines/requests").json
    assert [record.get("prompt_tokens") for record in first["records"]] == list(range(2, 12))
    assert (second["count"], second["model"]) == (1, "sha256:" + "cd" * 32)


@pytest.mark.parametrize("name", ["ai/smollm2", "ai/smollm2:135M-Q4_1", MODEL, "docker.io/ai/smollm2:latest"])
def test_by_any_name(worker: falcon.testing.TestClient, service: FakeService, answer: Any, name: str) -> None:
    service.enqueue(*answer)
    worker.simulate_post(CHAT, json=HELLO)
    assert len(records(worker, model=name)) == 1
    assert records(worker, model="ai/other") == []


def test_the_configuration_of_a_model_stands_beside_its_requests(
    worker: falcon.testing.TestClient, service: FakeService, answer: Any
) -> None:
    service.configurations.entries = [
        ConfiguredModel("ai/smollm2", MODEL, Mode.EMBEDDING, ModelConfiguration(context_size=512)),
        ConfiguredModel("ai/smollm2", MODEL, Mode.COMPLETION, ModelConfiguration(context_size=4096, keep_alive=600.0)),
    ]
    service.enqueue(*answer)
    worker.simulate_post(CHAT, json=HELLO)
    (group,) = worker.simulate_get("/engines/requests").json
    assert group["config"] == {"context-size": 4096, "keep_alive": "10m0s"}


def test_all_workers_tell_the_same(service: FakeService, tmp_path: Path, answer: Any) -> None:
    first, second = workers(service, tmp_path, "metadata", 2)
    for client in (first, second, second):
        service.enqueue(*answer)
        client.simulate_post(CHAT, json=HELLO)
        records(client)  # what was written is there for the other
    assert records(first) == records(second)
    assert len(records(first)) == 3


def test_what_is_kept_can_be_dropped(service: FakeService, tmp_path: Path, answer: Any) -> None:
    first, second = workers(service, tmp_path, "metadata", 2)
    service.enqueue(*answer)
    first.simulate_post(CHAT, json=HELLO)
    assert first.simulate_delete("/engines/requests", params={"model": "ai/other"}).json == {"dropped": 0}
    assert first.simulate_delete("/engines/requests", params={"model": "ai/smollm2"}).json == {"dropped": 1}
    assert records(second) == []
    assert second.simulate_delete("/engines/requests").json == {"dropped": 0}


def test_off(service: FakeService, tmp_path: Path, answer: Any) -> None:
    (client,) = workers(service, tmp_path, "off")
    service.enqueue(*answer)
    client.simulate_post(CHAT, json=HELLO)
    told = client.simulate_get("/engines/requests")
    assert (told.status_code, "DMR_RECORD" in told.text) == (501, True)


def follow(client: falcon.testing.TestClient, query: str = "") -> Iterator[bytes]:
    environ: dict[str, Any] = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/engines/requests",
        "QUERY_STRING": query,
        "HTTP_ACCEPT": "text/event-stream",
    }
    setup_testing_defaults(environ)
    return iter(client.app(environ, lambda status, headers: None))


def events(data: bytes) -> list[tuple[str, Any]]:
    found = [event.split("\n") for event in data.decode().strip().split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(value.removeprefix("data: "))) for name, value in found]


def test_a_stream_of_what_ends(
    service: FakeService, tmp_path: Path, answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = workers(service, tmp_path, "metadata", 2)
    service.enqueue(*answer)
    first.simulate_post(CHAT, json=HELLO)
    pieces = follow(first, "include_existing=true&model=ai%2Fsmollm2")
    (name, (existing,)), connected = events(next(pieces))
    assert (name, existing["count"], connected) == ("existing_request", 1, ("connected", {"status": "connected"}))
    service.enqueue(*answer)
    second.simulate_post(CHAT, json={**HELLO, "model": MODEL})
    records(second)
    ((name, (told,)),) = events(next(pieces))
    assert (name, told["model"], told["records"][0]["model"]) == ("new_request", MODEL, MODEL)
    monkeypatch.setattr(ending, "_begun", True)
    assert list(pieces) == []


def test_a_stream_of_new_ones_only(service: FakeService, tmp_path: Path, answer: Any) -> None:
    (client,) = workers(service, tmp_path, "metadata")
    service.enqueue(*answer)
    client.simulate_post(CHAT, json=HELLO)
    assert events(next(follow(client))) == [("connected", {"status": "connected"})]


def test_a_wrong_word_for_true(worker: falcon.testing.TestClient) -> None:
    told = worker.simulate_get(
        "/engines/requests", params={"include_existing": "maybe"}, headers={"Accept": "text/event-stream"}
    )
    assert (told.status_code, 'include_existing parameter: "maybe"' in told.text) == (400, True)
