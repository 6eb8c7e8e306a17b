"""POST /infill: what is asked of the model. What is answered is in the golden files."""

from __future__ import annotations

from typing import Any

import falcon.testing
import pytest
from fakes import FakeService

from dmr.types import GenerateRequest, ResponseFormat, SamplingParams, TextInput

BODY = {"model": "ai/smollm2", "input_prefix": "def f():\n", "input_suffix": "\n"}


@pytest.mark.parametrize("root", ["", "/v1", "/engines/v1", "/engines/llama.cpp/v1"])
def test_a_gap(client: falcon.testing.TestClient, service: FakeService, answer: Any, root: str) -> None:
    service.enqueue(*answer)
    assert client.simulate_post(f"{root}/infill", json=BODY).json["content"] == "Hello world"
    assert service.requests == [
        GenerateRequest("ai/smollm2", TextInput(("def f():\n",), suffix="\n"), client="127.0.0.1")
    ]


@pytest.mark.parametrize(
    ("body", "field", "expected"),
    [
        ({"prompt": "    a"}, "input", TextInput(("def f():\n    a",), suffix="\n")),
        (
            {"input_extra": [{"filename": "a.py", "text": "a = 1"}, {"text": "b"}]},
            "input",
            TextInput(("a.py\na = 1\n\nb\n\ndef f():\n",), suffix="\n"),
        ),
        ({"input_suffix": None}, "input", TextInput(("def f():\n",), suffix="")),
        ({"n_predict": 5}, "max_tokens", 5),
        ({"n_predict": -1}, "max_tokens", None),
        ({"max_tokens": 6}, "max_tokens", 6),
        ({"n_probs": 3}, "num_logprobs", 3),
        ({"top_k": 5}, "sampling", SamplingParams(top_k=5)),
        ({"top_k": 5, "n_predict": 5, "stop": "a"}, "given", frozenset({"top_k", "max_tokens", "stop"})),
        ({"stop": ["\n\n"]}, "stop", ("\n\n",)),
        ({"grammar": 'root ::= "a"'}, "response_format", ResponseFormat(grammar='root ::= "a"')),
    ],
)
def test_fields(
    client: falcon.testing.TestClient,
    service: FakeService,
    answer: Any,
    body: dict[str, Any],
    field: str,
    expected: Any,
) -> None:
    service.enqueue(*answer)
    result = client.simulate_post("/infill", json={**BODY, **body})
    assert result.status_code == 200, result.text
    assert getattr(service.requests[0], field) == expected


@pytest.mark.parametrize(
    ("body", "param", "told"),
    [
        ({"input_prefix": 5}, "input_prefix", "got int"),
        ({"input_extra": "ok"}, "input_extra", "got str"),
        ({"input_extra": [{"filename": "a"}]}, "input_extra[0].text", "Missing"),
        ({"input_extra": [{"filename": 5, "text": "a"}]}, "input_extra[0].filename", "got int"),
        ({"prompt": [1, 2]}, "prompt", "got array"),
        ({"n_predict": 0}, "n_predict", ">= 1"),
        ({"n_predict": -2}, "n_predict", ">= -1"),
        ({"n_probs": 21}, "n_probs", "<= 20"),
        ({"n": 2}, "n", "not supported"),
        ({"t_max_predict_ms": 100}, "t_max_predict_ms", "not supported"),
    ],
)
def test_a_bad_field_is_named(
    client: falcon.testing.TestClient, service: FakeService, body: dict[str, Any], param: str, told: str
) -> None:
    result = client.simulate_post("/infill", json={**BODY, **body})
    error = result.json["error"]
    assert (result.status_code, error["param"]) == (400, param)
    assert told in error["message"]
    assert not service.requests
