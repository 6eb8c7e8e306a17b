"""OpenAI's Responses API, by its official client, against a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import openai
import pydantic
import pytest
from e2e.conftest import Server
from openai import AsyncOpenAI, OpenAI
from tiny_models import (
    SCRIPT_ANSWER,
    SCRIPT_ANSWER_TOKENS,
    SCRIPT_COLOURS,
    SCRIPT_TOOL,
    SCRIPT_TOOL_ANSWER,
    SCRIPT_TOOL_ARGUMENTS,
    THINK_REASONING,
)

SCRIPT = "test/tiny-script"
WEATHER: Any = {
    "type": "function",
    "name": SCRIPT_TOOL,
    "description": "The weather in a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


@pytest.fixture
def client(server: Server) -> OpenAI:
    return server.client()


def test_a_whole_answer(client: OpenAI) -> None:
    response = client.responses.create(model=SCRIPT, input="Count, please.")
    assert response.output_text == SCRIPT_ANSWER
    assert (response.object, response.status, response.model) == ("response", "completed", SCRIPT)
    assert response.error is None
    assert response.usage is not None
    assert response.usage.output_tokens == SCRIPT_ANSWER_TOKENS
    assert response.usage.total_tokens == response.usage.input_tokens + SCRIPT_ANSWER_TOKENS
    (message,) = response.output
    assert (message.type, message.status) == ("message", "completed")


def test_a_stream_says_the_same_in_the_documented_order(client: OpenAI) -> None:
    with client.responses.stream(model=SCRIPT, input="Count, please.") as stream:
        events = list(stream)
        final = stream.get_final_response()
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert len(kinds[4:-4]) >= SCRIPT_ANSWER_TOKENS - 1, "the tokens came one by one"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert final.output_text == SCRIPT_ANSWER
    assert final.usage is not None
    assert final.usage.output_tokens == SCRIPT_ANSWER_TOKENS


def test_a_short_answer_is_incomplete(client: OpenAI) -> None:
    response = client.responses.create(model=SCRIPT, input="Count, please.", max_output_tokens=3)
    assert response.output_text == "One, two, three"
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"


def test_a_conversation_goes_on_from_what_is_kept(client: OpenAI) -> None:
    colour = SCRIPT_COLOURS[1]
    first = client.responses.create(model=SCRIPT, input=f"Say {colour} from now on.")
    second = client.responses.create(model=SCRIPT, input="Count, please.", previous_response_id=first.id)
    third = client.responses.create(model=SCRIPT, input="Count, please.", previous_response_id=second.id)
    assert [each.output_text for each in (first, second, third)] == [colour] * 3, "it has read the first turn"
    assert third.previous_response_id == second.id
    usages = [each.usage for each in (first, second, third)]
    assert all(usage is not None for usage in usages)
    sizes = [usage.input_tokens for usage in usages if usage is not None]
    assert sizes[0] < sizes[1] < sizes[2]
    assert usages[2] is not None
    assert usages[2].input_tokens_details.cached_tokens >= sizes[1] - 1
    # Instructions are those of one request only.
    loud = client.responses.create(model=SCRIPT, instructions=f"Only {colour} is said.", input="Count, please.")
    quiet = client.responses.create(model=SCRIPT, input="Count, please.")
    assert (loud.output_text, quiet.output_text) == (colour, SCRIPT_ANSWER)
    after = client.responses.create(model=SCRIPT, input="Count, please.", previous_response_id=loud.id)
    assert colour in after.output_text, "the earlier answer itself is still there"


def test_tools_are_called_and_answered(client: OpenAI) -> None:
    ask = "How is the weather?"
    first = client.responses.create(model=SCRIPT, input=ask, tools=[WEATHER])
    (call,) = first.output
    assert call.type == "function_call"
    assert call.name == SCRIPT_TOOL
    assert json.loads(call.arguments) == json.loads(SCRIPT_TOOL_ARGUMENTS)
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    kept = client.responses.create(model=SCRIPT, previous_response_id=first.id, input=[output], tools=[WEATHER])
    assert kept.output_text == SCRIPT_TOOL_ANSWER
    history: Any = [{"role": "user", "content": ask}, *first.output, output]
    sent = client.responses.create(model=SCRIPT, input=history, tools=[WEATHER], store=False)
    assert sent.output_text == SCRIPT_TOOL_ANSWER
    assert sent.usage is not None
    assert kept.usage is not None
    assert sent.usage.input_tokens == kept.usage.input_tokens


def test_the_arguments_of_a_call_are_streamed(client: OpenAI) -> None:
    with client.responses.stream(model=SCRIPT, input="How is the weather?", tools=[WEATHER]) as stream:
        events: list[Any] = list(stream)
        final = stream.get_final_response()
    pieces = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert json.loads("".join(pieces)) == json.loads(SCRIPT_TOOL_ARGUMENTS)
    (call,) = final.output
    assert call.type == "function_call"
    assert call.arguments == "".join(pieces)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "set_alarm"}])
def test_a_forced_tool_is_called(client: OpenAI, choice: Any) -> None:
    parameters = {"type": "object", "properties": {"hour": {"type": "integer"}}, "required": ["hour"]}
    alarm: Any = {"type": "function", "name": "set_alarm", "parameters": parameters, "strict": False}
    response = client.responses.create(
        model=SCRIPT,
        input="Count, please.",
        tools=[alarm],
        tool_choice=choice,
        parallel_tool_calls=choice != "required",  # who names a tool wants one call of it without a word
        max_output_tokens=200,
    )
    (call,) = response.output
    assert call.type == "function_call"
    assert call.name == "set_alarm"
    assert isinstance(json.loads(call.arguments)["hour"], int)


class Person(pydantic.BaseModel):
    name: str
    age: int


def test_an_answer_is_parsed_into_a_model(client: OpenAI) -> None:
    response = client.responses.parse(model=SCRIPT, input="Who?", text_format=Person, max_output_tokens=200)
    assert isinstance(response.output_parsed, Person)
    with client.responses.stream(model=SCRIPT, input="Who?", text_format=Person, max_output_tokens=200) as stream:
        stream.until_done()
        assert isinstance(stream.get_final_response().output_parsed, Person)


def test_a_thought_is_an_item_of_its_own(client: OpenAI) -> None:
    response = client.responses.create(model="test/tiny-think", input="Count, please.", store=False)
    thought, message = response.output
    assert thought.type == "reasoning"
    assert thought.content is not None
    assert "".join(part.text for part in thought.content).strip() == THINK_REASONING
    assert thought.encrypted_content, "what is not kept can be brought back"
    assert message.type == "message"
    assert response.output_text.strip() == SCRIPT_ANSWER
    assert response.usage is not None
    assert response.usage.output_tokens_details.reasoning_tokens > 0
    history: Any = [{"role": "user", "content": "Count."}, *response.output, {"role": "user", "content": "Again."}]
    again = client.responses.create(model="test/tiny-think", input=history, store=False)
    assert again.output_text.strip() == SCRIPT_ANSWER
    summed = client.responses.create(model="test/tiny-think", input="Count.", reasoning={"summary": "auto"})
    assert summed.output[0].type == "reasoning"
    assert "".join(part.text for part in summed.output[0].summary).strip() == THINK_REASONING
    silent = client.responses.create(model="test/tiny-think", input="Count.", reasoning={"effort": "none"})
    assert [item.type for item in silent.output] == ["message"]


def test_what_is_kept_can_be_fetched_and_deleted(client: OpenAI) -> None:
    made = client.responses.create(model=SCRIPT, input="Count, please.", metadata={"who": "me"})
    found = client.responses.retrieve(made.id)
    assert found.output_text == SCRIPT_ANSWER
    assert found.metadata == {"who": "me"}
    items = list(client.responses.input_items.list(made.id))
    assert [item.type for item in items] == ["message"]
    assert "Count, please." in items[0].to_json()
    client.responses.delete(made.id)
    for gone in (client.responses.retrieve, client.responses.input_items.list):
        with pytest.raises(openai.NotFoundError):
            gone(made.id)
    with pytest.raises((openai.BadRequestError, openai.NotFoundError), match=r"previous_response|not found"):
        client.responses.create(model=SCRIPT, input="Hi", previous_response_id=made.id)
    unkept = client.responses.create(model=SCRIPT, input="Count, please.", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(unkept.id)


def test_what_is_kept_outlives_the_server(own_server: Callable[..., Server]) -> None:
    server = own_server()
    made = server.client().responses.create(model=SCRIPT, input="Count, please.")
    assert server.stop() == 0
    again = Server(server.folder)
    try:
        assert again.client().responses.retrieve(made.id).output_text == SCRIPT_ANSWER
        next_turn = again.client().responses.create(model=SCRIPT, input="Again.", previous_response_id=made.id)
        assert next_turn.output_text == SCRIPT_ANSWER
    finally:
        again.stop()


def test_input_tokens_are_counted_as_they_are_billed(client: OpenAI) -> None:
    asked: Any = {"model": SCRIPT, "input": "Count, please.", "instructions": "Be brief.", "tools": [WEATHER]}
    counted = client.responses.input_tokens.count(**asked).input_tokens
    usage = client.responses.create(**asked).usage
    assert usage is not None
    assert counted == usage.input_tokens


def test_an_answer_in_the_background_is_waited_for(client: OpenAI) -> None:
    made = client.responses.create(model=SCRIPT, input="Count, please.", background=True)
    assert made.status in ("queued", "in_progress", "completed")
    for event in client.responses.retrieve(made.id, stream=True):
        last = event
    assert last.type == "response.completed"
    assert client.responses.retrieve(made.id).output_text == SCRIPT_ANSWER


def test_errors_are_those_of_the_client(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="nobody/nothing", input="Hi")
    with pytest.raises(openai.BadRequestError) as bad:
        client.responses.create(model=SCRIPT, input="Hi", temperature=7)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as long:
        client.responses.create(model=SCRIPT, input="x7 " * 2000)
    assert long.value.code == "context_length_exceeded"
    assert "2048" in str(long.value)


def test_many_at_once_do_not_mix(server: Server) -> None:
    async def run() -> list[str]:
        async with AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:

            async def answer(colour: str) -> str:
                async with client.responses.stream(model=SCRIPT, input=f"Which? {colour} of course") as stream:
                    return (await stream.get_final_response()).output_text

            return await asyncio.gather(*(answer(colour) for colour in SCRIPT_COLOURS * 2))

    assert asyncio.run(run()) == list(SCRIPT_COLOURS) * 2
