"""What a request for a message means, field by field, and how a wrong one is answered."""

from __future__ import annotations

import json
from typing import Any

import falcon.testing
import pytest
from fakes import FakeService

from dmr.types import (
    ChatInput,
    GenerateRequest,
    Message,
    ResponseFormat,
    Role,
    SamplingParams,
    TextPart,
    TokenCount,
    Tool,
    ToolChoice,
)

USER = {"role": "user", "content": "Hi"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"name": "weather", "description": "Tells it", "input_schema": SCHEMA}
CLOCK = {"type": "custom", "name": "clock", "input_schema": {"type": "object"}, "strict": True}
BASH = {"type": "bash_20250124", "name": "bash"}
LATER = {"name": "later", "input_schema": {}, "defer_loading": True}
SEARCH = {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"}
FORMAT = {"type": "json_schema", "schema": SCHEMA}

WEATHER_TOOL = Tool("weather", "Tells it", json.dumps(SCHEMA, separators=(",", ":")))
CLOCK_TOOL = Tool("clock", "", '{"type":"object"}', strict=True)
LATER_TOOL = Tool("later", "", "{}")


@pytest.fixture
def message(client: falcon.testing.TestClient, service: FakeService, answer: Any) -> Any:
    def ask(**body: Any) -> GenerateRequest:
        service.enqueue(*answer)
        base = {"model": "ai/smollm2", "max_tokens": 4096, "messages": [USER]}
        result = client.simulate_post("/v1/messages", json={**base, **body})
        assert result.status_code == 200, result.text
        return service.requests[-1]

    return ask


@pytest.fixture
def refused(client: falcon.testing.TestClient, service: FakeService) -> Any:
    def ask(**body: Any) -> str:
        base = {"model": "ai/smollm2", "max_tokens": 4096, "messages": [USER]}
        result = client.simulate_post("/v1/messages", json={**base, **body})
        assert result.status_code == 400, result.text
        assert service.requests == []
        assert result.json["type"] == "error"
        assert result.json["error"]["type"] == "invalid_request_error"
        assert result.json["request_id"] == result.headers["request-id"]
        return str(result.json["error"]["message"])

    return ask


def test_a_plain_request(message: Any) -> None:
    request = message()
    assert request == GenerateRequest(
        model="ai/smollm2",
        input=ChatInput((Message(Role.USER, (TextPart("Hi"),)),), enable_thinking=False),
        given=frozenset({"max_tokens"}),
        max_tokens=4096,
        client=request.client,
    )


def test_sampling(message: Any) -> None:
    request = message(temperature=0.25, top_p=0.5, top_k=7, stop_sequences=["a", "b"], seed=5)
    assert request.sampling == SamplingParams(temperature=0.25, top_p=0.5, top_k=7, seed=5)
    assert request.stop == ("a", "b")
    assert request.given == {"temperature", "top_p", "top_k", "seed", "max_tokens", "stop"}


def test_nulls_are_absent(message: Any) -> None:
    names = ("temperature", "top_k", "system", "tools", "tool_choice", "thinking", "output_config", "stop_sequences")
    assert message(**dict.fromkeys(names)) == message()


@pytest.mark.parametrize(
    ("thinking", "expected"),
    [
        (None, {"enable_thinking": False}),
        ({"type": "disabled"}, {"enable_thinking": False}),
        ({"type": "adaptive"}, {"enable_thinking": True}),
        ({"type": "adaptive", "display": "omitted"}, {"enable_thinking": True}),
        ({"type": "enabled", "budget_tokens": 1024}, {"enable_thinking": True, "reasoning_budget": 1024}),
        ({"type": "between_tools"}, {"enable_thinking": False}),
    ],
)
def test_thinking(message: Any, thinking: Any, expected: dict[str, Any]) -> None:
    asked = message(thinking=thinking).input
    assert asked == ChatInput((Message(Role.USER, (TextPart("Hi"),)),), **expected)


def test_thinking_between_tools_starts_with_the_first_result(message: Any) -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "Rain"}
    messages = [USER, {"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
    thinking = {"type": "between_tools"}
    assert message(thinking=thinking, messages=messages).input.enable_thinking
    beside = {"role": "user", "content": [result, {"type": "text", "text": "Go on."}]}
    assert message(thinking=thinking, messages=[*messages[:2], beside]).input.enable_thinking
    answered = [*messages, {"role": "assistant", "content": "Wet."}, USER]
    assert not message(thinking=thinking, messages=answered).input.enable_thinking


@pytest.mark.parametrize("effort", ["low", "medium", "high", "xhigh", "max"])
def test_effort(message: Any, effort: str) -> None:
    asked = message(thinking={"type": "adaptive"}, output_config={"effort": effort}).input
    assert (asked.enable_thinking, asked.reasoning_effort) == (True, effort)


@pytest.mark.parametrize("body", [{"output_config": {"format": FORMAT}}, {"output_format": FORMAT}])
def test_structured_output_is_strict(message: Any, body: Any) -> None:
    assert message(**body).response_format == ResponseFormat(json_schema=WEATHER_TOOL.parameters, strict=True)


def test_tools(message: Any) -> None:
    asked = message(tools=[WEATHER, CLOCK]).input
    assert asked.tools == (WEATHER_TOOL, CLOCK_TOOL)
    assert (asked.tool_choice, asked.allowed_tools, asked.parallel_tool_calls) == (ToolChoice.AUTO, None, True)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, (ToolChoice.AUTO, None, True)),
        ({"type": "any"}, (ToolChoice.REQUIRED, None, True)),
        ({"type": "none"}, (ToolChoice.NONE, None, True)),
        ({"type": "tool", "name": "clock"}, (ToolChoice.REQUIRED, ("clock",), True)),
        ({"type": "any", "disable_parallel_tool_use": True}, (ToolChoice.REQUIRED, None, False)),
        ({"type": "auto", "disable_parallel_tool_use": True}, (ToolChoice.AUTO, None, False)),
    ],
)
def test_tool_choice(message: Any, choice: Any, expected: Any) -> None:
    asked = message(tools=[WEATHER, CLOCK], tool_choice=choice).input
    assert asked.tools == (WEATHER_TOOL, CLOCK_TOOL)  # all are shown, so that the prompt stays the same
    assert (asked.tool_choice, asked.allowed_tools, asked.parallel_tool_calls) == expected


