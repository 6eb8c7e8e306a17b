"""What a request body means, and how a wrong one is answered."""

from __future__ import annotations

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
    TextInput,
    TextPart,
    Tool,
    ToolCall,
    ToolChoice,
)

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
USER = {"role": "user", "content": "Hi"}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "default": None}}}
CLOCK = {"type": "function", "function": {"name": "clock", "description": "Tells the time"}}


def understood(client: falcon.testing.TestClient, service: FakeService, path: str, body: Any, answer: Any) -> Any:
    service.enqueue(*answer)
    result = client.simulate_post(path, json={"model": "ai/smollm2", **body})
    assert result.status_code == 200, result.text
    return service.requests[-1]


@pytest.fixture
def chat(client: falcon.testing.TestClient, service: FakeService, answer: Any) -> Any:
    def ask(**body: Any) -> GenerateRequest:
        return understood(client, service, CHAT, {"messages": [USER], **body}, answer)

    return ask


@pytest.fixture
def complete(client: falcon.testing.TestClient, service: FakeService, answer: Any) -> Any:
    def ask(**body: Any) -> GenerateRequest:
        return understood(client, service, COMPLETIONS, body, answer)

    return ask


def test_a_plain_chat(chat: Any) -> None:
    request = chat()
    assert request == GenerateRequest(
        model="ai/smollm2",
        input=ChatInput((Message(Role.USER, (TextPart("Hi"),)),)),
        client=request.client,
    )


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("temperature", 0, {"temperature": 0.0}),
        ("temperature", None, {}),
        ("top_p", 0.5, {"top_p": 0.5}),
        ("top_k", 7, {"top_k": 7}),
        ("top_k", 7.0, {"top_k": 7}),
        ("top_k", -1, {"top_k": 0}),
        ("min_p", 0.1, {"min_p": 0.1}),
        ("typical_p", 0.9, {"typical_p": 0.9}),
        ("repeat_penalty", 1.1, {"repeat_penalty": 1.1}),
        ("repetition_penalty", 1.2, {"repeat_penalty": 1.2}),
        ("presence_penalty", -2, {"presence_penalty": -2.0}),
        ("frequency_penalty", 2, {"frequency_penalty": 2.0}),
        ("mirostat", 2, {"mirostat": 2}),
        ("mirostat_tau", 4.5, {"mirostat_tau": 4.5}),
        ("dry_multiplier", 0.8, {"dry_multiplier": 0.8}),
        ("dry_sequence_breakers", ["\n", "."], {"dry_sequence_breakers": ("\n", ".")}),
        ("xtc_probability", 0.5, {"xtc_probability": 0.5}),
        ("ignore_eos", True, {"ignore_eos": True}),
        ("seed", 2**63 - 1, {"seed": 2**63 - 1}),
        ("seed", -1, {}),
        ("logit_bias", {"15": -100, "7": 2.5}, {"logit_bias": ((15, -100.0), (7, 2.5))}),
        ("logit_bias", {}, {}),
    ],
)
def test_sampling(chat: Any, field: str, value: Any, expected: dict[str, Any]) -> None:
    assert chat(**{field: value}).sampling == SamplingParams(**expected)


