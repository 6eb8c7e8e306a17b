"""Where Anthropic's API is served, its models, its errors, and what no golden file shows."""

from __future__ import annotations

from typing import Any

import falcon.testing
import msgspec
import pytest
from anthropic.types import ModelInfo
from anthropic.types.shared import ErrorResponse
from fakes import FakeService, model_record

from dmr.errors import (
    Conflict,
    ContextLengthExceeded,
    DeadlineExceeded,
    DmrError,
    EngineCrashed,
    ModelLoadFailed,
    ModelNotFound,
    Overloaded,
    PayloadTooLarge,
    ShuttingDown,
    TooManyRequests,
    Unsupported,
    error_from_code,
)
from dmr.types import Finished, FinishReason, ReasoningDelta, Started, TokenCount, ToolCallDelta, ToolCallStart
from dmr_server.anthropic.message import input_of
from dmr_server.anthropic.signature import packed_signature, thinking_in
from dmr_server.anthropic.stream import PING, SILENT_DELTAS, MessageEncoder, Thoughts
from dmr_server.anthropic.wire import AnthropicDialect
from dmr_server.unpacking import Unpacker

BODY = {"model": "ai/smollm2", "max_tokens": 64, "messages": [{"role": "user", "content": "Hi"}]}
ROOTS = ("", "/v1", "/anthropic/v1", "/engines/v1", "/engines/llama.cpp/v1")


@pytest.mark.parametrize("query", ["", "?beta=true"])
@pytest.mark.parametrize("root", ROOTS)
def test_messages_are_served(
    root: str, query: str, client: falcon.testing.TestClient, service: FakeService, answer: Any
) -> None:
    headers = {"anthropic-version": "2026-10-21", "anthropic-beta": "a-2020-01-01,b", "x-api-key": "none"}
    service.enqueue(*answer)
    whole = client.simulate_post(f"{root}/messages{query}", json=BODY, headers=headers)
    assert (whole.status_code, whole.json["type"]) == (200, "message")
    service.replies.append(TokenCount(12, 2048))
    count = client.simulate_post(f"{root}/messages/count_tokens{query}", json=BODY, headers=headers)
    assert count.json == {"input_tokens": 12}
    assert count.headers["request-id"]


@pytest.mark.parametrize("path", ["/engines/vllm/v1/messages", "/engines/vllm/v1/messages/count_tokens"])
def test_another_backend_does_not_exist(client: falcon.testing.TestClient, path: str) -> None:
    assert_error(client.simulate_post(path, json=BODY), 404, "not_found_error", "vllm")


@pytest.mark.parametrize("root", ROOTS)
def test_other_methods_are_refused_in_the_same_words(client: falcon.testing.TestClient, root: str) -> None:
    assert_error(client.simulate_get(f"{root}/messages"), 405, "invalid_request_error", "GET")


@pytest.mark.parametrize("path", ["/v1/messages/batches", "/anthropic/v1/files", "/anthropic"])
def test_unknown_addresses(client: falcon.testing.TestClient, path: str) -> None:
    assert_error(client.simulate_post(path, json=BODY), 404, "not_found_error", path)


def assert_error(result: falcon.testing.Result, status: int, kind: str, told: str) -> None:
    assert result.status_code == status, result.text
    error = ErrorResponse.model_validate(result.json)
    assert result.json["error"]["type"] == kind
    assert told in result.json["error"]["message"]
    assert error.request_id == result.headers["request-id"]


def test_preload_answers_nothing(client: falcon.testing.TestClient, service: FakeService) -> None:
    result = client.simulate_post("/v1/messages", json=BODY, headers={"X-Preload-Only": "true"})
    assert (result.status_code, result.content, service.preloaded) == (200, b"", ["ai/smollm2"])


def test_a_body_over_the_limit(client: falcon.testing.TestClient) -> None:
    result = client.simulate_post("/v1/messages/count_tokens", json={**BODY, "system": "x" * 200_000})
    assert (result.status_code, result.json["error"]["type"]) == (413, "request_too_large")


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (Unsupported("No."), 400, "invalid_request_error"),
        (ModelNotFound("a"), 404, "not_found_error"),
        (Conflict("No."), 409, "conflict_error"),
        (PayloadTooLarge("No."), 413, "request_too_large"),
        (ModelLoadFailed("No."), 500, "api_error"),
        (EngineCrashed("No."), 500, "api_error"),
        (Overloaded("No."), 529, "overloaded_error"),
        (ShuttingDown("No."), 529, "overloaded_error"),
        (TooManyRequests("No."), 429, "rate_limit_error"),
        (DeadlineExceeded("No."), 504, "timeout_error"),
        (DmrError("No."), 500, "api_error"),
    ],
)
def test_errors(error: DmrError, status: int, kind: str) -> None:
    told, body = AnthropicDialect().error(error, "req_1")
    expected = {"type": "error", "error": {"type": kind, "message": error.message}, "request_id": "req_1"}
    assert (told, msgspec.json.decode(body)) == (status, expected)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ContextLengthExceeded(9000, 8192), "prompt is too long: 9000 tokens > 8192 maximum"),
        (ContextLengthExceeded(8192, 8192), "prompt is too long: 8192 tokens > 8191 maximum"),
        (error_from_code("context_length_exceeded", "It is long.", None, None), "prompt is too long: It is long."),
    ],
)
def test_a_prompt_that_is_too_long(error: DmrError, told: str) -> None:
    # As it comes from the engine's process.
    crossed = error_from_code(error.code, error.message, error.param, None, error.details)
    for each in (error, crossed):
        assert msgspec.json.decode(AnthropicDialect().error(each, "")[1])["error"]["message"] == told


