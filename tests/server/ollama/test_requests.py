"""From a body to what the engine is asked, or to the error that the client gets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import falcon.testing
import msgspec
import pytest
from fakes import FakeService

from dmr.errors import Conflict, InvalidReference
from dmr.types import (
    ChatInput,
    Event,
    GenerateRequest,
    Message,
    ResponseFormat,
    Role,
    SamplingParams,
    TextInput,
    TextPart,
    Tool,
    ToolCall,
)
from dmr_server.ollama.messages import read_messages

Client = falcon.testing.TestClient
HI = {"role": "user", "content": "Hi"}
DEFAULTS = SamplingParams(top_p=0.9, min_p=0.0)


def said(role: Role, text: str, **fields: Any) -> Message:
    return Message(role, (TextPart(text),) if text else (), **fields)


@pytest.fixture
def asked(client: Client, service: FakeService, answer: tuple[Event, ...]) -> Any:
    """Sends a body and gives the request that the service saw."""

    def ask(path: str, **body: Any) -> GenerateRequest:
        service.enqueue(*answer)
        result = client.simulate_post(f"/api/{path}", json={"model": "ai/smollm2", **body})
        assert result.status_code == 200, result.text
        return msgspec.structs.replace(service.requests[-1], client="")

    return ask


def refused(client: Client, path: str, body: dict[str, Any]) -> tuple[int, str]:
    result = client.simulate_post(f"/api/{path}", json={"model": "ai/smollm2", **body})
    assert result.headers["content-type"] == "application/json; charset=utf-8"
    assert set(result.json) == {"error"}
    return result.status_code, result.json["error"]


def test_the_smallest_generate(asked: Any) -> None:
    assert asked("generate", prompt="Hi") == GenerateRequest(
        model="ai/smollm2",
        input=ChatInput((said(Role.USER, "Hi"),), truncate=True),
        sampling=DEFAULTS,
        return_token_ids=True,
        shift=4,
    )


def test_the_smallest_chat(asked: Any) -> None:
    assert asked("chat", messages=[HI]) == GenerateRequest(
        model="ai/smollm2", input=ChatInput((said(Role.USER, "Hi"),), truncate=True), sampling=DEFAULTS, shift=4
    )


def test_nulls_are_absent(asked: Any) -> None:
    nulls = ("system", "suffix", "template", "context", "options", "format", "think", "keep_alive", "stream", "images")
    assert asked("generate", prompt="Hi", **dict.fromkeys(nulls)) == asked("generate", prompt="Hi")
    assert asked("chat", messages=[HI], tools=None, options={"top_k": None}) == asked("chat", messages=[HI])


def test_name_stands_for_model(asked: Any) -> None:
    assert asked("chat", model="", name="ai/smollm2", messages=[HI]).model == "ai/smollm2"


def test_options(asked: Any) -> None:
    request = asked(
        "chat",
        messages=[HI],
        options={
            "seed": 7.0,
            "top_k": -1,
            "temperature": 3,
            "mirostat": 2,
            "num_predict": 12.9,
            "num_ctx": 2,
            "num_keep": 9,
            "stop": ["a", ""],
            "num_gpu": 1,
            "tfs_z": 1,
        },
    )
    assert request.sampling == msgspec.structs.replace(DEFAULTS, seed=7, top_k=0, temperature=3.0, mirostat=2)
    assert (request.max_tokens, request.context_size, request.shift, request.stop) == (12, 4, 9, ("a",))
    sampling = {"seed", "top_k", "temperature", "mirostat"}
    assert request.given == sampling | {"max_tokens", "context_size", "shift", "stop"}


@pytest.mark.parametrize("num_predict", [-1, -2])
def test_a_negative_length_is_none(asked: Any, num_predict: int) -> None:
    request = asked("generate", prompt="Hi", options={"num_predict": num_predict})
    assert (request.max_tokens, request.given) == (None, {"max_tokens"})


def test_a_seed_of_minus_one_is_a_fresh_one_whatever_the_model_says(asked: Any) -> None:
    request = asked("generate", prompt="Hi", options={"seed": -1})
    assert (request.sampling.seed, request.given) == (None, {"seed"})


def test_a_stop_text_and_no_shift(asked: Any) -> None:
    request = asked("generate", prompt="Hi", options={"stop": "END"}, shift=False, truncate=False)
    assert (request.stop, request.shift, request.input.truncate) == (("END",), None, False)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"top_k": "5"}, 'option "top_k" must be of type integer'),
        ({"top_k": True}, 'option "top_k" must be of type integer'),
        ({"temperature": "hot"}, 'option "temperature" must be of type float32'),
        ({"use_mmap": 1}, 'option "use_mmap" must be of type boolean'),
        ({"num_gpu": []}, 'option "num_gpu" must be of type integer'),
        ({"stop": [1]}, 'option "stop" must be of an array of strings'),
        ({"stop": {"a": 1}}, 'option "stop" must be of an array of strings'),
        ({"top_p": 1.5}, 'option "top_p" must be between 0 and 1'),
        ({"mirostat": 3}, "Invalid value for 'mirostat': expected int <= 2."),
        ([], "Invalid value for 'options': expected object, got array."),
    ],
)
def test_wrong_options(client: Client, options: Any, text: str) -> None:
    assert refused(client, "generate", {"prompt": "Hi", "options": options}) == (400, text)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (42, 42),
        (42.5, 42.5),
        ("42m", 2520),
        (-1, -1),
        (-3.14, -1),
        ("-1m", -1),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("100ms", 0.1),
        ("0", 0),
        ("300", 300),
        ("-1", -1),
        ("", None),
        (1e300, -1),
        ("9999999h", -1),
    ],
)
def test_keep_alive(asked: Any, value: Any, seconds: float | None) -> None:
    assert asked("chat", messages=[HI], keep_alive=value).keep_alive == seconds


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "Unsupported type: 'bool'"),
        ([], "Unsupported type: 'list'"),
        ("soon", 'time: invalid duration "soon"'),
        ("5m x", 'time: invalid duration "5m x"'),
        ("9" * 99, "invalid duration: longer than 64 characters"),
    ],
)
def test_wrong_keep_alive(client: Client, value: Any, text: str) -> None:
    assert refused(client, "chat", {"messages": [HI], "keep_alive": value}) == (400, text)


@pytest.mark.parametrize(
    ("value", "schema"),
    [("json", '{"type":"object"}'), ({"type": "array"}, '{"type":"array"}'), ({}, "{}")],
)
def test_format(asked: Any, value: Any, schema: str) -> None:
    assert asked("generate", prompt="Hi", format=value).response_format == ResponseFormat(json_schema=schema)


@pytest.mark.parametrize("value", ["", None])
def test_no_format(asked: Any, value: Any) -> None:
    assert asked("generate", prompt="Hi", format=value).response_format is None


@pytest.mark.parametrize("value", ["xml", 1, ["json"], True])
def test_wrong_format(client: Client, value: Any) -> None:
    status, text = refused(client, "chat", {"messages": [HI], "format": value})
    assert status == 400
    assert text.startswith("invalid format: ")
    assert text.endswith('; expected "json" or a valid JSON Schema object')


@pytest.mark.parametrize(
    ("value", "enabled", "effort"),
    [(None, True, None), (True, True, None), (False, False, None), ("low", True, "low"), ("max", True, "max")],
)
def test_think(asked: Any, value: Any, enabled: bool, effort: str | None) -> None:
    chat = asked("chat", messages=[HI], think=value).input
    assert (chat.enable_thinking, chat.reasoning_effort) == (enabled, effort)


@pytest.mark.parametrize("value", ["much", 1, {}])
def test_wrong_think(client: Client, value: Any) -> None:
    status, text = refused(client, "generate", {"prompt": "Hi", "think": value})
    assert status == 400
    assert text.startswith("invalid think value: ")


@pytest.mark.parametrize("path", ["generate", "chat"])
@pytest.mark.parametrize("number", [-1, 21])
def test_top_logprobs_are_checked_before_the_model(client: Client, path: str, number: int) -> None:
    told = refused(client, path, {"model": "unknown", "top_logprobs": number})
    assert told == (400, "top_logprobs must be between 0 and 20")


@pytest.mark.parametrize(
    ("fields", "number"),
    [({}, None), ({"logprobs": True}, 0), ({"logprobs": True, "top_logprobs": 5}, 5), ({"top_logprobs": 5}, None)],
)
def test_logprobs(asked: Any, fields: dict[str, Any], number: int | None) -> None:
    assert asked("generate", prompt="Hi", **fields).num_logprobs == number


# --- generate --------------------------------------------------------------------------------------------------------


def test_a_system_text_and_a_context(asked: Any) -> None:
    request = asked("generate", prompt="Hi", system="Be brief.", context=[5, 6])
    assert request.input.messages == (said(Role.SYSTEM, "Be brief."), said(Role.USER, "Hi"))
    assert (request.prefix_tokens, request.return_token_ids) == ((5, 6), True)


def test_raw(asked: Any) -> None:
    request = asked("generate", prompt="<s>Hi", raw=True)
    assert (request.input, request.return_token_ids) == (TextInput(("<s>Hi",), truncate=True), False)


def test_a_suffix(asked: Any) -> None:
    request = asked("generate", prompt="def f(", suffix="return 1")
    assert request.input == TextInput(("def f(",), suffix="return 1", truncate=True)


def test_a_go_template(asked: Any) -> None:
    template = "{{ if .System }}S: {{ .System }}\n{{ end }}Q: {{ .Prompt }}\nA: {{ .Response }}</s>"
    request = asked("generate", prompt="Why?", system="Be brief.", template=template)
    assert request.input == TextInput(("S: Be brief.\nQ: Why?\nA: ",), truncate=True)


def test_a_go_template_with_a_suffix(asked: Any) -> None:
    template = "{{- if .Suffix }}<PRE> {{ .Prompt }} <SUF>{{ .Suffix }} <MID>{{ else }}{{ .Prompt }}{{ end }}"
    assert asked("generate", prompt="a", suffix="c", template=template).input.prompts == ("<PRE> a <SUF>c <MID>",)
    assert asked("generate", prompt="a", template=template).input.prompts == ("a",)


def test_a_jinja_template(asked: Any) -> None:
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    assert asked("generate", prompt="Hi", template=template).input.template == template


@pytest.mark.parametrize("extra", [{"template": "{{ .Prompt }}"}, {"system": "Be."}, {"context": [1]}])
def test_raw_stands_alone(client: Client, extra: dict[str, Any]) -> None:
    told = refused(client, "generate", {"prompt": "Hi", "raw": True, **extra})
    assert told == (400, "raw mode does not support template, system, or context")


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({"prompt": ["Hi"]}, "'prompt'"),
        ({"prompt": "Hi", "context": ["a"]}, "'context[0]'"),
        ({"prompt": "Hi", "context": [-1]}, "'context[0]'"),
        ({"prompt": "Hi", "raw": "yes"}, "'raw'"),
        ({"prompt": "Hi", "stream": "yes"}, "'stream'"),
        ({"prompt": "Hi", "template": "{{ if }}"}, "template"),
        ({"prompt": "Hi", "template": "{% %}", "suffix": "x"}, "Jinja"),
        ({"prompt": "Hi", "raw": True, "think": True}, "think"),
        ({"prompt": "Hi", "images": ["aGk="]}, "does not take images: it lacks the capability 'vision'"),
        ({"prompt": "Hi", "images": ["ZkxhQw=="]}, "does not take audio: it lacks the capability 'audio'"),
        ({"prompt": "Hi", "images": "aGk="}, "'images'"),
        ({"prompt": "Hi", "images": [5]}, "'images[0]'"),
        ({"prompt": "Hi", "images": ["a", "?"]}, "'images[0]': it is not valid base64"),
        ({"prompt": "Hi", "images": [""]}, "'images[0]': the file is empty"),
        ({"prompt": "Hi", "images": ["data:text/plain;base64,aGk="]}, "'text/plain' is no image"),
        ({"prompt": "Hi", "images": ["aGk="], "raw": True}, "leave out raw"),
        ({"prompt": "Hi", "images": ["aGk="], "suffix": "b"}, "leave out raw, suffix"),
        ({"prompt": "Hi", "images": ["aGk="], "template": "{{ .Prompt }}"}, "leave out raw, suffix and template"),
    ],
)
def test_wrong_generate(client: Client, body: dict[str, Any], part: str) -> None:
    status, text = refused(client, "generate", body)
    assert status == 400
    assert part in text


# --- chat ------------------------------------------------------------------------------------------------------------


def test_a_whole_conversation(asked: Any) -> None:
    call = {"function": {"name": "f", "arguments": {"b": 1, "a": "ö"}}}
    chat = asked(
        "chat",
        messages=[
            {"role": "System", "content": "Be brief."},
            {"role": "developer", "content": "Be nice."},
            HI,
            {"role": "assistant", "thinking": "Look.", "tool_calls": [call, {**call, "id": "mine"}, call]},
            {"role": "tool", "content": "1", "tool_call_id": "mine"},
            {"role": "tool", "content": "2", "tool_name": "f"},
            {"role": "tool", "content": "3"},
            {"role": "tool", "content": "4", "tool_name": "g"},
        ],
    ).input
    arguments = '{"b":1,"a":"ö"}'
    ids = ("call_3_0", "mine", "call_3_2")
    assert chat.messages == (
        said(Role.SYSTEM, "Be brief."),
        said(Role.SYSTEM, "Be nice."),
        said(Role.USER, "Hi"),
        said(Role.ASSISTANT, "", reasoning="Look.", tool_calls=tuple(ToolCall(id, "f", arguments) for id in ids)),
        said(Role.TOOL, "1", tool_call_id="mine", name="f"),
        said(Role.TOOL, "2", tool_call_id="call_3_0", name="f"),
        said(Role.TOOL, "3", tool_call_id="call_3_2", name="f"),
        said(Role.TOOL, "4", name="g"),
    )


def test_long_conversations_are_read_in_linear_time() -> None:
    call = {"function": {"name": "f"}}
    turns = [{"role": "assistant", "tool_calls": [call] * 40_000}]
    turns += [{"role": "tool", "content": "1", "tool_name": name} for name in ["g"] * 10_000 + ["f"] * 40_000]
    began = time.monotonic()
    *_, last = read_messages(turns)
    assert last.tool_call_id == "call_0_39999"
    assert time.monotonic() - began < 5


def test_arguments_as_text(asked: Any) -> None:
    calls = [{"function": {"name": "f", "arguments": text}} for text in ('{"a": 1}', "")]
    message = asked("chat", messages=[HI, {"role": "assistant", "tool_calls": calls}]).input.messages[1]
    assert [call.arguments for call in message.tool_calls] == ['{"a":1}', "{}"]


def test_tools_keep_their_schema(asked: Any) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1, "default": 2}}}
    function = {"name": "f", "description": "It.", "parameters": schema}
    tools = [{"type": "function", "function": function}, {"function": {"name": "g"}}]
    assert asked("chat", messages=[HI], tools=tools).input.tools == (
        Tool("f", "It.", '{"type":"object","properties":{"n":{"type":"integer","minimum":1,"default":2}}}'),
        Tool("g"),
    )


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({"messages": "Hi"}, "'messages'"),
        ({"messages": [{"content": "Hi"}]}, "'messages[0].role'"),
        ({"messages": [{"role": "judge", "content": "Hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]}, "content"),
        ({"messages": [{"role": "user", "content": 5}]}, "content"),
        ({"messages": [{**HI, "images": ["aGk="]}]}, "does not take images: it lacks the capability 'vision'"),
        ({"messages": [{**HI, "images": ["?"]}]}, "'messages[0].images[0]'"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]}, "function.name"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}]},
            "messages[0].tool_calls[0].function.arguments",
        ),
        ({"messages": [HI], "tools": [{"type": "web", "function": {"name": "f"}}]}, "tools[0].type"),
        ({"messages": [HI], "tools": [{"function": {"name": "f"}}] * 2}, "there twice"),
        ({"messages": [HI], "tools": [{"function": {"name": ""}}]}, "printable name"),
    ],
)
def test_wrong_chats(client: Client, body: dict[str, Any], part: str) -> None:
    status, text = refused(client, "chat", body)
    assert status == 400
    assert part in text


# --- models that are not there, or cannot ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "model", "told"),
    [
        ("generate", "", (404, "model '' not found")),
        ("chat", "", (400, "model is required")),
        ("embed", "", (400, "model is required")),
        ("embeddings", "", (400, "model is required")),
        ("show", "", (400, "model is required")),
        ("generate", "foo", (404, "model 'foo' not found")),
        ("chat", "foo", (404, "model 'foo' not found")),
        ("embed", "foo", (404, "model 'foo' not found")),
        ("embeddings", "foo", (404, "model 'foo' not found, try pulling it first")),
        ("show", "foo", (404, "model 'foo' not found")),
    ],
)
def test_unknown_models(client: Client, path: str, model: str, told: tuple[int, str]) -> None:
    body = {"model": model, "prompt": "Hi", "messages": [HI], "input": "Hi"}
    assert refused(client, path, body) == told


@pytest.mark.parametrize(
    ("features", "path", "body", "text"),
    [
        (("embedding",), "generate", {"prompt": "Hi"}, '"ai/smollm2" does not support generate'),
        (("embedding",), "chat", {"messages": [HI]}, '"ai/smollm2" does not support chat'),
        (("completion",), "chat", {"messages": [HI], "think": True}, '"ai/smollm2" does not support thinking'),
        (("completion",), "generate", {"prompt": "a", "think": "low"}, '"ai/smollm2" does not support thinking'),
        (("completion",), "generate", {"prompt": "a", "suffix": "b"}, '"ai/smollm2" does not support insert'),
        (
            ("completion",),
            "chat",
            {"messages": [HI], "tools": [{"function": {"name": "f"}}]},
            '"ai/smollm2" does not support tools',
        ),
    ],
)
def test_what_a_model_cannot_do(
    client: Client, service: FakeService, features: tuple[str, ...], path: str, body: dict[str, Any], text: str
) -> None:
    service.features = features
    assert refused(client, path, body) == (400, text)


@pytest.mark.parametrize("features", [(), ("completion",)])
def test_not_to_think_is_fine_everywhere(asked: Any, service: FakeService, features: tuple[str, ...]) -> None:
    service.features = features
    assert asked("chat", messages=[HI], think=False).input.enable_thinking is False
    assert asked("generate", prompt="Hi").input.enable_thinking is True


@pytest.mark.parametrize(("path", "options"), [("generate", {}), ("chat", {}), ("chat", {"top_k": "x"})])
def test_what_can_be_no_name_is_no_model(
    client: Client, service: FakeService, monkeypatch: Any, path: str, options: dict[str, Any]
) -> None:
    def fail(name: str) -> None:
        raise InvalidReference("bad")

    monkeypatch.setattr(service, "get_model", fail)
    body = {"model": "//", "prompt": "Hi", "messages": [HI], "options": options}
    assert refused(client, path, body) == (404, "model '//' not found")


# --- load, unload, look ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_an_empty_prompt_loads(client: Client, service: FakeService, stream: bool) -> None:
    result = client.simulate_post("/api/generate", json={"model": "ai/smollm2", "stream": stream})
    assert result.headers["content-type"] == "application/json; charset=utf-8"
    assert result.text == (
        '{"model":"ai/smollm2","created_at":"2023-11-14T22:13:20Z","response":"","done":true,"done_reason":"load"}'
    )
    assert service.preloaded == ["ai/smollm2"]


def test_no_messages_load(client: Client, service: FakeService) -> None:
    result = client.simulate_post("/api/chat", json={"model": "ai/smollm2", "messages": []})
    assert result.json["message"] == {"role": "assistant", "content": ""}
    assert (result.json["done"], result.json["done_reason"]) == (True, "load")
    assert service.preloaded == ["ai/smollm2"]


def test_loading_knows_for_how_long_and_how_much(client: Client, service: FakeService, monkeypatch: Any) -> None:
    asked: list[tuple[str, float | None, int | None]] = []

    def preload(model: str, keep_alive: float | None, context_size: int | None) -> Iterator[Event]:
        asked.append((model, keep_alive, context_size))
        yield from ()

    monkeypatch.setattr(service, "preload", preload)
    body = {"model": "ai/smollm2", "keep_alive": "10m", "options": {"num_ctx": 4096}}
    for path in ("generate", "chat", "embed", "embeddings"):
        assert client.simulate_post(f"/api/{path}", json=body).status_code == 200
    assert asked == [("ai/smollm2", 600, 4096)] * 4


@pytest.mark.parametrize("path", ["chat", "generate"])
@pytest.mark.parametrize("keep_alive", [0, 0.0, "0", "0s"])
def test_nothing_for_no_time_unloads(client: Client, service: FakeService, path: str, keep_alive: Any) -> None:
    result = client.simulate_post(f"/api/{path}", json={"model": "ai/smollm2", "keep_alive": keep_alive})
    assert (result.status_code, result.json["done_reason"]) == (200, "unload")
    assert (service.preloaded, service.unloaded) == ([], [["ai/smollm2"]])


def test_a_busy_model_is_unloaded_when_it_is_free(client: Client, service: FakeService, monkeypatch: Any) -> None:
    def busy(references: list[str]) -> int:
        raise Conflict("in use")

    monkeypatch.setattr(service, "unload_models", busy)
    result = client.simulate_post("/api/generate", json={"model": "ai/smollm2", "keep_alive": 0})
    assert (result.json["done_reason"], service.preloaded) == ("unload", ["ai/smollm2"])


@pytest.mark.parametrize(("path", "body"), [("generate", {"prompt": "Hi"}), ("chat", {"messages": [HI]})])
def test_the_prompt_can_be_looked_at(client: Client, service: FakeService, path: str, body: dict[str, Any]) -> None:
    service.replies.append("<s>Hi")
    result = client.simulate_post(f"/api/{path}", json={"model": "ai/smollm2", "_debug_render_only": True, **body})
    assert result.json == {
        "model": "ai/smollm2",
        "created_at": "2023-11-14T22:13:20Z",
        "_debug_info": {"rendered_template": "<s>Hi"},
    }
    assert service.requests == []