@pytest.mark.parametrize(
    ("body", "field", "expected"),
    [
        ({"max_tokens": 5}, "max_tokens", 5),
        ({"max_tokens": 5.0}, "max_tokens", 5),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", 6),
        ({"max_tokens": None}, "max_tokens", None),
        ({"n": 128}, "num_choices", 128),
        ({"stop": "END"}, "stop", ("END",)),
        ({"stop": ["a", "b"]}, "stop", ("a", "b")),
        ({"stop": []}, "stop", ()),
        ({"stop": None}, "stop", ()),
        ({"logprobs": True}, "num_logprobs", 0),
        ({"logprobs": True, "top_logprobs": 20}, "num_logprobs", 20),
        ({"logprobs": False}, "num_logprobs", None),
        ({"response_format": {"type": "text"}}, "response_format", None),
        ({"response_format": {"type": "json_object"}}, "response_format", ResponseFormat('{"type":"object"}')),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": [None, 1]}}}},
            "response_format",
            ResponseFormat('{"enum":[null,1]}'),
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": {}}}},
            "response_format",
            ResponseFormat("{}", strict=True),
        ),
        ({"grammar": 'root ::= "a"'}, "response_format", ResponseFormat(grammar='root ::= "a"')),
        ({"json_schema": {"enum": [1]}}, "response_format", ResponseFormat('{"enum":[1]}')),
        ({"guided_json": '{"enum": [1]}'}, "response_format", ResponseFormat('{"enum":[1]}')),
        ({"guided_json": {"enum": [1]}}, "response_format", ResponseFormat('{"enum":[1]}')),
        ({"guided_grammar": 'root ::= "a"'}, "response_format", ResponseFormat(grammar='root ::= "a"')),
        (
            {"guided_choice": ["red", 'a "b"\\\n']},
            "response_format",
            ResponseFormat(grammar='root ::= "red" | "a \\"b\\"\\\\\\n"'),
        ),
        ({"structured_outputs": {"choice": ["a"]}}, "response_format", ResponseFormat(grammar='root ::= "a"')),
        ({"structured_outputs": {"json": {"enum": [1]}}}, "response_format", ResponseFormat('{"enum":[1]}')),
        ({"structured_outputs": {"json_object": True}}, "response_format", ResponseFormat('{"type":"object"}')),
        (
            {"structured_outputs": {"grammar": "root ::= [a]"}},
            "response_format",
            ResponseFormat(grammar="root ::= [a]"),
        ),
        ({"structured_outputs": {}}, "response_format", None),
        ({"response_format": {"type": "text"}, "grammar": "  "}, "response_format", None),
        ({"n_predict": 5}, "max_tokens", 5),
        ({"n_predict": -1}, "max_tokens", None),
        ({"n_predict": 9, "max_tokens": 5}, "max_tokens", 5),
        ({"max_tokens": 5, "stop": "a", "top_k": 3}, "given", frozenset({"max_tokens", "stop", "top_k"})),
        ({"max_completion_tokens": 5}, "given", frozenset({"max_tokens"})),
        ({"stop": []}, "given", frozenset()),
        ({"user": "me", "store": True, "metadata": {"a": "b"}, "unheard_of": [1]}, "max_tokens", None),
        ({"guided_json": None, "min_tokens": 0}, "max_tokens", None),
    ],
)
def test_limits_and_constraints(chat: Any, body: dict[str, Any], field: str, expected: Any) -> None:
    assert getattr(chat(**body), field) == expected


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"role": "developer", "content": "Be brief."}, Message(Role.SYSTEM, (TextPart("Be brief."),))),
        ({"role": "user", "content": [], "name": "Ann"}, Message(Role.USER, name="Ann")),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            Message(Role.USER, (TextPart("a"), TextPart("b"))),
        ),
        (
            {"role": "tool", "tool_call_id": "c1", "content": "21"},
            Message(Role.TOOL, (TextPart("21"),), tool_call_id="c1"),
        ),
        ({"role": "function", "name": "f", "content": "21"}, Message(Role.TOOL, (TextPart("21"),), name="f")),
        (
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}],
            },
            Message(Role.ASSISTANT, tool_calls=(ToolCall("c1", "f", '{"a":1}'),)),
        ),
        (
            {"role": "assistant", "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": {"a": 1}}}]},
            Message(Role.ASSISTANT, tool_calls=(ToolCall("c1", "f", '{"a":1}'),)),
        ),
        (
            {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
            Message(Role.ASSISTANT, tool_calls=(ToolCall("f", "f", "{}"),)),
        ),
        (
            {"role": "assistant", "content": "Hi", "reasoning_content": "Greet."},
            Message(Role.ASSISTANT, (TextPart("Hi"),), reasoning="Greet."),
        ),
        (
            {
                "role": "assistant",
                "tool_calls": [{"id": "c1", "type": "custom", "custom": {"name": "shell", "input": 'echo "a"'}}],
            },
            Message(Role.ASSISTANT, tool_calls=(ToolCall("c1", "shell", '{"input":"echo \\"a\\""}'),)),
        ),
        ({"role": "assistant", "refusal": "No."}, Message(Role.ASSISTANT, (TextPart("No."),))),
        (
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
            Message(Role.ASSISTANT, (TextPart("No."),)),
        ),
    ],
)
def test_messages(chat: Any, message: dict[str, Any], expected: Message) -> None:
    assert chat(messages=[message]).input.messages == (expected,)