def test_a_refused_thread_is_told_as_the_official_tool_runner_reads_it(client: falcon.testing.TestClient) -> None:
    """It asks for one first, and sends the whole conversation each time once it has read this."""
    result = client.simulate_post("/v1/messages?beta=true", json={**BODY, "thread": {"type": "create"}})
    assert result.status_code == 400
    details = result.json["error"]["details"]
    assert details == {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
    assert "details" not in client.simulate_post("/v1/messages", json={**BODY, "compaction": {}}).json["error"]


# --- models ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def three_models(service: FakeService) -> None:
    newer = msgspec.structs.replace(model_record("docker.io/me/new:v1", id="sha256:" + "cd" * 32), created=1800000000)
    service.models.append(newer)


@pytest.mark.usefixtures("three_models")
@pytest.mark.parametrize(
    ("query", "ids", "has_more"),
    [
        ("", ["me/new:v1", "ai/smollm2:latest", "ai/smollm2:135M-Q4_1"], False),
        ("?limit=2", ["me/new:v1", "ai/smollm2:latest"], True),
        ("?limit=2&after_id=ai/smollm2:latest", ["ai/smollm2:135M-Q4_1"], False),
        ("?limit=1&before_id=ai/smollm2:135M-Q4_1", ["ai/smollm2:latest"], True),
        ("?after_id=ai/smollm2:135M-Q4_1", [], False),
    ],
)
def test_models(client: falcon.testing.TestClient, query: str, ids: list[str], has_more: bool) -> None:
    page = client.simulate_get(f"/anthropic/v1/models{query}").json
    assert [model["id"] for model in page["data"]] == ids
    assert page["has_more"] is has_more
    assert (page["first_id"], page["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))
    for model in page["data"]:
        ModelInfo.model_validate(model)


def test_one_model(client: falcon.testing.TestClient) -> None:
    expected = {
        "type": "model",
        "id": "ai/smollm2:latest",
        "display_name": "ai/smollm2:latest",
        "created_at": "2025-03-25T12:22:22Z",
        "max_input_tokens": 8192,
        "max_tokens": 8192,
        "lifecycle": "active",
    }
    assert client.simulate_get("/anthropic/v1/models/ai/smollm2").json == expected
    assert_error(client.simulate_get("/anthropic/v1/models/me/none"), 404, "not_found_error", "me/none")


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "after_id=me/none", "before_id=me/none"])
def test_bad_pages(client: falcon.testing.TestClient, query: str) -> None:
    result = client.simulate_get(f"/anthropic/v1/models?{query}")
    assert_error(result, 400, "invalid_request_error", query.partition("=")[0])


# --- details ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", {}),
        ("{}", {}),
        ('{"a":1}', {"a": 1}),
        ("[1]", {}),
        ("{", {}),
        ('{"a', {}),
        ('{"a":', {}),
        ('{"a":1', {}),
        ('{"a":1,', {"a": 1}),
        ('{"a":1,"b":"x', {"a": 1}),
        ('{"a":{"b":[1,2', {"a": {"b": [1]}}),
        ('{"a":"}\\",","b":{"c":true}', {"a": '}",', "b": {"c": True}}),
        ("no", {}),
        ('{"a" 1,', {}),
    ],
)
def test_input_of_calls_cut_short(arguments: str, expected: dict[str, Any]) -> None:
    assert input_of(arguments) == expected


@pytest.mark.parametrize("thoughts", [Thoughts.HIDDEN, Thoughts.OMITTED])
def test_thinking_that_is_not_shown_is_no_silence(thoughts: Thoughts) -> None:
    encoder = MessageEncoder("msg_1", "m", thoughts)
    encoder.encode(Started(5))
    frames = [encoder.encode(ReasoningDelta(0, "Hm. ")) for _ in range(3 * SILENT_DELTAS)]
    assert frames.count(PING) >= 2
    assert b"Hm." not in b"".join(frames)
    assert encoder.comment() == PING


def test_an_omitted_thought_comes_back() -> None:
    thought = "Grüße! " * 1000
    signature = packed_signature(thought)
    assert thinking_in(signature, Unpacker()) == thought
    assert [thinking_in(text, Unpacker()) for text in ("", "gAAA", signature[:-8], "dmr1z.é")] == ["", "", "", ""]


def test_a_cut_call_still_has_its_input() -> None:
    encoder = MessageEncoder("msg_1", "m", Thoughts.HIDDEN)
    encoder.encode(Started(5))
    encoder.encode(ToolCallStart(0, 0, "call_1", "weather"))
    assert b'"partial_json":"{}"' in encoder.encode(Finished(0, FinishReason.LENGTH))
    encoder.encode(ToolCallStart(0, 1, "call_2", "weather"))
    encoder.encode(ToolCallDelta(0, 1, '{"a":1}'))
    assert b"partial_json" not in encoder.encode(Finished(0, FinishReason.TOOL_CALLS))
