"""Ollama's official client against a real server."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from collections.abc import Iterator
from typing import Any

import ollama
import pytest
from e2e.conftest import Server, wait_until
from ollama import AsyncClient, Client
from tiny_models import (
    EMBED_SIZE,
    SCRIPT_ANSWER,
    SCRIPT_ANSWER_TOKENS,
    SCRIPT_COLOURS,
    SCRIPT_COMPLETION,
    SCRIPT_TOOL,
    SCRIPT_TOOL_ANSWER,
    SCRIPT_TOOL_ARGUMENTS,
    THINK_REASONING,
)

SCRIPT = "test/tiny-script"
ASK: Any = [{"role": "user", "content": "Count, please."}]
PERSON: Any = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}


def get_weather(city: str) -> str:
    """The weather in a city

    Args:
        city: Which city
    """
    return f"sunny in {city}"


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(host=server.url) as client:
        yield client


def test_a_whole_answer(client: Client) -> None:
    answer = client.chat(model=SCRIPT, messages=ASK)
    assert answer.message.content == SCRIPT_ANSWER
    assert answer.message.role == "assistant"
    assert answer.message.tool_calls is None
    assert (answer.done, answer.done_reason) == (True, "stop")
    assert answer.eval_count == SCRIPT_ANSWER_TOKENS
    assert answer.prompt_eval_count
    durations = (answer.load_duration, answer.prompt_eval_duration, answer.eval_duration)
    assert all(each is not None and each >= 0 for each in durations)
    assert answer.total_duration is not None
    assert answer.total_duration >= sum(each or 0 for each in durations)


def test_a_stream_says_the_same(client: Client) -> None:
    lines = list(client.chat(model=SCRIPT, messages=ASK, stream=True))
    assert "".join(line.message.content or "" for line in lines) == SCRIPT_ANSWER
    assert len(lines) >= SCRIPT_ANSWER_TOKENS, "the tokens came one by one"
    assert [line.done for line in lines] == [False] * (len(lines) - 1) + [True]
    assert lines[-1].eval_count == SCRIPT_ANSWER_TOKENS
    assert lines[-1].done_reason == "stop"


def test_generate_is_a_chat_of_one_turn(client: Client) -> None:
    whole = client.generate(model=SCRIPT, prompt="Count, please.")
    assert whole.response == SCRIPT_ANSWER
    assert whole.eval_count == SCRIPT_ANSWER_TOKENS
    lines = list(client.generate(model=SCRIPT, prompt="Count, please.", stream=True))
    assert "".join(line.response for line in lines) == SCRIPT_ANSWER
    assert lines[-1].prompt_eval_count == whole.prompt_eval_count
    colour = SCRIPT_COLOURS[0]
    assert client.generate(model=SCRIPT, system=f"Always say {colour} here.", prompt="Hi").response == colour
    assert client.generate(model=SCRIPT, prompt="Some text", raw=True).response == SCRIPT_COMPLETION
    framed = client.generate(model=SCRIPT, prompt="Some", template="{{ .Prompt }} text")
    assert framed.response == SCRIPT_COMPLETION


def test_the_context_of_an_answer_goes_on(client: Client) -> None:
    first = client.generate(model=SCRIPT, prompt="Count, please.")
    assert first.context
    assert first.eval_count
    again = client.generate(model=SCRIPT, prompt="Count, please.", context=list(first.context))
    assert again.response == SCRIPT_ANSWER
    assert first.prompt_eval_count
    # The earlier prompt and answer, and the new prompt.
    assert again.prompt_eval_count == len(first.context) + first.prompt_eval_count
    assert again.context
    assert list(again.context[: len(first.context)]) == list(first.context)


@pytest.mark.parametrize(
    ("options", "text", "reason"),
    [
        ({"num_predict": 3}, "One, two, three", "length"),
        ({"stop": [", four"]}, "One, two, three", "stop"),
        ({"num_predict": -1, "temperature": 0, "seed": 7, "num_ctx": 1024}, SCRIPT_ANSWER, "stop"),
    ],
)
def test_options_are_honoured(client: Client, options: Any, text: str, reason: str) -> None:
    chat = client.chat(model=SCRIPT, messages=ASK, options=options)
    generated = client.generate(model=SCRIPT, prompt="Count, please.", options=options)
    assert (chat.message.content, chat.done_reason) == (text, reason)
    assert (generated.response, generated.done_reason) == (text, reason)


def test_a_python_function_is_a_tool(client: Client) -> None:
    """As the client's own documentation has it: pass the function, call it, send back what it said."""
    ask: Any = [{"role": "user", "content": "How is the weather?"}]
    answer = client.chat(model=SCRIPT, messages=ask, tools=[get_weather])
    assert answer.message.tool_calls is not None
    (call,) = answer.message.tool_calls
    assert call.function.name == SCRIPT_TOOL
    assert call.function.arguments == json.loads(SCRIPT_TOOL_ARGUMENTS)
    assert answer.done_reason == "stop"
    said = get_weather(**call.function.arguments)
    history: Any = [*ask, answer.message, {"role": "tool", "tool_name": call.function.name, "content": said}]
    final = client.chat(model=SCRIPT, messages=history, tools=[get_weather])
    assert final.message.content == SCRIPT_TOOL_ANSWER
    streamed = list(client.chat(model=SCRIPT, messages=ask, tools=[get_weather], stream=True))
    calls = [call for line in streamed for call in line.message.tool_calls or ()]
    assert [call.function.arguments for call in calls] == [json.loads(SCRIPT_TOOL_ARGUMENTS)]


