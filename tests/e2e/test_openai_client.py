"""The official client against a real server."""

from __future__ import annotations

import concurrent.futures
import json
from typing import Any

import openai
import pytest
from e2e.conftest import Server
from tiny_models import (
    SCRIPT_ANSWER,
    SCRIPT_ANSWER_TOKENS,
    SCRIPT_COLOURS,
    SCRIPT_COMPLETION,
    SCRIPT_TOOL,
    SCRIPT_TOOL_ANSWER,
    SCRIPT_TOOL_ARGUMENTS,
    THINK_REASONING,
)

ASK: Any = [{"role": "user", "content": "Count, please."}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": SCRIPT_TOOL,
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def test_a_whole_answer(server: Server) -> None:
    answer = server.client().chat.completions.create(model="test/tiny-script", messages=ASK)
    assert answer.choices[0].message.content == SCRIPT_ANSWER
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "test/tiny-script"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == SCRIPT_ANSWER_TOKENS
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + SCRIPT_ANSWER_TOKENS


def test_a_stream_says_the_same_and_ends_with_usage(server: Server) -> None:
    stream = server.client().chat.completions.create(
        model="test/tiny-script", messages=ASK, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == SCRIPT_ANSWER
    assert len(chunks) > SCRIPT_ANSWER_TOKENS, "the tokens came one by one"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == SCRIPT_ANSWER_TOKENS
    assert not chunks[-1].choices


@pytest.mark.parametrize(
    ("limit", "text", "reason"),
    [
        ({"max_tokens": 3}, "One, two, three", "length"),
        ({"max_completion_tokens": 1}, "One", "length"),
        ({"stop": [", four"]}, "One, two, three", "stop"),
        ({"stop": ["hree, fo", "nine"]}, "One, two, t", "stop"),
        ({"stop": "never said"}, SCRIPT_ANSWER, "stop"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_ends_where_it_should(
    server: Server, limit: dict[str, Any], text: str, reason: str, stream: bool
) -> None:
    answer = server.client().chat.completions.create(model="test/tiny-script", messages=ASK, stream=stream, **limit)
    if stream:
        chunks = [chunk.choices[0] for chunk in answer]
        assert "".join(chunk.delta.content or "" for chunk in chunks) == text
        assert chunks[-1].finish_reason == reason
    else:
        assert answer.choices[0].message.content == text
        assert answer.choices[0].finish_reason == reason


def test_several_choices_differ_and_the_prompt_counts_once(server: Server) -> None:
    ask: Any = [{"role": "user", "content": "abc"}]
    client = server.client()
    one = client.chat.completions.create(model="test/tiny-random", messages=ask, seed=5, max_tokens=12)
    three = client.chat.completions.create(model="test/tiny-random", messages=ask, seed=5, max_tokens=12, n=3)
    texts = [choice.message.content for choice in three.choices]
    assert [choice.index for choice in three.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert texts[0] == one.choices[0].message.content
    assert one.usage is not None
    assert three.usage is not None
    assert three.usage.prompt_tokens == one.usage.prompt_tokens
    assert three.usage.completion_tokens == 36


def test_a_seed_repeats_an_answer(server: Server) -> None:
    """On a quiet engine: docs/determinism.md says what other requests may change."""
    client = server.client()

    def answer(seed: int) -> str:
        reply = client.completions.create(
            model="test/tiny-random", prompt="The quick brown fox", seed=seed, max_tokens=24, temperature=1.0
        )
        return reply.choices[0].text

    answer(0)  # from now on the prompt is in the cache
    first = [answer(seed) for seed in range(4)]
    assert len(set(first)) == 4
    assert [answer(seed) for seed in range(4)] == first


def test_answers_do_not_mix(server: Server) -> None:
    client = server.client()

    def answer(colour: str) -> str:
        ask: Any = [{"role": "user", "content": f"Which colour? {colour} of course"}]
        reply = client.chat.completions.create(model="test/tiny-script", messages=ask)
        return (reply.choices[0].message.content or "").strip(". ")

    colours = list(SCRIPT_COLOURS) * 4
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert list(pool.map(answer, colours)) == colours


def test_a_second_turn_computes_only_what_is_new(server: Server) -> None:
    client = server.client()
    history: Any = [{"role": "user", "content": "A first question, long enough to be worth keeping."}]
    first = client.chat.completions.create(model="test/tiny-random", messages=history, max_tokens=8, temperature=0)
    history += [{"role": "assistant", "content": first.choices[0].message.content}, {"role": "user", "content": "And?"}]
    second = client.chat.completions.create(model="test/tiny-random", messages=history, max_tokens=8, temperature=0)
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    cached = second.usage.prompt_tokens_details.cached_tokens or 0
    assert first.usage.prompt_tokens <= cached + 1
    assert cached < second.usage.prompt_tokens


def test_logprobs_are_those_of_the_model(server: Server) -> None:
    answer = server.client().chat.completions.create(
        model="test/tiny-script", messages=ASK, logprobs=True, top_logprobs=3, temperature=0
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert "".join(entry.token for entry in logprobs.content) == SCRIPT_ANSWER
    for entry in logprobs.content:
        assert entry.logprob <= 0
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].token == entry.token
        assert entry.bytes == list(entry.token.encode())


def test_raw_completions(server: Server) -> None:
    client = server.client()
    answer = client.completions.create(model="test/tiny-script", prompt="Some text", max_tokens=16)
    assert answer.choices[0].text == SCRIPT_COMPLETION
    several = client.completions.create(model="test/tiny-script", prompt=["Some text", "Other text"], max_tokens=2, n=2)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    tokens = client.completions.create(model="test/tiny-script", prompt=[65, 66, 67], max_tokens=16, echo=False)
    assert tokens.choices[0].text == SCRIPT_COMPLETION
    stream = client.completions.create(model="test/tiny-script", prompt="Some text", max_tokens=16, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == SCRIPT_COMPLETION


def test_reasoning_comes_apart_from_the_answer(server: Server) -> None:
    answer = server.chat("test/tiny-think")
    message = answer["choices"][0]["message"]
    assert message["reasoning_content"].strip() == THINK_REASONING.strip()
    assert message["content"].strip() == SCRIPT_ANSWER


def test_tools_are_called_and_answered(server: Server) -> None:
    client = server.client()
    ask: Any = [{"role": "user", "content": "How is the weather?"}]
    reply = client.chat.completions.create(model="test/tiny-script", messages=ask, tools=[WEATHER], max_tokens=64)
    choice = reply.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    call: Any = choice.message.tool_calls[0]
    assert call.function.name == SCRIPT_TOOL
    assert json.loads(call.function.arguments) == json.loads(SCRIPT_TOOL_ARGUMENTS)
    history = [*ask, choice.message.model_dump(exclude_none=True)]
    history.append({"role": "tool", "tool_call_id": call.id, "content": "sunny"})
    final = client.chat.completions.create(model="test/tiny-script", messages=history, tools=[WEATHER], max_tokens=64)
    assert final.choices[0].message.content == SCRIPT_TOOL_ANSWER


def test_a_schema_is_kept(server: Server) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    answer = server.chat(
        "test/tiny-script",
        response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": schema}},
        max_tokens=200,
    )
    value = json.loads(answer["choices"][0]["message"]["content"])
    assert set(value) == {"name", "age"}


def test_models_are_listed_under_every_prefix(server: Server) -> None:
    for prefix in ("/v1", "/engines/v1", "/engines/llama.cpp/v1"):
        with openai.OpenAI(base_url=server.url + prefix, api_key="none") as client:
            names = {model.id for model in client.models.list()}
            assert {"test/tiny-script:latest", "test/tiny-random:latest"} <= names
            assert client.models.retrieve("test/tiny-script").object == "model"
            with pytest.raises(openai.NotFoundError):
                client.models.retrieve("nobody/nothing")


@pytest.mark.real
def test_the_starter_model_knows_its_capital(server: Server) -> None:
    answer = server.chat("ai/smollm2", "Name the capital of Italy.", temperature=0, max_tokens=24)
    assert "Rome" in answer["choices"][0]["message"]["content"]
