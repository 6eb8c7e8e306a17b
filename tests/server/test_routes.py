"""Every address: what it answers, and what wrong addresses and methods get."""

from __future__ import annotations

from typing import Any, cast

import falcon.testing
import pytest
from fakes import FakeService, model_record

from dmr.config import Settings
from dmr.errors import Conflict, StoreError
from dmr_server import docker
from dmr_server.app import create_app
from dmr_server.generation import Stamps
from dmr_server.openai import resources as openai
from dmr_server.openai.missing import NotServed, StoredChat
from dmr_server.openai.resources import ROOTS as TEMPLATES

CHAT = {"model": "ai/smollm2", "messages": [{"role": "user", "content": "Hi"}]}
ROOTS = [root.replace("{backend}", "llama.cpp") for root in TEMPLATES]


def test_dockers_own_routes(service: FakeService) -> None:
    assert sorted(docker.routes(cast(Any, service), Settings())) == [
        "/",
        "/engines/df",
        "/engines/ps",
        "/engines/unload",
        "/health",
        "/models",
        "/models/{name:model}",
        "/ready",
        "/version",
    ]


EVERYWHERE = [
    "/apply-template",
    "/chat/completions",
    "/chat/completions/input_tokens",
    "/completions",
    "/detokenize",
    "/embeddings",
    "/infill",
    "/rerank",
    "/reranking",
    "/score",
    "/tokenize",
]


def test_openais_routes_under_every_root(service: FakeService) -> None:
    table = openai.routes(cast(Any, service), Settings(), Stamps())
    assert [path for path in sorted(table) if path.count("/") == 1 or path.startswith("/chat")] == EVERYWHERE
    for root in TEMPLATES:
        found = sorted(
            path.removeprefix(root)
            for path, resource in table.items()
            if path.startswith(f"{root}/") and not isinstance(resource, (NotServed, StoredChat))
        )
        assert found == sorted([*EVERYWHERE, "/audio/transcriptions", "/models", "/models/{name:model}"])
    for root in ("/engines", "/engines/{backend}"):
        assert {f"{root}/rerank", f"{root}/reranking", f"{root}/score"} <= table.keys()


GET = [
    "/",
    "/health",
    "/ready",
    "/version",
    "/models",
    "/models/ai/smollm2",
    "/engines/df",
    "/engines/ps",
    "/engines/status",
    "/v1/models",
    "/v1/models/ai/smollm2",
    "/engines/v1/models",
    "/engines/llama.cpp/v1/models/ai/smollm2",
]


@pytest.mark.parametrize("path", GET)
def test_head_answers_where_get_does(client: falcon.testing.TestClient, path: str) -> None:
    get, head = client.simulate_get(path), client.simulate_head(path)
    assert (get.status_code, head.status_code, head.content) == (200, 200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert head.headers["content-length"] == str(len(get.content))


@pytest.mark.parametrize("root", [*ROOTS, ""])
def test_text_is_generated_under_every_root(
    client: falcon.testing.TestClient, service: FakeService, answer: Any, root: str
) -> None:
    service.enqueue(*answer)
    service.enqueue(*answer)
    chat = client.simulate_post(f"{root}/chat/completions", json=CHAT)
    completion = client.simulate_post(f"{root}/completions", json={"model": "ai/smollm2", "prompt": "Hi"})
    assert chat.json["choices"][0]["message"]["content"] == "Hello world"
    assert completion.json["choices"][0]["text"] == "Hello world"


@pytest.mark.parametrize("path", ["/v1/models/", "//v1//models", "/v1/models?a=b", "/v1/models//"])
def test_slashes_are_cleaned(client: falcon.testing.TestClient, path: str) -> None:
    assert client.simulate_get(path).json["object"] == "list"


@pytest.mark.parametrize("path", ["/v1/nope", "/v1/embeddings/x", "/v1", "/engines/nope", "/engines/v1/chat"])
def test_unknown_addresses_get_json_beside_openai(client: falcon.testing.TestClient, path: str) -> None:
    result = client.simulate_get(path)
    assert result.status_code == 404
    assert set(result.json["error"]) == {"message", "type", "param", "code"}
    assert path in result.json["error"]["message"]


@pytest.mark.parametrize("path", ["/nope", "/v1x", "/llama.cpp/v1/models"])
def test_unknown_addresses_get_text_elsewhere(client: falcon.testing.TestClient, path: str) -> None:
    result = client.simulate_get(path)
    assert (result.status_code, result.text) == (404, "not found\n")
    assert result.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/completions", {"POST"}),
        ("POST", "/v1/models", {"GET", "HEAD"}),
        ("PUT", "/models/ai/smollm2", {"GET", "HEAD", "DELETE", "POST"}),
        ("GET", "/engines/unload", {"POST"}),
        ("GET", "/v1/embeddings", {"POST"}),
        ("GET", "/rerank", {"POST"}),
        ("POST", "/v1/models/a", {"GET", "HEAD", "DELETE"}),
    ],
)
def test_wrong_methods_are_told_the_right_ones(
    client: falcon.testing.TestClient, method: str, path: str, allowed: set[str]
) -> None:
    result = client.simulate_request(method, path)
    assert result.status_code == 405
    assert set(result.headers["allow"].split(", ")) - {"OPTIONS"} == allowed


