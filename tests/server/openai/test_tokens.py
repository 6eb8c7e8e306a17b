"""Tokenize, detokenize, apply-template, input_tokens: llama-server's and vLLM's bodies."""

from __future__ import annotations

from typing import Any

import falcon.testing
import pytest
from fakes import FakeService, model_record

from dmr.types import (
    ChatInput,
    DetokenizeRequest,
    GenerateRequest,
    Message,
    Role,
    RunningModel,
    TextPart,
    TokenCount,
    TokenizeRequest,
    Tokens,
)

TOKENS = Tokens((5, 6, 7), (b"H", b"\xc3", b"\xb6"))
MESSAGES = [{"role": "user", "content": "Hi"}]
CHAT = GenerateRequest("ai/smollm2", ChatInput((Message(Role.USER, (TextPart("Hi"),)),)), client="127.0.0.1")


def ask(client: falcon.testing.TestClient, path: str, **body: Any) -> falcon.testing.Result:
    return client.simulate_post(path, json={"model": "ai/smollm2", **body})


@pytest.mark.parametrize(
    ("body", "answer", "asked"),
    [
        ({"content": "Hö"}, {"tokens": [5, 6, 7]}, TokenizeRequest("ai/smollm2", "Hö")),
        (
            {"content": "Hö", "add_special": True, "parse_special": False, "with_pieces": True},
            {"tokens": [{"id": 5, "piece": "H"}, {"id": 6, "piece": [195]}, {"id": 7, "piece": [182]}]},
            TokenizeRequest("ai/smollm2", "Hö", add_special=True, parse_special=False, with_pieces=True),
        ),
        (
            {"prompt": "Hö"},
            {"count": 3, "max_model_len": 8192, "tokens": [5, 6, 7], "token_strs": None},
            TokenizeRequest("ai/smollm2", "Hö", add_special=True),
        ),
        (
            {"prompt": "Hö", "add_special_tokens": False, "return_token_strs": True},
            {"count": 3, "max_model_len": 8192, "tokens": [5, 6, 7], "token_strs": ["H", "�", "�"]},
            TokenizeRequest("ai/smollm2", "Hö", with_pieces=True),
        ),
    ],
)
@pytest.mark.parametrize("root", ["", "/v1", "/engines/v1", "/engines/llama.cpp/v1"])
def test_tokenize(
    client: falcon.testing.TestClient,
    service: FakeService,
    root: str,
    body: dict[str, Any],
    answer: dict[str, Any],
    asked: TokenizeRequest,
) -> None:
    service.replies.append(TOKENS)
    assert ask(client, f"{root}/tokenize", **body).json == answer
    assert service.calls == [asked]


@pytest.mark.parametrize(("given", "add_special"), [({}, False), ({"add_special_tokens": True}, True)])
def test_a_conversation_is_tokenized_under_its_template(
    client: falcon.testing.TestClient, service: FakeService, given: dict[str, Any], add_special: bool
) -> None:
    service.replies.extend(["<user>Hi", TOKENS])
    assert ask(client, "/tokenize", messages=MESSAGES, **given).json["count"] == 3
    assert service.counted == [CHAT]
    assert service.calls == [TokenizeRequest("ai/smollm2", "<user>Hi", add_special=add_special)]


def test_detokenize(client: falcon.testing.TestClient, service: FakeService) -> None:
    service.replies.append("Hö")
    assert ask(client, "/detokenize", tokens=[5, 6.0, 7]).status_code == 400
    assert ask(client, "/detokenize", tokens=[5, 6, 7]).json == {"content": "Hö", "prompt": "Hö"}
    assert service.calls == [DetokenizeRequest("ai/smollm2", (5, 6, 7))]


def test_apply_template(client: falcon.testing.TestClient, service: FakeService) -> None:
    service.replies.append("<user>Hi")
    assert ask(client, "/apply-template", messages=MESSAGES).json == {"prompt": "<user>Hi"}
    assert service.counted == [CHAT]


def test_input_tokens(client: falcon.testing.TestClient, service: FakeService) -> None:
    service.replies.append(TokenCount(12, 2048))
    result = ask(client, "/v1/chat/completions/input_tokens", messages=MESSAGES)
    assert result.json == {"object": "response.input_tokens", "input_tokens": 12}
    assert service.counted == [CHAT]


def test_the_only_model_need_not_be_named(client: falcon.testing.TestClient, service: FakeService) -> None:
    service.replies.append(TOKENS)
    assert client.simulate_post("/tokenize", json={"content": "a"}).status_code == 200
    assert service.calls == [TokenizeRequest("docker.io/ai/smollm2:latest", "a")]
    service.models.append(model_record("docker.io/ai/other:latest", id="sha256:1"))
    result = client.simulate_post("/tokenize", json={"content": "a"})
    assert (result.status_code, result.json["error"]["param"]) == (400, "model")
    service.running = [RunningModel("sha256:1", "ai/other", "ready", 0, 0.0, 0.0, 300.0, 1)]
    service.replies.append(TOKENS)
    assert client.simulate_post("/tokenize", json={"content": "a"}).status_code == 200
    assert service.calls[-1] == TokenizeRequest("ai/other", "a")
    assert client.simulate_post("/v1/embeddings", json={"input": "a"}).status_code == 400


@pytest.mark.parametrize(
    ("path", "body", "param", "told"),
    [
        ("/tokenize", {}, "content", "One of"),
        ("/tokenize", {"content": "a", "prompt": "a"}, "content", "One of"),
        ("/tokenize", {"content": ["a"]}, "content", "got array"),
        ("/tokenize", {"content": "a", "with_pieces": 1}, "with_pieces", "bool"),
        ("/tokenize", {"messages": []}, "messages", "at least one"),
        ("/detokenize", {}, "tokens", "Missing"),
        ("/detokenize", {"tokens": "a"}, "tokens", "got str"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]", ">= 0"),
        ("/detokenize", {"tokens": [2**31]}, "tokens[0]", "<= 2147483647"),
        ("/apply-template", {}, "messages", "Missing"),
        ("/apply-template", {"messages": [{"role": "robot"}]}, "messages[0].role", "one of"),
        ("/v1/chat/completions/input_tokens", {}, "messages", "Missing"),
        ("/tokenize", {"model": 5, "content": "a"}, "model", "expected str"),
    ],
)
def test_a_bad_field_is_named(
    client: falcon.testing.TestClient,
    service: FakeService,
    path: str,
    body: dict[str, Any],
    param: str,
    told: str,
) -> None:
    result = ask(client, path, **body)
    error = result.json["error"]
    assert (result.status_code, error["param"]) == (400, param)
    assert told in error["message"]
    assert not service.calls
    assert not service.counted
