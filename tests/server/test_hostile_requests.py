"""Good requests of every dialect with something wrong in them: each gets an answer, and none a 500."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any, cast

import falcon.testing
import pytest
from fakes import FakeService, FakeStream, model_record
from mutations import mutated
from server.conftest import ANSWER

from dmr.config import Settings
from dmr.types import Embeddings, EmbedRequest, Event, GenerateRequest, Started, Tick, TokenCount, Tokens
from dmr_server.app import create_app

MODEL = "ai/smollm2"
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
PICTURE = "data:image/png;base64,iVBORw0KGgo="
SAID = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {"url": PICTURE}}]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "2"},
]
FUNCTION = {"name": "f", "description": "d", "parameters": SCHEMA}
GOOD: dict[str, Any] = {
    "/v1/chat/completions": {
        "model": MODEL,
        "messages": SAID,
        "tools": [{"type": "function", "function": FUNCTION}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "logit_bias": {"5": 1.5},
        "stop": ["a", "b"],
        "n": 2,
        "stream": True,
        "stream_options": {"include_usage": True},
        "chat_template_kwargs": {"enable_thinking": False},
    },
    "/v1/completions": {"model": MODEL, "prompt": ["a", "b"], "max_tokens": 5, "logprobs": 2, "stop": "c", "seed": 1},
    "/v1/embeddings": {"model": MODEL, "input": ["a", "b"], "encoding_format": "base64"},
    "/v1/responses": {
        "model": MODEL,
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
        "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}},
        "tools": [{"type": "function", **FUNCTION}],
        "metadata": {"a": "b"},
        "store": False,
    },
    "/v1/messages": {
        "model": MODEL,
        "max_tokens": 2000,
        "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "2"}]},
        ],
        "tools": [{"name": "f", "description": "d", "input_schema": SCHEMA}],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    },
    "/api/chat": {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": [{"type": "function", "function": FUNCTION}],
        "format": SCHEMA,
        "options": {"temperature": 0.5, "num_ctx": 128, "stop": ["x"]},
        "keep_alive": "5m",
    },
    "/api/generate": {"model": MODEL, "prompt": "a", "suffix": "b", "options": {"num_predict": 5}, "stream": False},
    "/api/embed": {"model": MODEL, "input": ["a", "b"], "truncate": True, "keep_alive": 3},
    "/models/create": {"from": MODEL},
    "/engines/_configure": {"model": MODEL, "context-size": 512, "runtime-flags": ["--temp", "1"]},
    "/tokenize": {"model": MODEL, "content": "a", "with_pieces": True},
}


class Willing(FakeService):
    """Answers what it is asked, as often as it is asked."""

    def generate(self, request: GenerateRequest, *, in_pieces: bool = True) -> Iterator[Event]:
        self.get_model(request.model)
        return FakeStream(ANSWER)

    def embed(self, request: EmbedRequest) -> Iterator[Tick | Embeddings]:
        self.get_model(request.model)
        yield Embeddings((b"\x00\x00\x80\x3f",) * len(request.inputs), (1,) * len(request.inputs))

    def tokenize(self, request: Any) -> Iterator[Tick | Tokens]:
        self.get_model(request.model)
        yield Tokens((1, 2), (b"te", b"\xff"))

    def count_tokens(self, request: GenerateRequest) -> Iterator[Tick | TokenCount]:
        self.get_model(request.model)
        yield TokenCount(12, 2048)

    def pull(self, reference: str, token: str | None = None, insecure: bool = False) -> Iterator[Any]:
        self.get_model(reference)
        return FakeStream([Started(0)][:0])


@pytest.fixture(scope="module")
def willing(tmp_path_factory: pytest.TempPathFactory) -> falcon.testing.TestClient:
    settings = Settings(max_body_bytes=1 << 20, models_path=tmp_path_factory.mktemp("models"))
    service = Willing([model_record(f"docker.io/{MODEL}:latest")])
    return falcon.testing.TestClient(create_app(cast(Any, service), settings))


@pytest.mark.parametrize("path", GOOD)
def test_the_good_request_is_good(willing: falcon.testing.TestClient, path: str) -> None:
    """Otherwise the bad ones would all fail for the same reason."""
    result = willing.simulate_post(path, json=GOOD[path])
    assert result.status_code < 300, result.text


@pytest.mark.parametrize("path", GOOD)
def test_a_request_with_something_wrong_gets_an_answer(willing: falcon.testing.TestClient, path: str) -> None:
    source = random.Random(path)
    statuses = set()
    for _ in range(120):
        body = json.dumps(mutated(GOOD[path], source))
        result = willing.simulate_post(path, body=body, headers={"Content-Type": "application/json"})
        statuses.add(result.status_code)
        assert result.status_code < 500 or result.status_code == 501, f"{result.status_code} {result.text} for {body}"
        if result.status_code >= 400:
            assert result.text.strip(), f"{result.status_code} says nothing for {body}"
    assert {400, 200} & statuses


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/chat"])
def test_bytes_that_are_damaged_get_an_answer(willing: falcon.testing.TestClient, path: str) -> None:
    source = random.Random(path)
    good = json.dumps(GOOD[path]).encode()
    for _ in range(150):
        body = bytearray(good)
        for _ in range(source.randint(1, 4)):
            at = source.randrange(len(body))
            body[at : at + source.choice((0, 1, 20))] = source.randbytes(source.choice((0, 1, 3)))
        result = willing.simulate_post(path, body=bytes(body), headers={"Content-Type": "application/json"})
        assert result.status_code < 500, f"{result.text} for {bytes(body)!r}"