@pytest.mark.parametrize(
    "path", ["/engines/vllm/v1/models", "/engines/vllm/v1/models/a", "/engines/vllm/v1/completions"]
)
def test_there_is_one_backend(client: falcon.testing.TestClient, path: str) -> None:
    method = "POST" if path.endswith("completions") else "GET"
    result = client.simulate_request(method, path)
    assert result.status_code == 404
    assert "'vllm'" in result.json["error"]["message"]


NAMES = [
    "a",
    "ai/smollm2",
    "ai/smollm2:135M-Q4_1",
    "hf.co/a/b:Q4_K_M",
    "localhost:5000/a/b",
    "a/b@sha256:" + "0" * 64,
    "ai/export",
    "ai/chat/completions",
    "ai/models",
    "unload",
    "import",
    "100%",
    "a%2Fb",
    "grün",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("root", ["/models", *(f"{root}/models" for root in ROOTS)])
@pytest.mark.parametrize("encode", [True, False])
def test_names_hold_anything(
    client: falcon.testing.TestClient, service: FakeService, name: str, root: str, encode: bool
) -> None:
    from urllib.parse import quote

    service.models = [model_record(name)]
    path = f"{root}/{quote(name, safe='' if encode else '/:@')}"
    result = client.simulate_get(path)
    assert result.status_code == 200, result.text
    assert name in (result.json["id"], *result.json.get("tags", ()))


def test_an_encoded_address_keeps_its_double_slash(client: falcon.testing.TestClient, service: FakeService) -> None:
    service.models.append(model_record("https://hf.co/a/b"))
    assert client.simulate_get("/v1/models/https%3A%2F%2Fhf.co%2Fa%2Fb").json["id"] == "https://hf.co/a/b"


def test_servers_without_a_raw_uri_work_too(client: falcon.testing.TestClient) -> None:
    result = client.simulate_get("/v1/models/ai%2Fsmollm2", extras={"RAW_URI": "http://host/v1/models/ai%2Fsmollm2"})
    assert result.json["id"] == "ai/smollm2:latest"
    app = client.app
    environ = falcon.testing.create_environ("/v1/models/ai/smollm2:latest")
    environ.pop("RAW_URI")
    started = falcon.testing.StartResponseMock()
    body = b"".join(app(environ, started))
    assert (started.status, b'"ai/smollm2:latest"' in body) == ("200 OK", True)


def test_models_are_listed_by_tag(client: falcon.testing.TestClient, service: FakeService) -> None:
    from openai.types import Model

    service.models.append(model_record(id="sha256:" + "cd" * 32))
    listed = client.simulate_get("/v1/models").json["data"]
    assert [Model.model_validate(model).id for model in listed] == [
        "ai/smollm2:latest",
        "ai/smollm2:135M-Q4_1",
        "sha256:" + "cd" * 32,
    ]
    assert listed[0] == {
        "id": "ai/smollm2:latest",
        "object": "model",
        "created": 1742905342,
        "owned_by": "docker",
        "dmr": {
            "context_window": 8192,
            "architecture": "llama",
            "parameters": "134.52M",
            "quantization": "Q4_1",
            "size": "91.73MiB",
            "capabilities": list(service.features),
        },
    }


def test_a_model_without_details_has_no_dmr_object(client: falcon.testing.TestClient, service: FakeService) -> None:
    from dmr.types import ModelConfig, ModelRecord

    service.models = [ModelRecord("sha256:1", ("docker.io/a/b:latest",), 5, ModelConfig())]
    service.features = ()
    assert client.simulate_get("/v1/models/a/b").json == {
        "id": "a/b:latest",
        "object": "model",
        "created": 5,
        "owned_by": "docker",
    }


@pytest.mark.parametrize("asked", ["ai/smollm2:135M-Q4_1", "docker.io/ai/smollm2:135M-Q4_1"])
def test_a_model_is_shown_under_the_tag_that_was_asked_for(client: falcon.testing.TestClient, asked: str) -> None:
    assert client.simulate_get(f"/v1/models/{asked}").json["id"] == "ai/smollm2:135M-Q4_1"


def test_an_unknown_model_is_a_404(client: falcon.testing.TestClient) -> None:
    result = client.simulate_get("/v1/models/nope")
    assert (result.status_code, result.json["error"]["code"]) == (404, "model_not_found")


def test_a_model_is_deleted(client: falcon.testing.TestClient, service: FakeService) -> None:
    from openai.types import ModelDeleted

    result = client.simulate_delete("/v1/models/ai/smollm2")
    assert result.json == {"id": "ai/smollm2", "object": "model", "deleted": True}
    ModelDeleted.model_validate(result.json)
    assert service.removed == [("ai/smollm2", False)]
    assert client.simulate_delete("/v1/models/ai/smollm2").status_code == 404
    service.failure = Conflict("The model is in use.")
    result = client.simulate_delete("/engines/v1/models/ai/smollm2")
    assert (result.status_code, result.json["error"]["code"]) == (409, "conflict")


@pytest.mark.parametrize("sent", ["abc-123", "req_A.b:c"])
def test_the_clients_own_request_id_comes_back(client: falcon.testing.TestClient, sent: str) -> None:
    assert client.simulate_get("/v1/nope", headers={"x-request-id": sent}).headers["x-request-id"] == sent


@pytest.mark.parametrize("sent", ["", "a b", "x" * 129, "<script>"])
def test_other_answers_get_a_fresh_one(client: falcon.testing.TestClient, sent: str) -> None:
    ids = {client.simulate_get("/health", headers={"x-request-id": sent}).headers["x-request-id"] for _ in range(2)}
    assert len(ids) == 2
    assert all(id.startswith("req_") for id in ids)


def test_errors_carry_the_request_id_too(client: falcon.testing.TestClient, service: FakeService) -> None:
    service.failure = StoreError("The disk is full.")
    result = client.simulate_get("/v1/models", headers={"x-request-id": "mine"})
    assert (result.status_code, result.headers["x-request-id"]) == (500, "mine")
    assert result.headers["x-should-retry"] == "false"


def test_a_defect_is_logged_and_not_shown(
    service: FakeService, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    service.failure = RuntimeError("secret")
    client = falcon.testing.TestClient(create_app(cast(Any, service), settings))
    for path in ("/v1/models", "/models"):
        result = client.simulate_get(path, headers={"x-request-id": "mine"})
        assert result.status_code == 500
        assert "secret" not in result.text
        assert "mine" in result.text
    assert "secret" in caplog.text


def test_the_list_of_models_is_that_of_the_api_whose_client_asks(client: falcon.testing.TestClient) -> None:
    headers = {"anthropic-version": "2023-06-01"}
    assert client.simulate_get("/v1/models").json["object"] == "list"
    assert client.simulate_get("/v1/models", headers=headers).json["data"][0]["type"] == "model"
    item = client.simulate_get("/v1/models/ai/smollm2", headers=headers)
    assert item.json["type"] == "model"
    missing = client.simulate_get("/v1/models/ai/none", headers=headers)
    assert (missing.status_code, missing.json["error"]["type"]) == (404, "not_found_error")