def test_a_thought_is_told_apart(client: Client) -> None:
    answer = client.chat(model="test/tiny-think", messages=ASK, think=True)
    assert (answer.message.thinking or "").strip() == THINK_REASONING
    assert (answer.message.content or "").strip() == SCRIPT_ANSWER
    lines = list(client.chat(model="test/tiny-think", messages=ASK, think=True, stream=True))
    kinds = ["thinking" if line.message.thinking else "content" for line in lines if not line.done]
    assert [kind for kind, _ in itertools.groupby(kinds)] == ["thinking", "content"]
    assert "".join(line.message.thinking or "" for line in lines).strip() == THINK_REASONING
    generated = client.generate(model="test/tiny-think", prompt="Count, please.", think=True)
    assert (generated.thinking or "").strip() == THINK_REASONING
    silent = client.chat(model="test/tiny-think", messages=ASK, think=False)
    assert silent.message.thinking is None
    assert (silent.message.content or "").strip() == SCRIPT_ANSWER
    with pytest.raises(ollama.ResponseError, match="does not support thinking") as refused:
        client.chat(model=SCRIPT, messages=ASK, think=True)
    assert refused.value.status_code == 400


@pytest.mark.parametrize("format", ["json", PERSON])
def test_a_format_is_kept(client: Client, format: Any) -> None:
    answer = client.chat(model=SCRIPT, messages=ASK, format=format, options={"num_predict": 200})
    value = json.loads(answer.message.content or "")
    assert isinstance(value, dict)
    if format is PERSON:
        assert isinstance(value["name"], str)
        assert isinstance(value["age"], int)


def test_texts_become_vectors(client: Client) -> None:
    answer = client.embed(model="test/tiny-embed", input=["a dog runs", "the dog runs", "snow"])
    assert [len(vector) for vector in answer.embeddings] == [EMBED_SIZE] * 3
    assert answer.prompt_eval_count
    for vector in answer.embeddings:
        assert math.isclose(sum(x * x for x in vector), 1.0, rel_tol=1e-3)
    near, far = (sum(map(float.__mul__, answer.embeddings[0], other)) for other in answer.embeddings[1:])
    assert near > far
    (alone,) = client.embed(model="test/tiny-embed", input="snow").embeddings
    assert alone == pytest.approx(answer.embeddings[2], abs=1e-4)
    (short,) = client.embed(model="test/tiny-embed", input="snow", dimensions=8).embeddings
    assert len(short) == 8
    old = client.embeddings(model="test/tiny-embed", prompt="snow").embedding
    assert len(old) == EMBED_SIZE
    long = "snow " * 1000
    assert len(client.embed(model="test/tiny-embed", input=long).embeddings) == 1, "cut, as is the default"
    with pytest.raises(ollama.ResponseError, match="exceeds the context length"):
        client.embed(model="test/tiny-embed", input=long, truncate=False)
    with pytest.raises(ollama.ResponseError) as refused:
        client.chat(model="test/tiny-embed", messages=ASK)
    assert refused.value.status_code == 400