@pytest.mark.parametrize(
    "kind",
    [
        "web_search_20250305",
        "web_fetch_20260318",
        "bash_20250124",
        "text_editor_20250728",
        "code_execution_20260521",
        "memory_20250818",
        "computer_toolset_20260801",
        "tool_search_tool_bm25",
        "mcp_toolset",
    ],
)
def test_built_in_tools_are_left_out(message: Any, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "dmr.server")
    assert message(tools=[{"type": kind, "name": "it"}, WEATHER]).input.tools == (WEATHER_TOOL,)
    assert kind in caplog.text


def test_a_tool_that_only_code_may_call_is_left_out(message: Any) -> None:
    hidden = {**CLOCK, "allowed_callers": ["code_execution_20250825"]}
    assert message(tools=[WEATHER, hidden]).input.tools == (WEATHER_TOOL,)
    assert message(tools=[WEATHER, {**CLOCK, "allowed_callers": ["direct"]}]).input.tools == (WEATHER_TOOL, CLOCK_TOOL)


def referring(content: Any) -> list[Any]:
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": content}
    return [USER, {"role": "user", "content": [result]}]


FOUND = {"type": "tool_reference", "tool_name": "later"}
FOUND_BY_SERVER = {
    "type": "tool_search_tool_result",
    "tool_use_id": "srvtoolu_1",
    "content": {"type": "tool_search_tool_search_result", "tool_references": [FOUND]},
}
CALLED_BEFORE = {"type": "tool_use", "id": "toolu_2", "name": "later", "input": {}}


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ({}, False),
        ({"messages": referring([FOUND])}, True),
        ({"messages": [USER, {"role": "assistant", "content": [FOUND_BY_SERVER]}, USER]}, True),
        ({"messages": [USER, {"role": "assistant", "content": [CALLED_BEFORE]}, USER]}, True),
        ({"tool_choice": {"type": "tool", "name": "later"}}, True),
        ({"tools": [WEATHER, LATER, SEARCH]}, True),  # there is no search here that could find it
    ],
)
def test_a_deferred_tool_is_shown_when_it_is_referred_to(message: Any, body: Any, shown: bool) -> None:
    asked = message(**{"tools": [WEATHER, LATER], **body}).input
    assert asked.tools == ((WEATHER_TOOL, LATER_TOOL) if shown else (WEATHER_TOOL,))


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"max_tokens": None}, "Missing required parameter: 'max_tokens'"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": "7"}, "max_tokens"),
        ({"messages": None}, "Missing required parameter: 'messages'"),
        ({"messages": []}, "at least one message"),
        ({"messages": "Hi"}, "messages"),
        ({"stream": "yes"}, "stream"),
        ({"temperature": 1.5}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"top_k": "many"}, "top_k"),
        ({"stop_sequences": "a"}, "stop_sequences"),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"system": 7}, "system"),
        ({"system": [{"type": "image"}]}, "system[0].type"),
        ({"thinking": {"type": "often"}}, "thinking.type"),
        ({"thinking": {"type": "enabled"}}, "Missing required parameter: 'thinking.budget_tokens'"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1023}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 4096}}, "less than 'max_tokens'"),
        ({"thinking": {"type": "adaptive", "display": "loud"}}, "thinking.display"),
        ({"output_config": {"effort": "none"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "json_object"}}}, "output_config.format"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"output_config": {"format": FORMAT}, "output_format": FORMAT}, "exclude each other"),
        ({"output_config": {"task_budget": {"type": "tokens", "total": 9}}}, "task_budget"),
        ({"thread": {"type": "create"}}, "thread"),
        ({"compaction": {}}, "compaction"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"name": "a"}]}, "tools[0].input_schema"),
        ({"tools": [{"input_schema": {}}]}, "tools[0].name"),
        ({"tools": [{"name": "a", "input_schema": "x"}]}, "tools[0].input_schema"),
        ({"tools": [{"name": "a", "input_schema": {"type": "string"}}]}, "tools[0].input_schema.type"),
        ({"tools": [{"name": "", "input_schema": {}}]}, "printable name"),
        ({"tools": [WEATHER, WEATHER]}, "'weather' is there twice"),
        ({"tools": [LATER, WEATHER, LATER]}, "'later' is there twice"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].type"),
        ({"tool_choice": "auto", "tools": [WEATHER]}, "tool_choice"),
        ({"tool_choice": {"type": "required"}, "tools": [WEATHER]}, "tool_choice.type"),
        ({"tool_choice": {"type": "any"}}, "no tools"),
        ({"tool_choice": {"type": "any"}, "tools": [LATER]}, "no tools"),
        ({"tool_choice": {"type": "tool"}, "tools": [WEATHER]}, "tool_choice.name"),
        ({"tool_choice": {"type": "tool", "name": "clock"}, "tools": [WEATHER]}, "'clock'"),
        (
            {"tool_choice": {"type": "tool", "name": "bash"}, "tools": [{"type": "bash_20250124", "name": "bash"}]},
            "bash",
        ),
    ],
)
def test_bad_fields(refused: Any, body: Any, told: str) -> None:
    assert told in refused(**body)


