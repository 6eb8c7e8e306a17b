"""Clients with fixed model names, in every API: they get another model, and are answered by the name that they used."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import falcon.testing
import pytest
from unit.scripted_peer import scripted_peer
from unit.service_scene import END, Scene, answer

from dmr import client as wire_client
from dmr.config import Alias, Settings
from dmr.service.names import Names
from dmr.store.record_cache import RecordCache
from dmr.wire import EngineStarted, engine_query_decoder
from dmr_server.app import create_app

HELLO = [{"role": "user", "content": "Hi"}]
CALLS = [
    ("/v1/chat/completions", {"messages": HELLO}),
    ("/engines/llama.cpp/v1/chat/completions", {"messages": HELLO}),
    ("/v1/completions", {"prompt": "Hi"}),
    ("/v1/responses", {"input": "Hi"}),
    ("/v1/messages", {"messages": HELLO, "max_tokens": 9}),
    ("/api/chat", {"messages": HELLO, "stream": False}),
    ("/api/generate", {"prompt": "Hi", "stream": False}),
]


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """Its store has the model "ai/x" only."""
    monkeypatch.setattr(wire_client, "TICK", 0.02)
    with scripted_peer(tmp_path / "engine.sock", engine_query_decoder) as engine:
        made = Scene(engine, tmp_path)
        aliases = [Alias("gpt-4o", "ai/x"), Alias("claude-*", "ai/x"), Alias("lost", "ai/missing")]
        made.service.names = Names(RecordCache(made.store), aliases)
        yield made


@pytest.fixture
def client(scene: Scene) -> falcon.testing.TestClient:
    return falcon.testing.TestClient(create_app(scene.service, Settings()))


@pytest.mark.parametrize("name", ["claude-sonnet-4-5-20250929", "gpt-4o", "GPT-4o:latest"])
@pytest.mark.parametrize(("path", "body"), CALLS)
def test_a_request_is_answered_by_the_name_that_it_has(
    path: str, body: dict[str, Any], name: str, client: falcon.testing.TestClient, scene: Scene
) -> None:
    scene.engine.plays(EngineStarted(2), *answer("Hello"), END)
    told = client.simulate_post(path, json={"model": name, **body})
    assert told.status_code == 200, told.text
    assert told.json["model"] == name
    assert "Hello" in json.dumps(told.json)
    assert {asked[0] for asked in scene.manager.asked} == {"ai/x"}


@pytest.mark.parametrize(("path", "body"), CALLS)
def test_an_alias_of_nothing_is_a_model_that_is_not_there(
    path: str, body: dict[str, Any], client: falcon.testing.TestClient
) -> None:
    told = client.simulate_post(path, json={"model": "lost", **body})
    assert told.status_code == 404
    assert "ai/missing" in told.text


def test_lists_for_clients_have_the_exact_ones(client: falcon.testing.TestClient) -> None:
    assert [model["id"] for model in client.simulate_get("/v1/models").json["data"]] == ["gpt-4o"]
    anthropic = client.simulate_get("/v1/models", headers={"anthropic-version": "2023-06-01"})
    assert [model["id"] for model in anthropic.json["data"]] == ["gpt-4o"]
    assert [model["name"] for model in client.simulate_get("/api/tags").json["models"]] == ["gpt-4o:latest"]
    assert client.simulate_get("/models").json == []


@pytest.mark.parametrize("path", ["/v1/models/claude-x", "/models/claude-x"])
def test_a_model_can_be_looked_at_by_its_alias(path: str, client: falcon.testing.TestClient) -> None:
    assert client.simulate_get(path).status_code == 200


def test_nothing_is_deleted_by_an_alias(client: falcon.testing.TestClient, scene: Scene) -> None:
    assert client.simulate_delete("/api/delete", json={"model": "gpt-4o"}).status_code == 404
    assert client.simulate_post("/api/copy", json={"source": "gpt-4o", "destination": "mine"}).status_code == 404
    assert client.simulate_post("/api/push", json={"model": "gpt-4o"}).status_code == 404
    assert scene.manager.asked == []