def test_models_are_told_of(client: Client) -> None:
    names = {model.model for model in client.list().models}
    assert {"test/tiny-script:latest", "test/tiny-embed:latest"} <= names
    shown = client.show("test/tiny-think")
    assert {"completion", "tools", "thinking"} <= set(shown.capabilities or ())
    assert shown.modelinfo
    assert shown.modelinfo["general.architecture"] == "llama"
    assert shown.details
    assert shown.details.format == "gguf"
    assert "embedding" in (client.show("test/tiny-embed").capabilities or ())
    with pytest.raises(ollama.ResponseError, match="not found") as missing:
        client.show("nobody/nothing")
    assert missing.value.status_code == 404


def test_a_model_is_copied_and_deleted(client: Client) -> None:
    assert client.copy(SCRIPT, "test/copied").status == "success"
    assert client.chat(model="test/copied", messages=ASK).message.content == SCRIPT_ANSWER
    assert client.delete("test/copied").status == "success"
    assert "test/copied:latest" not in {model.model for model in client.list().models}
    assert client.chat(model=SCRIPT, messages=ASK).message.content == SCRIPT_ANSWER
    with pytest.raises(ollama.ResponseError) as missing:
        client.delete("test/copied")
    assert missing.value.status_code == 404


def test_a_model_is_loaded_and_unloaded_by_empty_requests(client: Client) -> None:
    def is_loaded() -> bool:
        return any(model.model == "test/tiny-random:latest" for model in client.ps().models)

    loaded = client.generate(model="test/tiny-random", keep_alive="10m")
    assert (loaded.response, loaded.done, loaded.done_reason) == ("", True, "load")
    (entry,) = (model for model in client.ps().models if model.model == "test/tiny-random:latest")
    assert entry.context_length == 2048
    assert entry.size
    assert entry.expires_at
    unloaded = client.chat(model="test/tiny-random", messages=[], keep_alive=0)
    assert (unloaded.message.content, unloaded.done_reason) == ("", "unload")
    wait_until(lambda: not is_loaded())


def test_log_probabilities_come_with_the_tokens(client: Client) -> None:
    answer = client.chat(model=SCRIPT, messages=ASK, logprobs=True, top_logprobs=2, options={"temperature": 0})
    assert answer.logprobs is not None
    assert "".join(entry.token for entry in answer.logprobs) == SCRIPT_ANSWER
    assert all(entry.logprob <= 0 and len(entry.top_logprobs or ()) == 2 for entry in answer.logprobs)


def test_errors_are_those_of_the_client(client: Client) -> None:
    with pytest.raises(ollama.ResponseError, match="not found") as missing:
        client.chat(model="nobody/nothing", messages=ASK)
    assert missing.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="temperature") as bad:
        client.chat(model=SCRIPT, messages=ASK, options={"temperature": "hot"})
    assert bad.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match="not found"):
        list(client.generate(model="nobody/nothing", prompt="Hi", stream=True))


def test_many_at_once_do_not_mix(server: Server) -> None:
    async def run() -> list[str]:
        async with AsyncClient(host=server.url) as client:

            async def answer(colour: str) -> str:
                ask: Any = [{"role": "user", "content": f"Which colour? {colour} of course"}]
                lines = await client.chat(model=SCRIPT, messages=ask, stream=True)
                return "".join([line.message.content or "" async for line in lines])

            return await asyncio.gather(*(answer(colour) for colour in SCRIPT_COLOURS * 2))

    assert asyncio.run(run()) == list(SCRIPT_COLOURS) * 2
