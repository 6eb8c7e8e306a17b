"""Models, embeddings, and what a client asks before all else."""

from __future__ import annotations

import json
import struct
from typing import Any

import falcon.testing
import msgspec
import pytest
from fakes import FakeService, model_record
from ollama import EmbeddingsResponse, EmbedResponse, ListResponse, ProcessResponse, ShowResponse

from dmr.errors import Conflict, ContextLengthExceeded, InvalidReference
from dmr.types import (
    Embeddings,
    EmbedRequest,
    Message,
    ModelConfig,
    ModelDefaults,
    ModelRecord,
    Role,
    RunningModel,
    TextPart,
    Timings,
)

Client = falcon.testing.TestClient
JSON = "application/json; charset=utf-8"
NOW = 1700000000
DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "llama",
    "families": ["llama"],
    "parameter_size": "134.52M",
    "quantization_level": "Q4_1",
}


def rich_record() -> ModelRecord:
    gguf = {
        "general.architecture": "llama",
        "general.name": "Rich",
        "general.version": "2",
        "general.languages": "en, fr",
        "llama.context_length": "8192",
        "llama.embedding_length": "576",
        "llama.rope.freq_base": "100000.000000",
        "llama.sections": "1, 2, 3",
        "tokenizer.ggml.add_bos_token": "false",
        "tokenizer.chat_template": "{% for message in messages %}{% endfor %}",
    }
    config = ModelConfig("gguf", "Q4_K_M", "1.24B", "llama", "808MB", gguf)
    defaults = ModelDefaults(
        system="Be brief.",
        messages=(Message(Role.USER, (TextPart("Hi"),)),),
        parameters={"stop": ["foo", "bar"], "top_p": 0.9, "seed": 42, "max_tokens": 7, "context_size": 2048},
    )
    return ModelRecord("sha256:" + "cd" * 32, ("docker.io/me/rich:v1",), NOW, config, 808, defaults, ("MIT", "more"))


def running(**fields: Any) -> RunningModel:
    values = {
        "id": "sha256:" + "ab" * 32,
        "reference": "ai/smollm2",
        "state": "ready",
        "num_active": 0,
        "loaded_at": NOW - 60,
        "last_used": NOW - 10,
        "keep_alive": 300.0,
        "pid": 1,
        "context_size": 4096,
        "size": 99,
    }
    return RunningModel(**{**values, **fields})


# --- what is there ---------------------------------------------------------------------------------------------------


def test_tags(client: Client, service: FakeService) -> None:
    hub = model_record("huggingface.co/me/it-gguf:Q4_K_M", id="sha256:" + "ef" * 32)
    service.models += [msgspec.structs.replace(hub, created=1800000000, size=7), model_record(id="sha256:" + "01" * 32)]
    result = client.simulate_get("/api/tags")
    assert result.headers["content-type"] == JSON
    models = result.json["models"]
    assert models[0] == {
        "name": "hf.co/me/it-gguf:Q4_K_M",
        "model": "hf.co/me/it-gguf:Q4_K_M",
        "modified_at": "2027-01-15T08:00:00Z",
        "size": 7,
        "digest": "ef" * 32,
        "details": DETAILS,
        "capabilities": list(service.features),
    }
    names = [model["name"] for model in models[1:]]
    assert names == ["ai/smollm2:latest", "ai/smollm2:135M-Q4_1", "sha256:" + "01" * 32]
    assert len(ListResponse.model_validate(result.json).models) == 4


def test_no_models(client: Client, service: FakeService) -> None:
    service.models.clear()
    assert client.simulate_get("/api/tags").text == '{"models":[]}'
    assert client.simulate_get("/api/ps").text == '{"models":[]}'


