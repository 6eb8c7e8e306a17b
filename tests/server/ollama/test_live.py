"""The official client, plain and asynchronous, against the app on a loopback port."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from socketserver import ThreadingMixIn
from typing import Any, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import ollama
import pytest
from fakes import FakeService, model_record

from dmr.config import Settings
from dmr.errors import EngineCrashed
from dmr.types import (
    Completed,
    Embeddings,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    Timings,
    ToolCallDelta,
    ToolCallStart,
    Usage,
)
from dmr_server.app import create_app

END = (Finished(0, FinishReason.STOP, token_ids=(1, 2, 3)), Completed(Usage(5, 0, 3, 0), Timings(0.1, 0.2, 0.3, 0.4)))
ANSWER = (Started(5), TextDelta(0, "Hello"), TextDelta(0, " world"), *END)
MODEL = "ai/smollm2:latest"
MESSAGES = [{"role": "user", "content": "Hi"}]


class Threading(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def service() -> FakeService:
    return FakeService([model_record("docker.io/ai/smollm2:latest")])


@pytest.fixture
def url(service: FakeService) -> Iterator[str]:
    app = create_app(cast(Any, service), Settings())
    with make_server("127.0.0.1", 0, app, Threading, Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def client(url: str) -> Iterator[ollama.Client]:
    with ollama.Client(url) as client:
        yield client


def weather(city: str) -> str:
    """Tell the weather.

    Args:
        city: where
    """
    return f"Sun in {city}"


def test_generate(client: ollama.Client, service: FakeService) -> None:
    service.enqueue(*ANSWER)
    service.enqueue(*ANSWER)
    whole = client.generate(MODEL, "Hi", options={"num_predict": 5, "stop": ["x"]}, keep_alive="5m")
    assert (whole.response, whole.done, whole.done_reason) == ("Hello world", True, "stop")
    assert (whole.total_duration, whole.load_duration) == (1_000_000_000, 400_000_000)
    assert (whole.prompt_eval_count, whole.eval_count) == (5, 3)
    told = list(client.generate(MODEL, "And?", stream=True, context=whole.context))
    assert [part.response for part in told] == ["Hello", " world", ""]
    assert (service.requests[1].prefix_tokens, told[-1].context) == ((1, 2, 3), [1, 2, 3])


def test_chat(client: ollama.Client, service: FakeService) -> None:
    service.enqueue(Started(5), ReasoningDelta(0, "Greet."), TextDelta(0, "Hello"), *END)
    service.enqueue(*ANSWER)
    whole = client.chat(MODEL, MESSAGES, think=True, format={"type": "object"})
    assert (whole.message.thinking, whole.message.content) == ("Greet.", "Hello")
    parts = list(client.chat(MODEL, MESSAGES, stream=True, logprobs=True, top_logprobs=2))
    assert "".join(part.message.content or "" for part in parts) == "Hello world"
    assert [part.done for part in parts] == [False, False, True]


def test_a_tool_loop(client: ollama.Client, service: FakeService) -> None:
    call = (ToolCallStart(0, 0, "call_a", "weather"), ToolCallDelta(0, 0, '{"city":"Rome"}'))
    service.enqueue(Started(5), *call, *END)
    service.enqueue(*ANSWER)
    messages: list[Any] = list(MESSAGES)
    first = client.chat(MODEL, messages, tools=[weather])
    assert first.message.tool_calls is not None
    function = first.message.tool_calls[0].function
    assert (function.name, function.arguments) == ("weather", {"city": "Rome"})
    result = {"role": "tool", "content": weather(**function.arguments), "tool_name": function.name}
    client.chat(MODEL, [*messages, first.message, result], tools=[weather])
    _, called, answered = cast(Any, service.requests[1].input).messages
    assert called.tool_calls[0].arguments == '{"city":"Rome"}'
    assert (answered.text, answered.name, answered.tool_call_id) == ("Sun in Rome", "weather", called.tool_calls[0].id)


def test_embeddings(client: ollama.Client, service: FakeService) -> None:
    vector = b"\x00\x00\x80\x3f\x00\x00\x00\x00"
    service.replies.extend([Embeddings((vector, vector), (1, 2)), Embeddings((vector,), (1,))])
    assert client.embed(MODEL, ["a", "b"]).embeddings == [[1.0, 0.0], [1.0, 0.0]]
    assert client.embeddings(MODEL, "a").embedding == [1.0, 0.0]


def test_models(client: ollama.Client, service: FakeService) -> None:
    assert [model.model for model in client.list().models] == [MODEL]
    shown = client.show(MODEL)
    assert shown.modelinfo == {"general.architecture": "llama", "general.parameter_count": 134_520_000}
    assert client.ps().models == []
    assert client.copy(MODEL, "mine").status == "success"
    assert client.delete(MODEL).status == "success"
    assert client.list().models == []


def test_errors(client: ollama.Client, service: FakeService) -> None:
    with pytest.raises(ollama.ResponseError) as raised:
        client.chat("nobody", MESSAGES)
    assert (raised.value.status_code, raised.value.error) == (404, "model 'nobody' not found")
    with pytest.raises(ollama.ResponseError, match="must be between") as raised:
        list(client.generate(MODEL, "Hi", stream=True, options={"top_p": 7}))
    assert raised.value.status_code == 400
    service.enqueue(Started(5), TextDelta(0, "He"), EngineCrashed("The engine died."))
    with pytest.raises(ollama.ResponseError, match=r"The engine died\."):
        list(client.generate(MODEL, "Hi", stream=True))


def test_the_asynchronous_client(url: str, service: FakeService) -> None:
    async def talk() -> tuple[str, str]:
        client = ollama.AsyncClient(url)
        whole = await client.chat(MODEL, MESSAGES)
        parts = [part.response or "" async for part in await client.generate(MODEL, "Hi", stream=True)]
        await client._client.aclose()
        return whole.message.content or "", "".join(parts)

    service.enqueue(*ANSWER)
    service.enqueue(*ANSWER)
    assert asyncio.run(talk()) == ("Hello world", "Hello world")
