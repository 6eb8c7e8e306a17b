"""Bodies to what is asked of the service, and bad bodies to errors."""

from __future__ import annotations

import json
import time
from typing import Any

import falcon.testing
import pytest
from fakes import FakeService

from dmr.errors import ContextLengthExceeded
from dmr.types import (
    ChatInput,
    Completed,
    Finished,
    FinishReason,
    GenerateRequest,
    Message,
    ResponseFormat,
    Role,
    SamplingParams,
    Started,
    TextDelta,
    TextPart,
    TokenCount,
    ToolCall,
    ToolChoice,
    Usage,
)
from dmr_server.responses.items import SUMMARY_OF_BEFORE, to_messages
from dmr_server.responses.sealed import seal, unseal
from dmr_server.unpacking import Unpacker

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER: dict[str, Any] = {"type": "function", "name": "weather", "description": "Sky.", "parameters": SCHEMA}
MAPS: dict[str, Any] = {
    "type": "namespace",
    "name": "maps",
    "description": "Maps.",
    "tools": [{"type": "function", "name": "find", "parameters": SCHEMA}, {"type": "custom", "name": "draw"}],
}
EVENTS = (Started(5), TextDelta(0, "ok"), Finished(0, FinishReason.STOP), Completed(Usage(5, 0, 1, 0)))


def text(role: Role, *parts: str) -> Message:
    return Message(role, tuple(map(TextPart, parts)))


class Asker:
    def __init__(self, client: falcon.testing.TestClient, service: FakeService) -> None:
        self.client = client
        self.service = service

    def post(self, body: dict[str, Any], path: str = "/v1/responses") -> falcon.testing.Result:
        self.service.enqueue(*EVENTS)
        return self.client.simulate_post(path, json={"model": "ai/smollm2", "input": "Hi", **body})

    def request(self, **body: Any) -> GenerateRequest:
        result = self.post(body)
        assert result.status_code == 200, result.text
        return self.service.requests[-1]

    def chat(self, **body: Any) -> ChatInput:
        conversation = self.request(**body).input
        assert isinstance(conversation, ChatInput)
        return conversation

    def messages(self, *items: Any, **body: Any) -> tuple[Message, ...]:
        return self.chat(input=list(items), **body).messages

    def fault(self, **body: Any) -> tuple[int, str, str]:
        result = self.post(body)
        assert set(result.json) == {"error"}
        error = result.json["error"]
        assert {"message", "type", "param", "code"} <= set(error)
        assert error["type"] == "invalid_request_error"
        return result.status_code, error["param"], error["message"]


@pytest.fixture
def ask(client: falcon.testing.TestClient, service: FakeService) -> Asker:
    return Asker(client, service)


def test_the_smallest_request(ask: Asker) -> None:
    assert ask.request() == GenerateRequest(
        "ai/smollm2", ChatInput((text(Role.USER, "Hi"),)), client=ask.service.requests[-1].client
    )


def test_a_full_request(ask: Asker) -> None:
    request = ask.request(
        instructions="Be brief.",
        max_output_tokens=9,
        temperature=0,
        top_p=0.5,
        top_logprobs=2,
        truncation="auto",
        parallel_tool_calls=False,
        reasoning={"effort": "high"},
        tools=[WEATHER],
        tool_choice="required",
        text={"format": {"type": "json_schema", "name": "a", "schema": SCHEMA, "strict": True}},
    )
    chat = request.input
    assert isinstance(chat, ChatInput)
    assert chat.messages == (text(Role.SYSTEM, "Be brief."), text(Role.USER, "Hi"))
    assert (chat.truncate, chat.parallel_tool_calls, chat.reasoning_effort) == (True, False, "high")
    assert chat.tool_choice is ToolChoice.REQUIRED
    assert request.sampling == SamplingParams(temperature=0, top_p=0.5)
    assert request.given == {"temperature", "top_p", "max_tokens"}
    assert (request.max_tokens, request.num_logprobs) == (9, 2)
    assert request.response_format == ResponseFormat(json.dumps(SCHEMA, separators=(",", ":")), strict=True)


@pytest.mark.parametrize(
    ("root", "status"),
    [
        ("/responses", 200),
        ("/v1/responses", 200),
        ("/engines/responses", 200),
        ("/engines/v1/responses", 200),
        ("/engines/llama.cpp/v1/responses", 200),
        ("/engines/vllm/v1/responses", 404),
    ],
)
def test_every_prefix(ask: Asker, root: str, status: int) -> None:
    created = ask.post({}, root)
    assert created.status_code == status
    id = created.json.get("id", "resp_0")
    for path in (f"{root}/{id}", f"{root}/{id}/input_items"):
        assert ask.client.simulate_get(path).status_code == status
    ask.service.replies.append(TokenCount(7, 2048))
    assert ask.post({}, f"{root}/input_tokens").status_code == status
    assert ask.client.simulate_post(f"{root}/{id}/cancel").status_code == (400 if status == 200 else 404)
    assert ask.client.simulate_delete(f"{root}/{id}").status_code == status