def test_ps(client: Client, service: FakeService) -> None:
    service.running = [
        running(),
        running(reference="ai/smollm2:135M-Q4_1", keep_alive=-1.0),
        running(reference="smollm2", num_active=1),
        running(id="sha256:" + "99" * 32, reference="gone", keep_alive=1.0),
    ]
    result = client.simulate_get("/api/ps")
    told = [(model["name"], model["expires_at"]) for model in result.json["models"]]
    assert told == [
        ("ai/smollm2:135M-Q4_1", "2315-09-05T22:13:10Z"),
        ("ai/smollm2:latest", "2023-11-14T22:18:20Z"),
        ("ai/smollm2:latest", "2023-11-14T22:18:10Z"),
        ("gone", "2023-11-14T22:13:11Z"),
    ]
    assert result.json["models"][2] == {
        "name": "ai/smollm2:latest",
        "model": "ai/smollm2:latest",
        "size": 99,
        "digest": "ab" * 32,
        "details": DETAILS,
        "expires_at": "2023-11-14T22:18:10Z",
        "size_vram": 0,
        "context_length": 4096,
    }
    assert len(ProcessResponse.model_validate(result.json).models) == 4


def test_show(client: Client, service: FakeService) -> None:
    service.models.append(rich_record())
    result = client.simulate_post("/api/show", json={"name": "me/rich:v1"})
    shown = result.json
    assert list(shown["parameters"].split("\n")) == [
        "num_ctx                        2048",
        "num_predict                    7",
        "seed                           42",
        'stop                           "foo"',
        'stop                           "bar"',
        "top_p                          0.9",
    ]
    assert shown["modelfile"].split("\n")[1:] == [
        "FROM me/rich:v1",
        'TEMPLATE """{% for message in messages %}{% endfor %}"""',
        'SYSTEM """Be brief."""',
        "PARAMETER num_ctx 2048",
        "PARAMETER num_predict 7",
        "PARAMETER seed 42",
        'PARAMETER stop "foo"',
        'PARAMETER stop "bar"',
        "PARAMETER top_p 0.9",
        'MESSAGE user """Hi"""',
        'LICENSE """MIT"""',
        'LICENSE """more"""',
        "",
    ]
    assert shown["model_info"] == {
        "general.architecture": "llama",
        "general.version": "2",
        "general.languages": None,
        "llama.context_length": 8192,
        "llama.embedding_length": 576,
        "llama.rope.freq_base": 100000.0,
        "llama.sections": None,
        "tokenizer.ggml.add_bos_token": False,
        "general.parameter_count": 1_240_000_000,
    }
    assert shown["details"]["context_length"] == 8192
    assert (shown["license"], shown["system"], shown["modified_at"]) == (
        "MIT\nmore",
        "Be brief.",
        "2023-11-14T22:13:20Z",
    )
    assert shown["messages"] == [{"role": "user", "content": "Hi"}]
    assert shown["capabilities"] == list(service.features)
    assert ShowResponse.model_validate(shown).template == "{% for message in messages %}{% endfor %}"


def test_show_verbose_and_overlaid(client: Client, service: FakeService) -> None:
    service.models.append(rich_record())
    body = {"model": "me/rich:v1", "verbose": True, "system": "Sing.", "template": "T", "options": {"seed": 1}}
    shown = client.simulate_post("/api/show", json=body).json
    assert (shown["model_info"]["general.languages"], shown["model_info"]["llama.sections"]) == (
        ["en", "fr"],
        [1, 2, 3],
    )
    assert (shown["system"], shown["template"]) == ("Sing.", "T")
    assert "PARAMETER seed 1\n" in shown["modelfile"]


def test_show_of_a_plain_model(client: Client) -> None:
    shown = client.simulate_post("/api/show", json={"model": "ai/smollm2"}).json
    assert not {"license", "system", "parameters", "template", "messages"} & set(shown)
    assert shown["details"] == DETAILS


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_show_is_posted(client: Client, method: str) -> None:
    result = client.simulate_request(method, "/api/show")
    assert (result.status_code, set(result.json)) == (405, {"error"})
    assert "POST" in result.headers["allow"]


# --- copy and delete -------------------------------------------------------------------------------------------------


