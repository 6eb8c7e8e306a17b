"""Anthropic's official client against a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import anthropic
import pydantic
import pytest
from anthropic import Anthropic, AsyncAnthropic
from e2e.conftest import Server
from tiny_models import (
    SCRIPT_ANSWER,
    SCRIPT_ANSWER_TOKENS,
    SCRIPT_COLOURS,
    SCRIPT_TOOL,
    SCRIPT_TOOL_ANSWER,
    THINK_REASONING,
)

SCRIPT = "test/tiny-script"
ASK: Any = [{"role": "user", "content": "Count, please."}]
WEATHER: Any = {
    "name": SCRIPT_TOOL,
    "description": "The weather in a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CLOCK: Any = {
    "name": "set_alarm",
    "description": "Sets an alarm",
    "input_schema": {
        "type": "object",
        "properties": {"hour": {"type": "integer"}, "day": {"enum": ["today", "tomorrow"]}},
        "required": ["hour", "day"],
        "additionalProperties": False,
    },
}


@pytest.fixture
def client(server: Server) -> Iterator[Anthropic]:
    with Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        yield client


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_a_whole_answer(client: Anthropic) -> None:
    message = client.messages.create(model=SCRIPT, max_tokens=64, messages=ASK)
    (block,) = message.content
    assert block.type == "text"
    assert block.text == SCRIPT_ANSWER
    assert (message.type, message.role, message.model) == ("message", "assistant", SCRIPT)
    assert message.stop_reason == "end_turn"
    assert message.stop_sequence is None
    assert message.usage.output_tokens == SCRIPT_ANSWER_TOKENS
    assert message.id.startswith("msg_")


def test_a_stream_says_the_same(client: Anthropic) -> None:
    whole = client.messages.create(model=SCRIPT, max_tokens=64, messages=ASK)
    with client.messages.stream(model=SCRIPT, max_tokens=64, messages=ASK) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert "".join(pieces) == SCRIPT_ANSWER
    assert len(pieces) >= SCRIPT_ANSWER_TOKENS - 1, "the tokens came one by one"
    assert text_of(final) == SCRIPT_ANSWER
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_events_come_in_their_order(client: Anthropic) -> None:
    events = list(client.messages.create(model=SCRIPT, max_tokens=64, messages=ASK, stream=True))
    kinds = [event.type for event in events if event.type != "content_block_delta"]
    assert kinds == [
        "message_start",
        "content_block_start",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


@pytest.mark.parametrize(
    ("limit", "text", "reason", "sequence"),
    [
        ({"max_tokens": 3}, "One, two, three", "max_tokens", None),
        ({"max_tokens": 64, "stop_sequences": ["nine", ", four"]}, "One, two, three", "stop_sequence", ", four"),
        ({"max_tokens": 64, "stop_sequences": ["never said"]}, SCRIPT_ANSWER, "end_turn", None),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_ends_where_it_should(
    client: Anthropic, limit: dict[str, Any], text: str, reason: str, sequence: str | None, streamed: bool
) -> None:
    message: Any
    if streamed:
        with client.messages.stream(model=SCRIPT, messages=ASK, **limit) as stream:
            message = stream.get_final_message()
    else:
        message = client.messages.create(model=SCRIPT, messages=ASK, **limit)
    assert text_of(message) == text
    assert (message.stop_reason, message.stop_sequence) == (reason, sequence)


def test_a_last_assistant_message_is_continued(client: Anthropic) -> None:
    begun: Any = [*ASK, {"role": "assistant", "content": "One, two"}]
    message = client.messages.create(model=SCRIPT, max_tokens=64, messages=begun)
    assert "One, two" + text_of(message) == SCRIPT_ANSWER


def test_a_system_prompt_is_read_as_text_and_as_blocks(client: Anthropic) -> None:
    colour = SCRIPT_COLOURS[4]
    blocks: Any = [{"type": "text", "text": f"Always say {colour} here.", "cache_control": {"type": "ephemeral"}}]
    for system in (blocks[0]["text"], blocks):
        message = client.messages.create(model=SCRIPT, max_tokens=64, system=system, messages=ASK)
        assert text_of(message) == colour


def test_a_tool_is_called_and_answered(client: Anthropic) -> None:
    ask: Any = [{"role": "user", "content": "How is the weather?"}]
    with client.messages.stream(model=SCRIPT, max_tokens=200, messages=ask, tools=[WEATHER]) as stream:
        call = stream.get_final_message()
    assert call.stop_reason == "tool_use"
    (use,) = call.content
    assert use.type == "tool_use"
    assert (use.name, use.input) == (SCRIPT_TOOL, {"city": "Paris"})
    result: Any = {"type": "tool_result", "tool_use_id": use.id, "content": [{"type": "text", "text": "sunny"}]}
    history: Any = [*ask, {"role": "assistant", "content": call.content}, {"role": "user", "content": [result]}]
    answer = client.messages.create(model=SCRIPT, max_tokens=64, messages=history, tools=[WEATHER])
    assert text_of(answer) == SCRIPT_TOOL_ANSWER
    assert answer.stop_reason == "end_turn"


@pytest.mark.parametrize(
    "choice", [{"type": "any", "disable_parallel_tool_use": True}, {"type": "tool", "name": "set_alarm"}]
)
def test_a_forced_tool_is_called_whatever_the_model_had_in_mind(client: Anthropic, choice: Any) -> None:
    message = client.messages.create(model=SCRIPT, max_tokens=200, messages=ASK, tools=[CLOCK], tool_choice=choice)
    (use,) = message.content
    assert use.type == "tool_use"
    assert use.name == "set_alarm"
    assert isinstance(use.input["hour"], int)
    assert use.input["day"] in ("today", "tomorrow")
    assert set(use.input) == {"hour", "day"}


def test_no_tool_is_called_where_none_may_be(client: Anthropic) -> None:
    message = client.messages.create(
        model=SCRIPT, max_tokens=64, messages=ASK, tools=[WEATHER], tool_choice={"type": "none"}
    )
    assert [block.type for block in message.content] == ["text"]


def test_counted_tokens_are_those_that_are_billed(client: Anthropic) -> None:
    system = "Answer in one line."
    history: Any = [
        *ASK,
        {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": SCRIPT_TOOL, "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain"}]},
    ]
    for prompt in ({"messages": ASK}, {"messages": ASK, "system": system}, {"messages": history, "tools": [WEATHER]}):
        for model in (SCRIPT, "test/tiny-think"):
            asked: Any = {"model": model, **prompt}
            counted = client.messages.count_tokens(**asked).input_tokens
            usage = client.messages.create(max_tokens=1, **asked).usage
            billed = (usage.input_tokens, usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0)
            assert counted == sum(billed)
            assert client.messages.create(max_tokens=1, **asked).usage.cache_read_input_tokens, "now it is cached"


def test_a_thought_is_a_block_of_its_own_and_comes_back(client: Anthropic) -> None:
    asked: Any = {"model": "test/tiny-think", "max_tokens": 2048}
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    with client.messages.stream(messages=ASK, thinking=thinking, **asked) as stream:
        message = stream.get_final_message()
    thought, text = message.content
    assert thought.type == "thinking"
    assert thought.thinking.strip() == THINK_REASONING
    assert thought.signature
    assert text.type == "text"
    assert text.text.strip() == SCRIPT_ANSWER
    history: Any = [*ASK, {"role": "assistant", "content": message.content}, {"role": "user", "content": "Again."}]
    again = client.messages.create(messages=history, thinking=thinking, **asked)
    assert [block.type for block in again.content] == ["thinking", "text"]
    plain = client.messages.create(messages=ASK, **asked)
    assert [block.type for block in plain.content] == ["text"]
    assert text_of(plain).strip() == SCRIPT_ANSWER


class Person(pydantic.BaseModel):
    name: str
    age: int


def test_a_schema_is_kept(client: Anthropic) -> None:
    message = client.messages.parse(model=SCRIPT, max_tokens=200, messages=ASK, output_format=Person)
    assert isinstance(message.parsed_output, Person)


def test_errors_are_those_of_the_client(client: Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(model="nobody/nothing", max_tokens=8, messages=ASK)
    body: Any = missing.value.body
    assert body["type"] == "error"
    assert body["error"]["type"] == "not_found_error"
    assert "nobody/nothing" in body["error"]["message"]
    assert missing.value.request_id
    assert body["request_id"] == missing.value.request_id
    with pytest.raises(anthropic.BadRequestError, match="temperature") as bad:
        client.messages.create(model=SCRIPT, max_tokens=8, messages=ASK, extra_body={"temperature": 1.5})
    body = bad.value.body
    assert body["error"]["type"] == "invalid_request_error"
    with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > 2048 maximum"):
        client.messages.create(model=SCRIPT, max_tokens=8, messages=[{"role": "user", "content": "x7 " * 2000}])
    with (
        pytest.raises(anthropic.BadRequestError, match="too long"),
        client.messages.stream(
            model=SCRIPT, max_tokens=8, messages=[{"role": "user", "content": "x7 " * 2000}]
        ) as stream,
    ):
        stream.get_final_message()


def test_beta_clients_are_served(client: Anthropic) -> None:
    """They ask with `?beta=true` and headers of their own."""
    asked: Any = {"model": SCRIPT, "messages": ASK, "betas": ["token-counting-2024-11-01"]}
    message = client.beta.messages.create(max_tokens=64, **asked)
    assert text_of(message) == SCRIPT_ANSWER
    assert client.beta.messages.count_tokens(**asked).input_tokens == sum(
        (message.usage.input_tokens, message.usage.cache_read_input_tokens or 0)
    )


def test_models_are_listed(server: Server) -> None:
    with Anthropic(base_url=server.url + "/anthropic", api_key="none", max_retries=0) as client:
        models = list(client.models.list(limit=2))
        assert {"test/tiny-script:latest", "test/tiny-embed:latest"} <= {model.id for model in models}
        assert all(model.type == "model" and model.created_at for model in models)
        assert client.models.retrieve(SCRIPT).type == "model"
        with pytest.raises(anthropic.NotFoundError):
            client.models.retrieve("nobody/nothing")
        assert text_of(client.messages.create(model=SCRIPT, max_tokens=64, messages=ASK)) == SCRIPT_ANSWER


def test_many_at_once_do_not_mix(server: Server) -> None:
    async def run() -> list[str]:
        async with AsyncAnthropic(base_url=server.url, auth_token="none", api_key=None, max_retries=0) as client:

            async def answer(colour: str) -> str:
                ask: Any = [{"role": "user", "content": f"Which colour? {colour} of course"}]
                async with client.messages.stream(model=SCRIPT, max_tokens=64, messages=ask) as stream:
                    return text_of(await stream.get_final_message())

            return await asyncio.gather(*(answer(colour) for colour in SCRIPT_COLOURS * 2))

    assert asyncio.run(run()) == list(SCRIPT_COLOURS) * 2


@pytest.mark.real
def test_a_model_whose_template_knows_no_tools_gets_them(client: Anthropic) -> None:
    asked: Any = {"model": "ai/smollm2", "max_tokens": 200, "tools": [CLOCK], "extra_body": {"temperature": 0}}
    ask: Any = [{"role": "user", "content": "Wake me at seven tomorrow."}]
    with client.messages.stream(messages=ask, tool_choice={"type": "tool", "name": "set_alarm"}, **asked) as stream:
        call = stream.get_final_message()
    assert call.stop_reason == "tool_use"
    (use,) = call.content
    assert use.type == "tool_use"
    assert use.name == "set_alarm"
    assert isinstance(use.input["hour"], int)
    assert use.input["day"] in ("today", "tomorrow")
    result: Any = {"type": "tool_result", "tool_use_id": use.id, "content": "The alarm is set for 7 o'clock tomorrow."}
    history: Any = [*ask, {"role": "assistant", "content": call.content}, {"role": "user", "content": [result]}]
    answer = client.messages.create(messages=history, tool_choice={"type": "none"}, **{**asked, "max_tokens": 40})
    assert answer.stop_reason in ("end_turn", "max_tokens")
    assert text_of(answer).strip()
    counted = client.messages.count_tokens(model="ai/smollm2", messages=history, tools=[CLOCK]).input_tokens
    assert counted > client.messages.count_tokens(model="ai/smollm2", messages=ask, tools=[CLOCK]).input_tokens
