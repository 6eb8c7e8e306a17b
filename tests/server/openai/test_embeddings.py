"""POST /v1/embeddings: what is asked, and vectors in both forms."""

from __future__ import annotations

import base64
import json
import random
import struct
from typing import Any

import falcon.testing
import pytest
from fakes import FakeService
from openai.types import CreateEmbeddingResponse

from dmr.errors import Unsupported
from dmr.types import Embeddings, EmbedRequest
from dmr_server.openai.embeddings import to_floats

PATH = "/v1/embeddings"
VECTORS = Embeddings((struct.pack("<3f", 0.1, -1.0, 1e-20), struct.pack("<3f", 0.5, 0.25, 0.0)), (3, 4))


def ask(client: falcon.testing.TestClient, service: FakeService, **body: Any) -> falcon.testing.Result:
    service.replies.append(VECTORS)
    return client.simulate_post(PATH, json={"model": "ai/smollm2", "input": ["a", "b"], **body})


def test_vectors_as_floats(client: falcon.testing.TestClient, service: FakeService) -> None:
    result = ask(client, service)
    assert result.status_code == 200
    assert result.content == (
        b'{"object":"list","data":['
        b'{"object":"embedding","index":0,"embedding":[0.1,-1.0,1e-20]},'
        b'{"object":"embedding","index":1,"embedding":[0.5,0.25,0.0]}],'
        b'"model":"ai/smollm2","usage":{"prompt_tokens":7,"total_tokens":7}}'
    )
    CreateEmbeddingResponse.model_validate_json(result.content)


def test_vectors_as_base64_as_the_official_client_wants_them(
    client: falcon.testing.TestClient, service: FakeService
) -> None:
    data = ask(client, service, encoding_format="base64").json["data"]
    assert [base64.b64decode(each["embedding"]) for each in data] == list(VECTORS.vectors)


def test_floats_are_exact_to_32_bits() -> None:
    source = random.Random(7)
    data = b"".join(
        struct.pack("<f", number) for number in (source.gauss(0, 10.0 ** source.randint(-30, 30)) for _ in range(5000))
    )
    numbers = json.loads(bytes(to_floats(data)))
    assert struct.pack(f"<{len(numbers)}f", *numbers) == data


def test_an_empty_vector_is_an_empty_list() -> None:
    assert bytes(to_floats(b"")) == b"[]"


def test_a_vector_that_is_no_number_is_no_answer(client: falcon.testing.TestClient, service: FakeService) -> None:
    service.replies.append(Embeddings((struct.pack("<f", float("nan")),), (1,)))
    result = client.simulate_post(PATH, json={"model": "ai/smollm2", "input": "a"})
    assert (result.status_code, result.json["error"]["code"]) == (500, "internal_error")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"input": "a"}, {"inputs": ("a",)}),
        ({"input": ["a", "b"]}, {"inputs": ("a", "b")}),
        ({"input": [1, 2]}, {"inputs": ((1, 2),)}),
        ({"input": [[1, 2], [3]]}, {"inputs": ((1, 2), (3,))}),
        ({"dimensions": 2}, {"dimensions": 2}),
        ({"dimensions": None, "user": "me", "encoding_format": "float"}, {}),
        ({"normalize": False}, {"normalize": False}),
        ({"embd_normalize": -1}, {"normalize": False}),
        ({"embd_normalize": 2}, {}),
        ({"truncate": True}, {"truncate": True}),
    ],
)
def test_what_is_asked_of_the_service(
    client: falcon.testing.TestClient, service: FakeService, body: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert ask(client, service, **body).status_code == 200
    sound: dict[str, Any] = {"model": "ai/smollm2", "inputs": ("a", "b"), "client": "127.0.0.1"}
    assert service.calls == [EmbedRequest(**{**sound, **expected})]


@pytest.mark.parametrize(
    ("body", "param", "told"),
    [
        ({"input": None}, "input", "Missing"),
        ({"input": ""}, "input", "empty"),
        ({"input": ["a", ""]}, "input", "empty"),
        ({"input": []}, "input", "1 to 2048"),
        ({"input": ["a"] * 2049}, "input", "1 to 2048"),
        ({"input": [[]]}, "input[0]", "length >= 1"),
        ({"input": [1.5]}, "input[0]", "expected int"),
        ({"input": [-1]}, "input[0]", ">= 0"),
        ({"input": {"text": "a"}}, "input", "got object"),
        ({"input": 5}, "input", "got int"),
        ({"encoding_format": "int8"}, "encoding_format", "invalid enum"),
        ({"dimensions": 0}, "dimensions", ">= 1"),
        ({"dimensions": "2"}, "dimensions", "got str"),
        ({"embd_normalize": 1}, "embd_normalize", "not supported"),
        ({"pooling": "mean"}, "pooling", "not supported"),
        ({"model": ""}, "model", "required"),
        ({"model": 5}, "model", "expected str"),
    ],
)
def test_a_bad_field_is_named(
    client: falcon.testing.TestClient, service: FakeService, body: dict[str, Any], param: str, told: str
) -> None:
    result = ask(client, service, **body)
    error = result.json["error"]
    assert (result.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert told in error["message"]
    assert not service.calls


def test_an_unknown_model_is_told_before_other_mistakes(client: falcon.testing.TestClient) -> None:
    for body in ({"model": "nope"}, {"model": "nope", "input": "a"}):
        result = client.simulate_post(PATH, json=body)
        assert (result.status_code, result.json["error"]["code"]) == (404, "model_not_found")


def test_what_the_model_cannot_do_is_told(client: falcon.testing.TestClient, service: FakeService) -> None:
    service.replies.append(Unsupported("The model has 64 dimensions.", param="dimensions"))
    result = client.simulate_post(PATH, json={"model": "ai/smollm2", "input": "a", "dimensions": 65})
    assert (result.status_code, result.json["error"]["param"]) == (400, "dimensions")


def test_preloading_asks_nothing(client: falcon.testing.TestClient, service: FakeService) -> None:
    result = client.simulate_post(PATH, json={"model": "ai/smollm2"}, headers={"X-Preload-Only": "true"})
    assert (result.status_code, result.content, service.preloaded) == (200, b"", ["ai/smollm2"])
    assert not service.calls


def test_there_is_one_backend(client: falcon.testing.TestClient, service: FakeService) -> None:
    body = {"model": "ai/smollm2", "input": "a"}
    assert client.simulate_post("/engines/vllm/v1/embeddings", json=body).status_code == 404
    service.replies.append(VECTORS)
    assert client.simulate_post("/engines/llama.cpp/v1/embeddings", json=body).status_code == 200