def test_copy(client: Client, service: FakeService) -> None:
    result = client.simulate_post("/api/copy", json={"source": "ai/smollm2", "destination": "mine"})
    assert (result.status_code, result.content) == (200, b"")
    assert service.copied == [("ai/smollm2", "mine")]


def test_copy_of_nothing(client: Client) -> None:
    result = client.simulate_post("/api/copy", json={"source": "x", "destination": "mine"})
    assert (result.status_code, result.json) == (404, {"error": "model 'x' not found"})


@pytest.mark.parametrize(
    ("method", "text"), [("get_stored_model", 'source "a" is invalid'), ("copy_model", 'destination "b" is invalid')]
)
def test_names_that_cannot_be(client: Client, service: FakeService, monkeypatch: Any, method: str, text: str) -> None:
    service.models.append(model_record("docker.io/a:latest"))

    def fail(*_: str) -> None:
        raise InvalidReference("bad")

    monkeypatch.setattr(service, method, fail)
    result = client.simulate_post("/api/copy", json={"source": "a", "destination": "b"})
    assert (result.status_code, result.json) == (400, {"error": text})


def delete(client: Client, **body: str) -> falcon.testing.Result:
    return client.simulate_delete("/api/delete", json=body)


def test_delete_one_of_two_names(client: Client, service: FakeService) -> None:
    result = delete(client, model="ai/smollm2")
    assert (result.status_code, result.content) == (200, b"")
    assert (service.removed, service.unloaded) == ([("ai/smollm2", False)], [])


def test_the_last_name_unloads_too(client: Client, service: FakeService) -> None:
    service.models.append(rich_record())
    assert delete(client, name="me/rich:v1").status_code == 200
    assert (service.removed, service.unloaded) == ([("me/rich:v1", False)], [["me/rich:v1"]])


def test_a_busy_model_is_deleted_too(client: Client, service: FakeService, monkeypatch: Any) -> None:
    def busy(references: list[str]) -> int:
        raise Conflict("in use")

    service.models.append(rich_record())
    monkeypatch.setattr(service, "unload_models", busy)
    assert delete(client, name="me/rich:v1").status_code == 200
    assert service.removed == [("me/rich:v1", False)]


def test_delete_nothing(client: Client) -> None:
    assert (delete(client, model="x").status_code, delete(client, model="x").json) == (
        404,
        {"error": "model 'x' not found"},
    )
    assert delete(client).json == {"error": "model is required"}


# --- embeddings ------------------------------------------------------------------------------------------------------

VECTOR = struct.pack("<2f", 0.5, -0.25)


def test_embed(client: Client, service: FakeService) -> None:
    service.replies.append(Embeddings((VECTOR, VECTOR), (3, 4), Timings(load=1.0)))
    body = {"model": "ai/smollm2", "input": ["a", "b"], "dimensions": 2, "keep_alive": "1m", "options": {"num_ctx": 64}}
    result = client.simulate_post("/api/embed", json=body)
    assert result.headers["content-type"] == JSON
    assert result.text == (
        '{"model":"ai/smollm2","embeddings":[[0.5,-0.25],[0.5,-0.25]],'
        '"total_duration":1,"load_duration":1000000000,"prompt_eval_count":7}'
    )
    assert service.calls == [
        EmbedRequest(
            "ai/smollm2", ("a", "b"), dimensions=2, truncate=True, context_size=64, keep_alive=60, client="127.0.0.1"
        )
    ]
    EmbedResponse.model_validate(result.json)


def test_legacy_embeddings(client: Client, service: FakeService) -> None:
    service.replies.append(Embeddings((VECTOR,), (3,)))
    result = client.simulate_post("/api/embeddings", json={"model": "ai/smollm2", "prompt": "a"})
    assert result.text == '{"embedding":[0.5,-0.25]}'
    assert service.calls == [EmbedRequest("ai/smollm2", ("a",), normalize=False, client="127.0.0.1")]
    EmbeddingsResponse.model_validate(result.json)