WEATHER_TOOL = Tool("weather", "", '{"type":"object","default":null}')
CLOCK_TOOL = Tool("clock", "Tells the time")


SHELL = {"type": "custom", "custom": {"name": "shell", "description": "Runs it", "format": {"type": "text"}}}
SHELL_TOOL = Tool(
    "shell",
    "Runs it",
    '{"type":"object","properties":{"input":{"type":"string"}},"required":["input"],"additionalProperties":false}',
    strict=True,
)
ONLY_CLOCK = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "clock"}}]}


@pytest.mark.parametrize(
    ("body", "tools", "choice", "allowed"),
    [
        ({"tools": [WEATHER, CLOCK]}, (WEATHER_TOOL, CLOCK_TOOL), ToolChoice.AUTO, None),
        ({"tools": [WEATHER], "tool_choice": "none"}, (WEATHER_TOOL,), ToolChoice.NONE, None),
        ({"tools": [WEATHER], "tool_choice": "required"}, (WEATHER_TOOL,), ToolChoice.REQUIRED, None),
        ({"tool_choice": "auto"}, (), ToolChoice.AUTO, None),
        (
            {"tools": [{"type": "function", "function": {"name": "clock", "strict": True}}]},
            (Tool("clock", strict=True),),
            ToolChoice.AUTO,
            None,
        ),
        (
            {"tools": [WEATHER, CLOCK], "tool_choice": {"type": "function", "function": {"name": "clock"}}},
            (WEATHER_TOOL, CLOCK_TOOL),
            ToolChoice.REQUIRED,
            ("clock",),
        ),
        (
            {"tools": [WEATHER, CLOCK], "tool_choice": {"type": "allowed_tools", "allowed_tools": ONLY_CLOCK}},
            (WEATHER_TOOL, CLOCK_TOOL),
            ToolChoice.AUTO,
            ("clock",),
        ),
        (
            {"tools": [CLOCK], "tool_choice": {"type": "allowed_tools", "allowed_tools": {**ONLY_CLOCK, "tools": []}}},
            (CLOCK_TOOL,),
            ToolChoice.NONE,
            (),
        ),
        ({"tools": [SHELL, CLOCK]}, (SHELL_TOOL, CLOCK_TOOL), ToolChoice.AUTO, None),
        (
            {"tools": [SHELL, CLOCK], "tool_choice": {"type": "custom", "custom": {"name": "shell"}}},
            (SHELL_TOOL, CLOCK_TOOL),
            ToolChoice.REQUIRED,
            ("shell",),
        ),
        ({"functions": [CLOCK["function"]]}, (CLOCK_TOOL,), ToolChoice.AUTO, None),
        (
            {"functions": [CLOCK["function"]], "function_call": "none"},
            (CLOCK_TOOL,),
            ToolChoice.NONE,
            None,
        ),
        (
            {"functions": [WEATHER["function"], CLOCK["function"]], "function_call": {"name": "clock"}},
            (WEATHER_TOOL, CLOCK_TOOL),
            ToolChoice.REQUIRED,
            ("clock",),
        ),
    ],
)
def test_tools(
    chat: Any, body: dict[str, Any], tools: tuple[Tool, ...], choice: ToolChoice, allowed: tuple[str, ...] | None
) -> None:
    asked = chat(**body).input
    assert (asked.tools, asked.tool_choice, asked.allowed_tools) == (tools, choice, allowed)