def test_roles_and_forms_of_messages(ask: Asker) -> None:
    assert ask.messages(
        {"role": "developer", "content": "a"},
        {"type": "message", "id": "m1", "role": "user", "content": [{"type": "input_text", "text": "b"}]},
        {"role": "assistant", "content": "c"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "d", "annotations": []}]},
        {"role": "system", "content": [{"type": "input_text", "text": "e"}, {"type": "text", "text": "f"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "g"}]},
        {"role": "user", "content": "h"},
    ) == (
        text(Role.SYSTEM, "a"),
        text(Role.USER, "b"),
        text(Role.ASSISTANT, "c"),
        text(Role.ASSISTANT, "d"),
        text(Role.SYSTEM, "e", "f"),
        text(Role.ASSISTANT, "g"),
        text(Role.USER, "h"),
    )


def test_a_turn_of_the_assistant_is_one_message(ask: Asker) -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city":"Rome"}'}
    assert ask.messages(
        {"role": "user", "content": "Sky?"},
        {"type": "reasoning", "summary": [], "encrypted_content": seal("Look it up.")},
        {"role": "assistant", "content": "Let me look."},
        call,
        {**call, "call_id": "c2", "arguments": ""},
        {"type": "function_call_output", "call_id": "c1", "output": "blue"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "red"}]},
        {"type": "custom_tool_call", "call_id": "c3", "name": "patch", "input": 'a"b'},
        {"type": "custom_tool_call_output", "call_id": "c3", "output": "done"},
        tools=[WEATHER],
    ) == (
        text(Role.USER, "Sky?"),
        Message(
            Role.ASSISTANT,
            (TextPart("Let me look."),),
            "Look it up.",
            (ToolCall("c1", "weather", '{"city":"Rome"}'), ToolCall("c2", "weather", "{}")),
        ),
        Message(Role.TOOL, (TextPart("blue"),), tool_call_id="c1"),
        Message(Role.TOOL, (TextPart("red"),), tool_call_id="c2"),
        Message(Role.ASSISTANT, tool_calls=(ToolCall("c3", "patch", '{"input":"a\\"b"}'),)),
        Message(Role.TOOL, (TextPart("done"),), tool_call_id="c3"),
    )


def test_a_thought_comes_back_in_three_ways_and_begins_a_turn(ask: Asker) -> None:
    answers = [{"role": "assistant", "content": letter} for letter in "abcd"]
    messages = ask.messages(
        {"role": "user", "content": "?"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": seal("one")},
        answers[0],
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "two"}]},
        answers[1],
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "three"}], "encrypted_content": "gAAA"},
        answers[2],
        {"type": "reasoning", "summary": []},
        answers[3],
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "left alone"}]},
    )
    assert [message.reasoning for message in messages] == ["", "one", "two", "three", ""]


def test_thoughts_in_a_row_are_joined_in_linear_time() -> None:
    thoughts = [{"type": "reasoning", "content": [{"text": text}]} for text in ["", "a", "", "b"]]
    (turn,) = to_messages([*thoughts, {"type": "message", "role": "assistant", "content": [{"text": "c"}]}])
    assert turn.reasoning == "a\n\n\n\nb"
    began = time.monotonic()
    to_messages([{"type": "reasoning", "content": [{"text": "a" * 1000}]}] * 20_000)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("words", ["", "kurz", "lang genug " * 200, "\U0001f600\n\0"])
def test_sealed_texts_come_back(words: str) -> None:
    assert unseal(seal(words), Unpacker()) == words


@pytest.mark.parametrize("sealed", ["", "!", "gAAAAABo", "AgAA", "Av//", "Af8=", seal("x" * 1000)[:-12], "é"])
def test_what_we_did_not_seal_is_not_ours(sealed: str) -> None:
    assert unseal(sealed, Unpacker()) is None


def test_unknown_items_and_parts_are_left_out(ask: Asker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "dmr.server")
    messages = ask.messages(
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
        {"type": "from_the_future", "data": {}},
        {"role": "user", "content": [{"type": "sticker"}, {"type": "input_text", "text": "Hi"}]},
    )
    assert messages == (text(Role.USER, "Hi"),)
    assert [word in caplog.text for word in ("web_search_call", "from_the_future", "sticker")] == [True] * 3


