"""Models that travel: pulled and pushed by a running server, told in two dialects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e.conftest import Server
from loopback_registry import LoopbackRegistry, running
from tiny_models import SCRIPT_ANSWER, model_file
from transfer_models import NOBODY

from dmr.store.store import ModelStore
from dmr.store.transfers import push


@pytest.fixture
def registry() -> Iterator[LoopbackRegistry]:
    with running(LoopbackRegistry()) as server:
        yield server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """One that has no models."""
    (tmp_path / "server").mkdir()
    started = Server(tmp_path / "server", HOME=str(tmp_path))
    yield started
    started.stop()


@pytest.fixture
def name(registry: LoopbackRegistry, tmp_path: Path, tiny_folder: Path) -> str:
    """A model of the registry that can be run."""
    store, name = ModelStore(tmp_path / "source"), f"{registry.host}/test/tiny:v1"
    store.import_gguf(model_file("tiny-script", tiny_folder), name)
    push(store, name, name, NOBODY, lambda _: None)
    return name


def lines(response: Any) -> list[Any]:
    assert response.status == 200, response.data
    return [json.loads(line) for line in response.data.splitlines()]


def test_a_model_comes_and_goes_and_is_there_without_its_registry(
    server: Server, registry: LoopbackRegistry, name: str
) -> None:
    assert server.get(f"/models/{name}").status == 404
    told = server.get(f"/models/{name}?remote").json()
    assert "tags" not in told

    *steps, last = lines(server.post("/models/create", {"from": name}, Accept="application/json"))
    done = {"total": 0, "layer": {"size": 0, "current": 0}, "mode": "pull"}
    assert last == {"type": "success", "message": "Model pulled successfully", **done}
    total = sum(map(len, registry.blobs.values()))
    assert {step["layer"]["id"]: step["layer"]["current"] for step in steps} == {
        digest: len(data) for digest, data in registry.blobs.items()
    }
    assert all(step["total"] == total and step["message"].startswith("Downloaded: ") for step in steps)
    model = server.get(f"/models/{name}").json()
    assert (model["id"], model["config"], model["tags"]) == (told["id"], told["config"], [name])
    assert server.chat(name)["choices"][0]["message"]["content"] == SCRIPT_ANSWER

    cached = {"type": "success", "message": f"Using cached model: {model['config']['size']}", **done}
    assert lines(server.post("/models/create", {"from": name})) == [cached]

    pushed = f"{registry.host}/test/copy"
    assert server.post(f"/models/{name}/tag?repo={pushed}&tag=v2", b"").status == 201
    *_, last = lines(server.post(f"/models/{pushed}:v2/push", b""))
    assert last == {"type": "success", "message": "Model pushed successfully", **done, "mode": "push"}
    assert registry.manifests["test/copy:v2"][0] == registry.manifests["test/tiny:v1"][0]

    registry.close()
    warning, last = lines(server.post("/models/create", {"from": name}))
    assert (warning["type"], last) == ("warning", cached)


def test_the_same_in_the_other_dialects_words(server: Server, registry: LoopbackRegistry, name: str) -> None:
    told = lines(server.post("/api/pull", {"model": name}))
    statuses = list(dict.fromkeys(line["status"] for line in told))
    assert statuses[0] == "pulling manifest"
    assert statuses[-3:] == ["verifying sha256 digest", "writing manifest", "success"]
    layers = {line["digest"]: line for line in told if "digest" in line}
    assert layers == {
        digest: {"status": f"pulling {digest[7:19]}", "digest": digest, "total": len(data), "completed": len(data)}
        for digest, data in registry.blobs.items()
    }
    assert lines(server.post("/api/pull", {"model": name, "stream": False})) == [{"status": "success"}]
    statuses = [line["status"] for line in lines(server.post("/api/push", {"model": name}))]
    assert (statuses[0], statuses[-2:]) == ("retrieving manifest", ["pushing manifest", "success"])
    answer = server.post("/api/pull", {"model": f"{name}x", "stream": False})
    assert (answer.status, answer.json()["error"][:48]) == (404, "pull model manifest: file does not exist: 127.0.")