def test_parallel_calls(chat: Any) -> None:
    assert chat(tools=[WEATHER]).input.parallel_tool_calls
    assert not chat(tools=[WEATHER], parallel_tool_calls=False).input.parallel_tool_calls
    assert not chat(functions=[CLOCK["function"]]).input.parallel_tool_calls


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, {}),
        ({"reasoning_effort": None}, {}),
        ({"reasoning_effort": "none"}, {"enable_thinking": False}),
        ({"reasoning_effort": "high"}, {"reasoning_effort": "high"}),
        ({"reasoning": {"effort": "low"}}, {"reasoning_effort": "low"}),
        ({"reasoning": {"effort": "low"}, "reasoning_effort": "max"}, {"reasoning_effort": "max"}),
        ({"reasoning": {"enabled": False}}, {"enable_thinking": False}),
        ({"reasoning": {"max_tokens": 64}}, {"reasoning_budget": 64}),
        ({"thinking_budget_tokens": 64}, {"reasoning_budget": 64}),
        ({"reasoning_budget_tokens": 0}, {"reasoning_budget": 0}),
        ({"reasoning_budget": -1, "thinking_budget": 32}, {"reasoning_budget": 32}),
        ({"enable_thinking": False}, {"enable_thinking": False}),
        ({"reasoning_format": "deepseek", "include_reasoning": False}, {}),
        (
            {"chat_template_kwargs": {"enable_thinking": False, "a": 1}},
            {"enable_thinking": False, "template_kwargs": {"a": 1}},
        ),
        ({"documents": [{"text": "a"}]}, {"template_kwargs": {"documents": [{"text": "a"}]}}),
        ({"chat_template": "{{ messages }}"}, {"template": "{{ messages }}"}),
        ({"continue_final_message": False}, {"continue_final": False}),
        ({"add_generation_prompt": False}, {}),
        ({"truncation": "auto"}, {"truncate": True}),
        ({"truncation": "disabled"}, {}),
    ],
)
def test_thinking_and_templates(chat: Any, body: dict[str, Any], expected: dict[str, Any]) -> None:
    assert chat(**body).input == ChatInput((Message(Role.USER, (TextPart("Hi"),)),), **expected)


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("Hi", ("Hi",)),
        (["a", "b"], ("a", "b")),
        ([1, 2], ((1, 2),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
        (None, ("",)),
    ],
)
def test_prompts(complete: Any, prompt: Any, prompts: Any) -> None:
    assert complete(prompt=prompt).input == TextInput(prompts)


def test_completion_defaults(complete: Any) -> None:
    request = complete(prompt="a", best_of=1, suffix="", logprobs=5)
    assert (request.max_tokens, request.num_logprobs, request.num_choices) == (16, 5, 1)
    assert request.given == frozenset()
    assert (request.best_of, request.input) == (None, TextInput(("a",)))


@pytest.mark.parametrize(
    ("body", "field", "expected"),
    [
        ({"best_of": 3, "n": 2}, "best_of", 3),
        ({"best_of": 2, "n": 2, "stream": True}, "best_of", None),
        ({"suffix": "end"}, "input", TextInput(("a",), suffix="end")),
        ({"echo": True}, "input", TextInput(("a",), echo=True)),
        ({"echo": True, "prompt": [1, 2]}, "input", TextInput(((1, 2),), echo=True)),
        ({"echo": True, "max_tokens": 0, "logprobs": 1}, "max_tokens", 0),
        ({"logprobs": 0}, "num_logprobs", 0),
        ({"n_predict": -1}, "max_tokens", None),
        ({"max_tokens": 9}, "given", frozenset({"max_tokens"})),
    ],
)
def test_completions(complete: Any, body: dict[str, Any], field: str, expected: Any) -> None:
    assert getattr(complete(**{"prompt": "a", **body}), field) == expected


def test_clients_are_told_apart_without_keeping_their_keys(
    client: falcon.testing.TestClient, service: FakeService, answer: Any
) -> None:
    for key in ("Bearer one", "Bearer two", "Bearer one"):
        service.enqueue(*answer)
        client.simulate_post(CHAT, json={"model": "m", "messages": [USER]}, headers={"Authorization": key})
    first, second, third = [request.client for request in service.requests]
    assert first == third != second
    assert "one" not in first