def test_a_compacted_history_is_read(ask: Asker) -> None:
    item = {"type": "compaction", "id": "cmp_1", "encrypted_content": seal("We met.")}
    assert ask.messages(item, {"role": "user", "content": "Hi"})[0] == text(Role.USER, SUMMARY_OF_BEFORE + "We met.")


def test_tools_of_a_namespace_and_hosted_ones(ask: Asker) -> None:
    chat = ask.chat(tools=[WEATHER, MAPS, {"type": "web_search"}, {"type": "mcp", "server_label": "x"}])
    assert [(tool.name, tool.description) for tool in chat.tools] == [
        ("weather", "Sky."),
        ("maps__find", "Maps."),
        ("maps__draw", "Maps."),
    ]
    assert chat.tools[2].strict
    assert json.loads(chat.tools[2].parameters)["required"] == ["input"]
    call = {"type": "function_call", "call_id": "c", "name": "find", "namespace": "maps", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c", "output": ""}
    assert ask.messages(call, output, tools=[MAPS])[0].tool_calls == (ToolCall("c", "maps__find", "{}"),)


def test_a_custom_tool_with_a_regex_is_held_to_it(ask: Asker) -> None:
    format = {"type": "grammar", "syntax": "regex", "definition": "[0-9]+"}
    chat = ask.chat(tools=[{"type": "custom", "name": "dial", "format": format}])
    assert json.loads(chat.tools[0].parameters)["properties"]["input"]["pattern"] == "^[0-9]+$"


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", (ToolChoice.AUTO, None)),
        ("none", (ToolChoice.NONE, None)),
        ("required", (ToolChoice.REQUIRED, None)),
        ({"type": "function", "name": "weather"}, (ToolChoice.REQUIRED, ("weather",))),
        ({"type": "function", "function": {"name": "weather"}}, (ToolChoice.REQUIRED, ("weather",))),
        ({"type": "function", "name": "find"}, (ToolChoice.REQUIRED, ("maps__find",))),
        ({"type": "custom", "name": "draw", "namespace": "maps"}, (ToolChoice.REQUIRED, ("maps__draw",))),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "weather"}]},
            (ToolChoice.AUTO, ("weather",)),
        ),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "custom", "name": "draw"}, {"type": "mcp", "server_label": "x"}],
            },
            (ToolChoice.REQUIRED, ("maps__draw",)),
        ),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "web_search"}]},
            (ToolChoice.NONE, ()),
        ),
    ],
)
def test_tool_choice(ask: Asker, choice: Any, expected: Any) -> None:
    chat = ask.chat(tools=[WEATHER, MAPS], tool_choice=choice)
    assert (chat.tool_choice, chat.allowed_tools) == expected
    assert len(chat.tools) == 3


@pytest.mark.parametrize(
    ("reasoning", "expected"),
    [(None, (True, None)), ({}, (True, None)), ({"effort": "none"}, (False, None)), ({"effort": "max"}, (True, "max"))],
)
def test_effort(ask: Asker, reasoning: Any, expected: Any) -> None:
    chat = ask.chat(reasoning=reasoning)
    assert (chat.enable_thinking, chat.reasoning_effort) == expected


IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,AA=="}
BY_ID = {"type": "input_image", "file_id": "file-1"}
NO_IMAGE, NO_SOUND = {"type": "input_image"}, {"type": "input_audio"}
SOUND = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "ogg"}}
CUSTOM_GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": "start: /x/"}


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"input": None}, "input", "Missing"),
        ({"input": []}, "input", "at least one"),
        ({"input": 3}, "input", "array"),
        ({"input": ["x"]}, "input[0]", "object"),
        ({"input": [{"content": "x"}]}, "input[0].type", "Missing"),
        ({"input": [{"role": "judge", "content": "x"}]}, "input[0].role", "user, system"),
        ({"input": [{"role": "user"}]}, "input[0].content", "Missing"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0].image_url",
            "Missing",
        ),
        ({"input": [{"role": "user", "content": [{**IMAGE, "image_url": "a"}]}]}, "input[0].content[0]", "data URI"),
        ({"input": [{"role": "user", "content": [{**IMAGE, "detail": "x"}]}]}, "input[0].content[0]", "'detail'"),
        ({"input": [{"role": "user", "content": [BY_ID]}]}, "input[0].content[0].file_id", "no uploaded files"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "input[0].content[0].input_audio",
            "object",
        ),
        ({"input": [{"role": "user", "content": [SOUND]}]}, "input[0].content[0].input_audio.format", "wav, mp3"),
        ({"input": [{"role": "assistant", "content": [IMAGE]}]}, "input[0].content", "text only"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0]", "files"),
        ({"input": [{"role": "user", "content": [{"text": "x"}]}]}, "input[0].content[0].type", "Missing"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text", "str"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id", "Missing"),
        ({"input": [{"type": "function_call", "name": "f", "call_id": 3}]}, "input[0].call_id", "str"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output", "Missing"),
        (
            {"input": [{"type": "function_call_output", "call_id": "c", "output": [{**IMAGE, "image_url": "b:"}]}]},
            "input[0].output[0]",
            "'b:'",
        ),
        (
            {"input": [{"type": "compaction", "encrypted_content": "gAAA"}]},
            "input[0].encrypted_content",
            "this server",
        ),
        ({"tools": [{"name": "f"}]}, "tools[0].type", "str"),
        ({"tools": [{"type": "function"}]}, "tools[0].name", "Missing"),
        ({"tools": [WEATHER, WEATHER]}, "tools", "twice"),
        (
            {"tools": [{"type": "custom", "name": "f", "format": CUSTOM_GRAMMAR}]},
            "tools[0].format.syntax",
            "regex",
        ),
        ({"tool_choice": "required"}, "tool_choice", "no tools"),
        ({"tool_choice": "maybe"}, "tool_choice", "'auto'"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice", "'f'"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice", "web_search"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", "json_schema"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name", "str"),
        ({"text": {"format": {"type": "json_schema", "name": "a b", "schema": {}}}}, "text.format.name", "letters"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema", "object"),
        ({"text": {"verbosity": "loud"}}, "text.verbosity", "loud"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort", "huge"),
        ({"include": ["everything"]}, "include[0]", "expected one of"),
        ({"stream_options": {}, "stream": False}, "stream_options", "stream"),
        ({"background": True, "store": False}, "background", "store"),
        ({"max_output_tokens": 0}, "max_output_tokens", ">= 1"),
        ({"temperature": 3}, "temperature", "2.0"),
        ({"top_logprobs": 21}, "top_logprobs", "20"),
        ({"truncation": "some"}, "truncation", "some"),
        ({"metadata": {"a": 1}}, "metadata", "str"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "16"),
        ({"conversation": {"id": "c"}}, "conversation", "previous_response_id"),
        ({"prompt": {"id": "p"}}, "prompt", "templates"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_bodies(ask: Asker, body: dict[str, Any], param: str, words: str, stream: bool) -> None:
    status, told, message = ask.fault(**{"stream": stream, **body})
    assert (status, told) == (400, param)
    assert words in message


def test_an_unknown_model_is_told_before_other_mistakes(ask: Asker) -> None:
    result = ask.client.simulate_post("/v1/responses", json={"model": "nobody", "input": 3})
    assert result.status_code == 404
    assert result.json["error"]["code"] == "model_not_found"


def test_a_prompt_that_is_too_long(ask: Asker) -> None:
    ask.service.enqueue(ContextLengthExceeded(9000, 8192))
    result = ask.client.simulate_post("/v1/responses", json={"model": "ai/smollm2", "input": "Hi"})
    error = result.json["error"]
    assert (result.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "input")
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (9000, 8192)


def test_preload_only(ask: Asker) -> None:
    body = {"model": "ai/smollm2"}
    result = ask.client.simulate_post("/v1/responses", json=body, headers={"X-Preload-Only": "true"})
    assert (result.status_code, result.content) == (200, b"")
    assert ask.service.preloaded == ["ai/smollm2"]


def test_input_tokens_counts_the_very_request(ask: Asker) -> None:
    ask.service.replies.append(TokenCount(31, 2048))
    body = {"instructions": "Be brief.", "tools": [WEATHER], "stream": True, "stream_options": {}}
    result = ask.post(body, "/v1/responses/input_tokens")
    assert result.json == {"object": "response.input_tokens", "input_tokens": 31}
    chat = ask.chat(instructions="Be brief.", tools=[WEATHER])
    assert ask.service.counted[0].input == chat


def test_compact_asks_for_a_summary_that_comes_back(ask: Asker) -> None:
    result = ask.post({"instructions": "Be brief."}, "/v1/responses/compact")
    conversation = ask.service.requests[-1].input
    assert isinstance(conversation, ChatInput)
    assert [message.text for message in conversation.messages[:2]] == ["Be brief.", "Hi"]
    assert "Sum up" in conversation.messages[2].text
    assert result.json["object"] == "response.compaction"
    assert ask.messages(*result.json["output"])[0].text == SUMMARY_OF_BEFORE + "ok"


def test_compact_of_a_kept_conversation(ask: Asker) -> None:
    first = ask.post({}).json["id"]
    ask.post({"input": None, "previous_response_id": first}, "/v1/responses/compact")
    conversation = ask.service.requests[-1].input
    assert isinstance(conversation, ChatInput)
    assert [message.text for message in conversation.messages[:2]] == ["Hi", "ok"]
    assert len(conversation.messages) == 3