@pytest.mark.parametrize("body", [{}, {"input": None}, {"input": ""}, {"input": []}])
def test_no_input_loads(client: Client, service: FakeService, body: dict[str, Any]) -> None:
    result = client.simulate_post("/api/embed", json={"model": "ai/smollm2", **body})
    assert result.json == {"model": "ai/smollm2", "embeddings": []}
    assert client.simulate_post("/api/embeddings", json={"model": "ai/smollm2"}).json == {"embedding": []}
    assert (service.preloaded, service.calls) == (["ai/smollm2"] * 2, [])


def test_an_empty_text_in_a_list_is_a_text(client: Client, service: FakeService) -> None:
    service.replies.append(Embeddings((VECTOR,), (1,)))
    assert len(client.simulate_post("/api/embed", json={"model": "ai/smollm2", "input": [""]}).json["embeddings"]) == 1


@pytest.mark.parametrize(
    ("path", "body", "part"),
    [
        ("embed", {"input": [1, 2]}, "invalid input type"),
        ("embed", {"input": [["a"]]}, "invalid input type"),
        ("embed", {"input": 5}, "invalid input type"),
        ("embed", {"input": "a", "dimensions": -1}, "'dimensions'"),
        ("embed", {"input": "a", "truncate": "no"}, "'truncate'"),
        ("embed", {"input": "a", "options": {"num_ctx": "x"}}, 'option "num_ctx"'),
        ("embeddings", {"prompt": ["a"]}, "'prompt'"),
    ],
)
def test_wrong_embeds(client: Client, path: str, body: dict[str, Any], part: str) -> None:
    result = client.simulate_post(f"/api/{path}", json={"model": "ai/smollm2", **body})
    assert result.status_code == 400
    assert part in result.json["error"]


def test_too_long_and_not_a_number(client: Client, service: FakeService) -> None:
    service.replies.append(ContextLengthExceeded(30, 16))
    service.replies.append(Embeddings((struct.pack("<f", float("nan")),), (1,)))
    told = [client.simulate_post("/api/embed", json={"model": "ai/smollm2", "input": "a"}) for _ in range(2)]
    assert [each.status_code for each in told] == [400, 400]
    assert told[0].json["error"].startswith("the input length exceeds the context length (30 tokens")
    assert told[1].json == {"error": "embedding contains NaN or Inf values"}


# --- before all else -------------------------------------------------------------------------------------------------


def test_version(client: Client) -> None:
    result = client.simulate_get("/api/version")
    assert result.headers["content-type"] == JSON
    assert result.text == '{"version":"0.33.0","dmr":"0.1.0"}'


def test_status(client: Client) -> None:
    assert client.simulate_get("/api/status").json == {"cloud": {"disabled": True, "source": "config"}}


@pytest.mark.parametrize("path", ["/", "/api/version", "/api/tags", "/api/ps", "/api/status"])
def test_clients_look_whether_a_server_is_there(client: Client, path: str) -> None:
    result = client.simulate_head(path)
    assert (result.status_code, result.content) == (200, b"")


@pytest.mark.parametrize("path", ["/api/nope", "/api/me", "/api", "/api/rerank"])
def test_unknown_addresses(client: Client, path: str) -> None:
    result = client.simulate_get(path)
    assert (result.status_code, set(result.json)) == (404, {"error"})


@pytest.mark.parametrize("path", ["generate", "chat", "embed", "embeddings", "show", "copy"])
@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"null"])
def test_bodies_that_are_none(client: Client, path: str, body: bytes) -> None:
    result = client.simulate_post(f"/api/{path}", body=body)
    assert (result.status_code, set(result.json)) == (400, {"error"})


def test_preload_only(client: Client, service: FakeService) -> None:
    headers = {"X-Preload-Only": "true"}
    body = {"model": "ai/smollm2", "messages": [{"role": "user", "content": "Hi"}]}
    result = client.simulate_post("/api/chat", body=json.dumps(body), headers=headers)
    assert (result.status_code, result.content, service.preloaded) == (200, b"", ["ai/smollm2"])
