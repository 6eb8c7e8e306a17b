"""A model of a hub on loopback: pulled by a running server in two dialects, used by its name, and pushed back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e.conftest import Server
from loopback_hub import LoopbackHub
from loopback_registry import running
from tiny_models import SCRIPT_ANSWER, model_file

NAME = "hf.co/Org/Tiny-GGUF:Q8_0@v1"


@pytest.fixture
def hub(tiny_folder: Path) -> Iterator[LoopbackHub]:
    with running(LoopbackHub()) as server:
        weights = model_file("tiny-script", tiny_folder).read_bytes()
        server.branches["v1"] = {"tiny-Q8_0.gguf": weights, "tiny-Q2_K.gguf": b"other", "LICENSE": b"You may."}
        server.token = "hf_secret"
        yield server


@pytest.fixture
def server(tmp_path: Path, hub: LoopbackHub) -> Iterator[Server]:
    (tmp_path / "server").mkdir()
    started = Server(tmp_path / "server", HOME=str(tmp_path), HF_ENDPOINT=f"http://{hub.host}", HF_TOKEN="")
    yield started
    started.stop()


def lines(response: Any) -> list[dict[str, Any]]:
    assert response.status == 200, response.data
    return [json.loads(line) for line in response.data.splitlines()]


def test_a_model_of_the_hub_is_pulled_used_and_pushed_back(server: Server, hub: LoopbackHub) -> None:
    refused = lines(server.post("/models/create", {"from": NAME}, Accept="application/json"))[-1]
    assert refused["type"] == "error"
    assert "set HF_TOKEN to a token for it" in refused["message"]

    wish = {"from": NAME, "bearer-token": "hf_secret"}
    steps = lines(server.post("/models/create", wish, Accept="application/json"))
    messages = [step["message"] for step in steps if not step["layer"].get("id")]
    assert messages == [
        "Fetching file list...",
        "Selected Q8_0 quantization",
        "Found 2 files (0.37 MB total)",
        "Building model artifact...",
        "Model pulled successfully",
    ]
    again = lines(server.post("/models/create", wish, Accept="application/json"))
    assert again[-1]["message"].startswith("Using cached model")

    assert server.chat(NAME)["choices"][0]["message"]["content"] == SCRIPT_ANSWER
    assert server.chat("huggingface.co/org/tiny-gguf:Q8_0--v1")["choices"][0]["finish_reason"] == "stop"
    assert server.get(f"/models/{NAME}").json()["tags"] == ["huggingface.co/org/tiny-gguf:Q8_0--v1"]

    pushed = lines(server.post(f"/models/{NAME}/push", {"bearer-token": "hf_secret"}, Accept="application/json"))
    assert pushed[-1]["message"] == "Model pushed successfully"
    assert hub.branches["v1"]["Tiny-Q8_0.gguf"] == hub.branches["v1"]["tiny-Q8_0.gguf"]


def test_another_dialect_tells_the_same(server: Server, hub: LoopbackHub) -> None:
    hub.token = ""
    statuses = [line.get("status") for line in lines(server.post("/api/pull", {"model": NAME}))]
    assert statuses[-1] == "success"
    missing = server.post("/api/pull", {"model": "hf.co/Org/Tiny-GGUF:Q4_K_M@v1", "stream": False})
    assert missing.status >= 400
    assert "no Q4_K_M; it has: Q2_K, Q8_0" in missing.json()["error"]