def messages(*content: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": list(content)}]}


def image(url: str, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def sound(data: str, form: str) -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": data, "format": form}}


def tool_choice(value: Any) -> dict[str, Any]:
    return {"tools": [WEATHER], "tool_choice": value}


def schema(value: Any) -> dict[str, Any]:
    return {"response_format": value}


BAD_CHAT: list[tuple[dict[str, Any], str, str]] = [
    ({"temperature": 2.1}, "temperature", "<= 2"),
    ({"temperature": "hot"}, "temperature", "got str"),
    ({"temperature": True}, "temperature", "got bool"),
    ({"top_p": 1.5}, "top_p", "<= 1"),
    ({"top_k": -2}, "top_k", ">= -1"),
    ({"top_k": 1.5}, "top_k", "expected int"),
    ({"min_p": -0.1}, "min_p", ">= 0"),
    ({"repetition_penalty": 0}, "repetition_penalty", "> 0"),
    ({"presence_penalty": 3}, "presence_penalty", "<= 2"),
    ({"frequency_penalty": -3}, "frequency_penalty", ">= -2"),
    ({"mirostat": 3}, "mirostat", "<= 2"),
    ({"dry_base": 1e300}, "dry_base", "<= 1000"),
    ({"ignore_eos": 1}, "ignore_eos", "expected bool"),
    ({"seed": 2**63}, "seed", "expected"),
    ({"logit_bias": {"a": 1}}, "logit_bias", "'a'"),
    ({"logit_bias": {"-1": 1}}, "logit_bias", "'-1'"),
    ({"logit_bias": {"0" * 11 + "9" * 5000: 1}}, "logit_bias", "not a token id"),
    ({"logit_bias": {"9" * 5000: 1}}, "logit_bias", "not a token id"),
    ({"logit_bias": {"1": 101}}, "logit_bias", "<= 100"),
    ({"logit_bias": [1]}, "logit_bias", "expected object"),
    ({"n": 0}, "n", ">= 1"),
    ({"n": 129}, "n", "<= 128"),
    ({"n": 10**30}, "n", "64 bits"),
    ({"max_tokens": 0}, "max_tokens", ">= 1"),
    ({"max_tokens": -1}, "max_tokens", ">= 1"),
    ({"max_completion_tokens": "5"}, "max_completion_tokens", "got str"),
    ({"stop": ""}, "stop", "length >= 1"),
    ({"stop": ["a", 1]}, "stop[1]", "got int"),
    ({"stop": ["a"] * 65}, "stop", "<= 64"),
    ({"top_logprobs": 3}, "top_logprobs", "'logprobs'"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "<= 20"),
    ({"logprobs": 5}, "logprobs", "expected bool"),
    ({"stream": "yes"}, "stream", "expected bool"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "'stream'"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage", "expected bool"),
    ({"messages": None}, "messages", "Missing"),
    ({"messages": []}, "messages", "at least one"),
    ({"messages": "Hi"}, "messages", "expected array"),
    ({"messages": ["Hi"]}, "messages[0]", "expected object"),
    ({"messages": [{"content": "Hi"}]}, "messages[0].role", "Missing"),
    ({"messages": [USER, {"role": "robot", "content": "Hi"}]}, "messages[1].role", "one of"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "Missing"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "got int"),
    ({"messages": [{"role": "tool", "content": "5"}]}, "messages[0].tool_call_id", "Missing"),
    (messages({"type": "text"}), "messages[0].content[0].text", "Missing"),
    (messages({"type": "poem"}), "messages[0].content[0].type", "'text'"),
    (messages({}), "messages[0].content[0].type", "'text'"),
    (messages({"type": "text", "text": "a"}, {"type": "image_url"}), "messages[0].content[1].image_url", "Missing"),
    (messages({"type": "image_url", "image_url": {}}), "messages[0].content[0].image_url.url", "Missing"),
    (messages({"type": "image_url", "image_url": 5}), "messages[0].content[0].image_url", "object"),
    (
        messages({"type": "image_url", "image_url": {"url": "a.png"}}),
        "messages[0].content[0].image_url.url",
        "data URI",
    ),
    (messages(image("file:///etc/passwd")), "messages[0].content[0].image_url.url", "'file:'"),
    (messages(image("gs://bucket/a.png")), "messages[0].content[0].image_url.url", "'gs:'"),
    (messages(image("data:image/png,abc")), "messages[0].content[0].image_url.url", "base64"),
    (messages(image("data:image/png;base64,a?")), "messages[0].content[0].image_url.url", "base64"),
    (messages(image("data:image/png;base64,")), "messages[0].content[0].image_url.url", "empty"),
    (messages(image("data:audio/wav;base64,AAAA")), "messages[0].content[0].image_url.url", "no image"),
    (messages(image("data:image/png;base64,AAAA", detail="x")), "messages[0].content[0].image_url.url", "'detail'"),
    (messages({"type": "input_audio"}), "messages[0].content[0].input_audio", "Missing"),
    (messages(sound("AAAA", "ogg")), "messages[0].content[0].input_audio.format", "wav, mp3"),
    (messages(sound("AAA", "wav")), "messages[0].content[0].input_audio.data", "base64"),
    (messages({"type": "file"}), "messages[0].content[0]", "files"),
    (messages({"type": "video_url"}), "messages[0].content[0]", "video"),
    (
        {"messages": [USER, {"role": "assistant", "content": [image("data:image/png;base64,AAAA")]}]},
        "messages[1].content",
        "text only",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"type": "custom"}]}]},
        "messages[0].tool_calls[0].custom",
        "Missing",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"type": "web"}]}]},
        "messages[0].tool_calls[0].type",
        "web",
    ),
    ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls[0].function", "Missing"),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]},
        "messages[0].tool_calls[0].function.name",
        "Missing",
    ),
    ({"tools": {}}, "tools", "expected array"),
    ({"tools": ["a"]}, "tools[0]", "expected object"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type", "'web_search'"),
    ({"tools": [{"type": "custom"}]}, "tools[0].custom", "expected object"),
    (
        {"tools": [{"type": "custom", "custom": {"name": "a", "format": {"type": "grammar"}}}]},
        "tools[0].custom.format",
        "'text'",
    ),
    ({"tools": [{"type": "function", "function": {"name": "a", "strict": 1}}]}, "tools[0].function.strict", "bool"),
    ({"tools": [{"type": "function"}]}, "tools[0].function", "expected object"),
    ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name", "Missing"),
    ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name", "printable"),
    (
        {"tools": [{"type": "function", "function": {"name": "a", "parameters": "{}"}}]},
        "tools[0].function.parameters",
        "expected object",
    ),
    ({"tools": [WEATHER, WEATHER]}, "tools", "twice"),
    ({"tool_choice": "required"}, "tool_choice", "no tools"),
    (tool_choice("maybe"), "tool_choice", "'required'"),
    (tool_choice({"type": "function"}), "tool_choice.function", "expected object"),
    (tool_choice({"type": "function", "function": {"name": "clock"}}), "tool_choice", "'clock'"),
    (tool_choice({"type": "custom", "custom": {"name": "a"}}), "tool_choice", "'a'"),
    (tool_choice({"type": "custom"}), "tool_choice.custom", "expected object"),
    (tool_choice({"type": "allowed_tools"}), "tool_choice.allowed_tools", "expected object"),
    (tool_choice({"type": "web"}), "tool_choice.type", "'function'"),
    (
        tool_choice({"type": "allowed_tools", "allowed_tools": {"mode": "all", "tools": []}}),
        "tool_choice.allowed_tools.mode",
        "'auto'",
    ),
    (
        tool_choice({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": []}}),
        "tool_choice.allowed_tools",
        "no tool",
    ),
    ({"functions": [{}]}, "functions[0].name", "Missing"),
    ({"functions": [{"name": "f"}], "function_call": {"name": "g"}}, "function_call", "'g'"),
    (schema("json"), "response_format", "expected object"),
    (schema({"type": "xml"}), "response_format.type", "'json_schema'"),
    (schema({"type": "json_schema"}), "response_format.json_schema", "Missing"),
    (schema({"type": "json_schema", "json_schema": {"schema": []}}), "response_format.json_schema.schema", "object"),
    ({"grammar": "root ::= " + "(" * 65}, "grammar", "64"),
    ({"grammar": "x" * 65_537}, "grammar", "longer"),
    ({"grammar": "a", "response_format": {"type": "json_object"}}, "grammar", "exclude"),
    ({"reasoning_effort": "huge"}, "reasoning_effort", "invalid enum"),
    ({"chat_template_kwargs": []}, "chat_template_kwargs", "expected object"),
    ({"chat_template_kwargs": {"enable_thinking": "no"}}, "chat_template_kwargs.enable_thinking", "bool"),
    ({"modalities": ["text", "audio"]}, "modalities", "audio"),
    ({"guided_json": "{"}, "guided_json", "not JSON"),
    ({"guided_json": "[]"}, "guided_json", "expected object"),
    ({"guided_choice": []}, "guided_choice", "length >= 1"),
    ({"guided_regex": "a+"}, "guided_regex", "not supported"),
    ({"structured_outputs": {"regex": "a+"}}, "structured_outputs.regex", "not supported"),
    ({"structured_outputs": {"json": {}, "choice": ["a"]}}, "structured_outputs", "more than one"),
    ({"structured_outputs": {"json": True}}, "structured_outputs.json", "expected object"),
    (
        schema({"type": "json_schema", "json_schema": {"name": "a", "strict": "yes"}}),
        "response_format.json_schema.strict",
        "expected bool",
    ),
    ({"reasoning": {"effort": "huge"}}, "reasoning.effort", "invalid enum"),
    ({"reasoning_budget": -2}, "reasoning_budget", ">= -1"),
    ({"reasoning_format": "none"}, "reasoning_format", "'deepseek'"),
    ({"truncation": "always"}, "truncation", "invalid enum"),
    (
        {"add_generation_prompt": False, "continue_final_message": False},
        "add_generation_prompt",
        "cannot be false",
    ),
    ({"skip_special_tokens": False}, "skip_special_tokens", "cannot be false"),
    ({"echo": True}, "echo", "/v1/completions"),
    (
        {"stream": True, "stream_options": {"continuous_usage_stats": True}},
        "stream_options.continuous_usage_stats",
        "include_usage",
    ),
    ({"min_tokens": 5}, "min_tokens", "not supported"),
    ({"model": 5}, "model", "expected str"),
    ({"model": ""}, "model", "required"),
    ({"model": None}, "model", "required"),
]

BAD_COMPLETIONS: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": []}, "prompt", "1 to 2048"),
    ({"prompt": ["a"] * 2049}, "prompt", "1 to 2048"),
    ({"prompt": [[]]}, "prompt[0]", "length >= 1"),
    ({"prompt": ["a", 1]}, "prompt[1]", "got int"),
    ({"prompt": [1, "a"]}, "prompt[1]", "got str"),
    ({"prompt": [-1]}, "prompt[0]", ">= 0"),
    ({"prompt": [True]}, "prompt[0]", "got bool"),
    ({"prompt": [2**31]}, "prompt[0]", "<= 2147483647"),
    ({"prompt": {"text": "a"}}, "prompt", "got object"),
    ({"max_tokens": 0}, "max_tokens", ">= 1"),
    ({"max_tokens": -1}, "max_tokens", ">= 0"),
    ({"logprobs": 6}, "logprobs", "<= 5"),
    ({"suffix": 5}, "suffix", "got int"),
    ({"n_predict": 0}, "max_tokens", ">= 1"),
    ({"best_of": 2, "stream": True}, "best_of", "streamed"),
    ({"best_of": 1, "n": 2}, "best_of", "smaller"),
]

BAD = [(CHAT, *case) for case in BAD_CHAT] + [(COMPLETIONS, *case) for case in BAD_COMPLETIONS]


@pytest.mark.parametrize(("path", "body", "param", "told"), BAD, ids=[f"{case[2]}-{i}" for i, case in enumerate(BAD)])
def test_a_bad_field_is_named(
    client: falcon.testing.TestClient, service: FakeService, path: str, body: Any, param: str, told: str
) -> None:
    sound = {"model": "ai/smollm2", "messages": [USER]} if path == CHAT else {"model": "ai/smollm2", "prompt": "a"}
    result = client.simulate_post(path, json={**sound, **body})
    error = result.json["error"]
    assert (result.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert told in error["message"]
    assert "`" not in error["message"]
    assert service.requests == []


def test_an_unknown_model_is_told_before_other_mistakes(client: falcon.testing.TestClient) -> None:
    result = client.simulate_post(CHAT, json={"model": "nope"})
    assert (result.status_code, result.json["error"]["code"]) == (404, "model_not_found")
