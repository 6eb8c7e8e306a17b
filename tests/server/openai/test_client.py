"""The official Python client against the app, without a socket."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import falcon.testing
import httpx2
import openai
import pytest
from fakes import FakeService
from pydantic import BaseModel

from dmr.types import (
    Completed,
    Embeddings,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallStart,
    Usage,
)

MODEL = "ai/smollm2"
USER: Any = {"role": "user", "content": "Hi"}
END = Completed(Usage(5, 3, 2, 0))
CALL = (
    Started(5),
    ReasoningDelta(0, "Look."),
    ToolCallStart(0, 0, "call_a", "weather"),
    ToolCallDelta(0, 0, '{"city":'),
    ToolCallDelta(0, 0, '"Rome"}'),
    Finished(0, FinishReason.TOOL_CALLS),
    END,
)
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


class Answer(BaseModel):
    city: str


@pytest.fixture
def official(client: falcon.testing.TestClient) -> Iterator[openai.OpenAI]:
    transport = httpx2.WSGITransport(app=client.app)
    with (
        httpx2.Client(transport=transport) as http_client,
        openai.OpenAI(
            base_url="http://dmr/v1",
            api_key="any",
            http_client=http_client,
            max_retries=0,
            _strict_response_validation=True,
        ) as official,
    ):
        yield official


def test_embeddings_in_its_default_form(official: openai.OpenAI, service: FakeService) -> None:
    service.replies.append(Embeddings((struct.pack("<2f", 0.5, -1.0),), (3,)))
    # Its strict mode refuses the base64 that it asks for itself.
    lenient = official.with_options(_extra_kwargs={"_strict_response_validation": False})
    found = lenient.embeddings.create(model=MODEL, input="Hi")
    assert (found.data[0].embedding, found.usage.total_tokens) == ([0.5, -1.0], 3)


def test_a_streamed_tool_call(official: openai.OpenAI, service: FakeService) -> None:
    service.enqueue(*CALL)
    with official.chat.completions.stream(
        model=MODEL, messages=[USER], tools=[TOOL], stream_options={"include_usage": True}
    ) as stream:
        whole = stream.get_final_completion()
    message: Any = whole.choices[0].message
    call = message.tool_calls[0]
    assert (call.id, call.function.name, call.function.arguments) == ("call_a", "weather", '{"city":"Rome"}')
    assert (message.reasoning_content, message.reasoning) == ("Look.", "Look.")
    assert whole.usage is not None
    assert whole.usage.total_tokens == 7


def test_a_custom_tool(official: openai.OpenAI, service: FakeService) -> None:
    service.enqueue(
        Started(5),
        ToolCallStart(0, 0, "call_a", "shell"),
        ToolCallDelta(0, 0, '{"input":"ls"}'),
        Finished(0, FinishReason.TOOL_CALLS),
        END,
    )
    answer = official.chat.completions.create(
        model=MODEL, messages=[USER], tools=[{"type": "custom", "custom": {"name": "shell"}}]
    )
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].type == "custom"
    assert (calls[0].custom.name, calls[0].custom.input) == ("shell", "ls")


def test_a_parsed_answer(official: openai.OpenAI, service: FakeService) -> None:
    service.enqueue(Started(5), TextDelta(0, '{"city":"Rome"}'), Finished(0, FinishReason.STOP), END)
    answer = official.chat.completions.parse(model=MODEL, messages=[USER], response_format=Answer)
    assert answer.choices[0].message.parsed == Answer(city="Rome")
    asked = service.requests[0].response_format
    assert asked is not None
    assert asked.strict


def test_errors_are_its_own_classes(official: openai.OpenAI, service: FakeService) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        official.chat.completions.create(model="nope", messages=[], temperature=9)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        official.embeddings.create(model=MODEL, input="")
    assert wrong.value.param == "input"
    with pytest.raises(openai.InternalServerError) as missing:
        official.images.generate(prompt="a cat")
    assert (missing.value.status_code, missing.value.code) == (501, "not_implemented")
    assert official.models.delete(MODEL).deleted
