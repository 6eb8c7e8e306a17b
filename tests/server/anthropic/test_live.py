"""The official client against the app on a real socket, over scripted answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from socketserver import ThreadingMixIn
from typing import Any, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import anthropic
import pytest
from fakes import FakeService

from dmr.config import Settings
from dmr.errors import ContextLengthExceeded, EngineCrashed, ModelNotFound, Overloaded
from dmr.types import (
    Completed,
    Finished,
    FinishReason,
    ReasoningDelta,
    Role,
    Started,
    TextDelta,
    TokenCount,
    ToolCallDelta,
    ToolCallStart,
    Usage,
)
from dmr_server.app import create_app

MESSAGES: Any = [{"role": "user", "content": "Hi"}]
TOOL: Any = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
TOOL_ANSWER = (
    Started(9, 4),
    ReasoningDelta(0, "Rome it is."),
    ToolCallStart(0, 0, "call_1", "weather"),
    ToolCallDelta(0, 0, '{"city":'),
    ToolCallDelta(0, 0, '"Rome"}'),
    Finished(0, FinishReason.TOOL_CALLS),
    Completed(Usage(9, 4, 7, 3)),
)


class ThreadedServer(ThreadingMixIn, WSGIServer):
    pass


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def url(service: FakeService) -> Iterator[str]:
    app = create_app(cast(Any, service), Settings())
    with make_server("127.0.0.1", 0, app, ThreadedServer, Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(params=["", "/anthropic", "/engines", "/engines/llama.cpp"])
def any_url(url: str, request: pytest.FixtureRequest) -> str:
    return f"{url}{request.param}"


def connect(url: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key="none", max_retries=0, _strict_response_validation=True)


@pytest.fixture
def sdk(url: str) -> Iterator[anthropic.Anthropic]:
    with connect(url) as client:
        yield client


def test_every_base_url(any_url: str, service: FakeService, answer: Any) -> None:
    with connect(any_url) as client:
        service.enqueue(*answer)
        whole = client.messages.create(model="ai/smollm2", max_tokens=64, messages=MESSAGES)
        assert [block.type for block in whole.content] == ["text"]
        assert (whole.stop_reason, whole.usage.input_tokens, whole.usage.cache_read_input_tokens) == ("end_turn", 2, 3)
        assert whole._request_id
        service.replies.append(TokenCount(12, 2048))
        assert client.messages.count_tokens(model="ai/smollm2", messages=MESSAGES).input_tokens == 12


def test_streams(sdk: anthropic.Anthropic, service: FakeService, answer: Any) -> None:
    service.enqueue(*answer)
    with sdk.messages.stream(model="ai/smollm2", max_tokens=64, messages=MESSAGES) as stream:
        assert "".join(stream.text_stream) == "Hello world"
        final = stream.get_final_message()
    assert (final.stop_reason, final.usage.output_tokens, final.usage.input_tokens) == ("end_turn", 2, 2)


def test_a_tool_loop_with_thinking(sdk: anthropic.Anthropic, service: FakeService, answer: Any) -> None:
    service.enqueue(*TOOL_ANSWER)
    thinking: Any = {"type": "adaptive", "display": "omitted"}
    asked: Any = {"model": "ai/smollm2", "max_tokens": 64, "tools": [TOOL], "thinking": thinking}
    with sdk.messages.stream(messages=MESSAGES, **asked) as stream:
        first = stream.get_final_message()
    thought, call = first.content
    assert (thought.type, call.type, first.stop_reason) == ("thinking", "tool_use", "tool_use")
    assert (getattr(thought, "thinking", None), getattr(call, "input", None)) == ("", {"city": "Rome"})
    service.enqueue(*answer)
    result = {"type": "tool_result", "tool_use_id": getattr(call, "id", ""), "content": "Rain"}
    history = [*MESSAGES, first.to_param(), {"role": "user", "content": [result]}]
    assert sdk.messages.create(messages=history, **asked).stop_reason == "end_turn"
    chat: Any = service.requests[-1].input
    _, assistant, tool = chat.messages
    assert (assistant.reasoning, assistant.tool_calls[0].id) == ("Rome it is.", "call_1")
    assert (tool.role, tool.text, tool.tool_call_id, tool.name) == (Role.TOOL, "Rain", "call_1", "weather")


def test_whole_and_streamed_are_one_message(sdk: anthropic.Anthropic, service: FakeService) -> None:
    asked: Any = {"model": "ai/smollm2", "max_tokens": 64, "messages": MESSAGES, "thinking": {"type": "adaptive"}}
    service.enqueue(*TOOL_ANSWER)
    whole = sdk.messages.create(**asked)
    service.enqueue(*TOOL_ANSWER)
    with sdk.messages.stream(**asked) as stream:
        streamed = stream.get_final_message()
    assert streamed.to_dict() == {**whole.to_dict(), "id": streamed.id}


def test_beta_calls(sdk: anthropic.Anthropic, service: FakeService, answer: Any) -> None:
    service.enqueue(*answer)
    asked: Any = {"model": "ai/smollm2", "messages": MESSAGES, "betas": ["context-management-2025-06-27"]}
    edits: Any = {"edits": [{"type": "clear_thinking_20251015"}]}
    whole = sdk.beta.messages.create(max_tokens=64, context_management=edits, **asked)
    assert whole.stop_reason == "end_turn"
    service.replies.append(TokenCount(12, 2048))
    assert sdk.beta.messages.count_tokens(**asked).input_tokens == 12


def test_models(url: str) -> None:
    with connect(f"{url}/anthropic") as client:
        assert [model.id for model in client.models.list(limit=1)] == ["ai/smollm2:latest", "ai/smollm2:135M-Q4_1"]
        assert client.models.retrieve("ai/smollm2:latest").type == "model"
        assert client.beta.models.retrieve("ai/smollm2:latest").display_name == "ai/smollm2:latest"


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (Overloaded("Full."), anthropic._exceptions.OverloadedError, "Full."),
        (
            ContextLengthExceeded(9000, 8192),
            anthropic.BadRequestError,
            "prompt is too long: 9000 tokens > 8192 maximum",
        ),
        (EngineCrashed("Dead."), anthropic.InternalServerError, "Dead."),
    ],
)
def test_errors(sdk: anthropic.Anthropic, service: FakeService, error: Exception, kind: Any, told: str) -> None:
    for stream in (False, True):
        service.enqueue(error)
        with pytest.raises(kind) as raised:
            sdk.messages.create(model="ai/smollm2", max_tokens=64, messages=MESSAGES, stream=stream)
        assert raised.value.body["error"]["message"] == told
        assert raised.value.request_id


def test_unknown_models_and_bad_fields(sdk: anthropic.Anthropic, service: FakeService) -> None:
    service.enqueue(ModelNotFound("me/none"))
    with pytest.raises(anthropic.NotFoundError):
        sdk.messages.create(model="me/none", max_tokens=64, messages=MESSAGES)
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        sdk.messages.create(model="ai/smollm2", max_tokens=-1, messages=MESSAGES)


def test_an_error_in_mid_stream_is_raised(sdk: anthropic.Anthropic, service: FakeService) -> None:
    service.enqueue(Started(5), TextDelta(0, "He"), EngineCrashed("The engine died."))
    with sdk.messages.stream(model="ai/smollm2", max_tokens=64, messages=MESSAGES) as stream:
        with pytest.raises(anthropic.APIStatusError) as raised:
            stream.until_done()
        assert stream.current_message_snapshot.content[0].model_dump()["text"] == "He"
    body: Any = raised.value.body
    assert body["error"] == {"type": "api_error", "message": "The engine died."}
