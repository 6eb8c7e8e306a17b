"""The official client, with its own bookkeeping and strict validation, against the app on a loopback port."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from socketserver import ThreadingMixIn
from typing import Any, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import openai
import pydantic
import pytest
from fakes import FakeService, Step

from dmr.config import Settings
from dmr.errors import EngineCrashed
from dmr.types import (
    Completed,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    Tick,
    TokenCount,
    ToolCallDelta,
    ToolCallStart,
    Usage,
)
from dmr_server.app import create_app

MODEL = "ai/smollm2:latest"
END = (Finished(0, FinishReason.STOP), Completed(Usage(5, 0, 3, 0)))
HELLO = (Started(5), ReasoningDelta(0, "They greet."), TextDelta(0, "Hello"), TextDelta(0, " world"), *END)
CALLS = (
    Started(5),
    TextDelta(0, "Let me look."),
    ToolCallStart(0, 0, "call_a", "weather"),
    ToolCallDelta(0, 0, '{"city":'),
    ToolCallDelta(0, 0, '"Rome"}'),
    ToolCallStart(0, 1, "call_b", "weather"),
    ToolCallDelta(0, 1, '{"city":"Oslo"}'),
    Finished(0, FinishReason.TOOL_CALLS),
    Completed(Usage(5, 0, 9, 0)),
)


class Sky(pydantic.BaseModel):
    city: str


class Threading(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def client(service: FakeService, settings: Settings) -> Iterator[openai.OpenAI]:
    app = create_app(cast(Any, service), settings)
    with make_server("127.0.0.1", 0, app, Threading, Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        with openai.OpenAI(base_url=url, api_key="x", max_retries=0, _strict_response_validation=True) as client:
            yield client
        server.shutdown()
        thread.join()


def test_create_continue_and_look_around(client: openai.OpenAI, service: FakeService) -> None:
    service.enqueue(*HELLO)
    first = client.responses.create(model=MODEL, input="Hi", metadata={"a": "b"})
    assert (first.output_text, first.status) == ("Hello world", "completed")
    assert first.usage is not None
    assert first.usage.total_tokens == 8
    service.enqueue(*HELLO)
    second = client.responses.create(model=MODEL, input="More", previous_response_id=first.id)
    assert client.responses.retrieve(second.id) == second
    items = list(client.responses.input_items.list(second.id, order="asc", limit=2))
    assert [item.type for item in items] == ["message", "reasoning", "message", "message"]
    service.replies.append(TokenCount(7, 2048))
    assert client.responses.input_tokens.count(model=MODEL, input="Hi").input_tokens == 7
    service.enqueue(*HELLO)
    compacted = client.responses.compact(model=MODEL, previous_response_id=second.id)
    assert [item.type for item in compacted.output] == ["compaction"]
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError):
        client.responses.cancel(second.id)


@pytest.mark.parametrize("stored", [True, False])
def test_the_stream_helper(client: openai.OpenAI, service: FakeService, stored: bool) -> None:
    service.enqueue(*HELLO)
    with client.responses.stream(model=MODEL, input="Hi", store=stored) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert deltas == ["Hello", " world"]
    assert [item.type for item in final.output] == ["reasoning", "message"]
    assert final.output_text == "Hello world"


def test_the_stream_helper_with_tools(client: openai.OpenAI, service: FakeService) -> None:
    service.enqueue(*CALLS)
    tools = [openai.pydantic_function_tool(Sky, name="weather")["function"]]
    offered: Any = [{"type": "function", **tool} for tool in tools]
    with client.responses.stream(model=MODEL, input="Sky?", tools=offered) as stream:
        final = stream.get_final_response()
    calls: Any = [item for item in final.output if item.type == "function_call"]
    assert [(call.call_id, call.name) for call in calls] == [("call_a", "weather"), ("call_b", "weather")]
    assert [call.arguments for call in calls] == ['{"city":"Rome"}', '{"city":"Oslo"}']


def test_parse(client: openai.OpenAI, service: FakeService) -> None:
    service.enqueue(Started(5), TextDelta(0, '{"city":"Rome"}'), *END)
    parsed = client.responses.parse(model=MODEL, input="Where?", text_format=Sky)
    assert parsed.output_parsed == Sky(city="Rome")
    wanted = service.requests[-1].response_format
    assert wanted is not None
    assert wanted.strict


def test_a_stream_that_breaks(client: openai.OpenAI, service: FakeService) -> None:
    service.enqueue(*HELLO[:3], EngineCrashed("The engine died."))
    events = list(client.responses.create(model=MODEL, input="Hi", stream=True))
    assert [event.type for event in events[-2:]] == ["error", "response.failed"]


def test_a_background_stream_is_taken_up_again(client: openai.OpenAI, service: FakeService) -> None:
    service.enqueue(*HELLO)
    seen = []
    with client.responses.create(model=MODEL, input="Hi", stream=True, background=True) as stream:
        for event in itertools.islice(stream, 4):
            seen.append(event)
    first: Any = seen[0]
    rest = list(client.responses.retrieve(first.response.id, stream=True, starting_after=seen[-1].sequence_number))
    assert [event.sequence_number for event in (*seen, *rest)] == list(range(len(seen) + len(rest)))
    last: Any = rest[-1]
    assert (last.type, last.response.output_text) == ("response.completed", "Hello world")


def test_a_background_answer_is_polled_and_cancelled(client: openai.OpenAI, service: FakeService) -> None:
    def for_ever() -> Iterator[Step]:
        yield Started(5)
        while True:
            time.sleep(0.02)
            yield Tick()

    service._scripts.append(for_ever())
    queued = client.responses.create(model=MODEL, input="Hi", background=True)
    assert queued.status == "queued"
    assert client.responses.cancel(queued.id).status == "cancelled"
    deadline = time.monotonic() + 5
    while not service.streams[0].closed and time.monotonic() < deadline:
        time.sleep(0.02)
    assert service.streams[0].closed
    assert client.responses.retrieve(queued.id).status == "cancelled"