def test_an_unknown_model_is_told_first(client: falcon.testing.TestClient) -> None:
    result = client.simulate_post("/v1/messages", json={"model": "nobody/none"})
    assert (result.status_code, result.json["error"]["type"]) == (404, "not_found_error")
    assert "nobody/none" in result.json["error"]["message"]


@pytest.mark.parametrize(("body", "told"), [(b"{", "JSON"), (b"", "empty"), (b"[]", "object"), (b'{"a":NaN}', "JSON")])
def test_bad_bodies(client: falcon.testing.TestClient, body: bytes, told: str) -> None:
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        result = client.simulate_post(path, body=body)
        assert (result.status_code, result.json["error"]["type"]) == (400, "invalid_request_error")
        assert told in result.json["error"]["message"]


# --- count_tokens ----------------------------------------------------------------------------------------------------


@pytest.fixture
def count(client: falcon.testing.TestClient, service: FakeService) -> Any:
    def ask(**body: Any) -> falcon.testing.Result:
        service.replies.append(TokenCount(123, 2048))
        return client.simulate_post("/v1/messages/count_tokens?beta=true", json={"model": "ai/smollm2", **body})

    return ask


def test_counting(count: Any, service: FakeService) -> None:
    result = count(messages=[USER])
    assert (result.status_code, result.json) == (200, {"input_tokens": 123})
    assert service.requests == []


def test_what_is_counted_is_what_is_asked(count: Any, message: Any, service: FakeService) -> None:
    body = {
        "system": "Be brief.",
        "tools": [WEATHER, LATER],
        "tool_choice": {"type": "any"},
        "thinking": {"type": "enabled", "budget_tokens": 2048},
        "messages": referring([FOUND]),
        "output_config": {"format": FORMAT},
    }
    asked = message(**body)
    assert count(**body).status_code == 200
    assert service.counted[-1].input == asked.input
    assert service.counted[-1].response_format == asked.response_format


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({}, 400, "messages"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, 400, "messages[0].role"),
        ({"messages": [USER], "model": None}, 400, "model"),
        ({"messages": [USER], "model": "nobody/none"}, 404, "nobody/none"),
        ({"model": "nobody/none"}, 404, "nobody/none"),
    ],
)
def test_bad_counts(count: Any, body: Any, status: int, told: str) -> None:
    result = count(**body)
    assert result.status_code == status
    assert told in result.json["error"]["message"]
