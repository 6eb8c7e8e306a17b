"""Scripted event streams against the exact bytes that clients get, streamed and whole.

`UPDATE_GOLDEN=1 pytest tests/server/responses/test_golden.py` writes them anew; read the diff.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import falcon.testing
import openai
import pytest
from fakes import FakeService, Step
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from dmr.errors import EngineCrashed, Overloaded
from dmr.types import (
    Completed,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    Tick,
    Timings,
    TokenLogprob,
    TokenProbability,
    ToolCallDelta,
    ToolCallStart,
    Usage,
)

GOLDEN = Path(__file__).parent / "golden"
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def end(reason: FinishReason = FinishReason.STOP, **usage: int) -> tuple[Step, ...]:
    told = Usage(num_prompt_tokens=5, num_completion_tokens=7, **usage)
    return Finished(0, reason), Completed(told, Timings(prefill=1.0, decode=2.0))


def tool(name: str, **fields: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    return {"type": "function", "name": name, "parameters": parameters, **fields}


TEXT = (TextDelta(0, "Hello"), TextDelta(0, " wörld"))
THOUGHT = (ReasoningDelta(0, "They "), ReasoningDelta(0, "greet."))
CALL = (
    ToolCallStart(0, 0, "call_a", "weather"),
    ToolCallDelta(0, 0, '{"city":'),
    ToolCallDelta(0, 0, '"Rome"}'),
)
LOGPROBS = (
    TextDelta(0, "Hi", (TokenLogprob(TokenProbability(1, b"Hi", -0.5), (TokenProbability(2, b"Ho", -1.25),)),)),
    TextDelta(0, "", (TokenLogprob(TokenProbability(1, b"\xc3", -0.25)),)),
    TextDelta(0, "ö", (TokenLogprob(TokenProbability(1, b"\xb6", float("-inf"))),)),
)
NAMESPACE = {"type": "namespace", "name": "mcp__maps", "description": "Maps.", "tools": [tool("weather")]}
CUSTOM = {"type": "custom", "name": "patch", "description": "Patches."}
CUSTOM_CALL = (
    ToolCallStart(0, 0, "call_p", "patch"),
    ToolCallDelta(0, 0, '{"inp'),
    ToolCallDelta(0, 0, 'ut":"a\\nb'),
    ToolCallDelta(0, 0, '\\"c"}'),
)

CASES: dict[str, tuple[dict[str, Any], tuple[Step, ...]]] = {
    "plain": ({}, (Started(5), *TEXT, *end(num_cached_tokens=3))),
    "not_stored": ({"store": False}, (Started(5), *THOUGHT, *TEXT, *end())),
    "reasoning": (
        {"reasoning": {"effort": "low"}},
        (Started(5), *THOUGHT, *TEXT, *end(num_reasoning_tokens=3)),
    ),
    "summary": (
        {"reasoning": {"summary": "auto"}, "include": ["reasoning.encrypted_content"]},
        (Started(5), *THOUGHT, *TEXT, *end(num_reasoning_tokens=3)),
    ),
    "one_tool": (
        {"tools": [tool("weather", strict=True)], "tool_choice": "required"},
        (Started(5), *THOUGHT, *CALL, *end(FinishReason.TOOL_CALLS)),
    ),
    "two_tools": (
        {"tools": [tool("weather"), tool("clock")]},
        (
            Started(5),
            TextDelta(0, "Let me look."),
            *CALL,
            ToolCallStart(0, 1, "call_b", "clock"),
            *end(FinishReason.TOOL_CALLS),
        ),
    ),
    "namespace": (
        {"tools": [NAMESPACE, {"type": "web_search"}]},
        (Started(5), ToolCallStart(0, 0, "call_a", "mcp__maps__weather"), *CALL[1:], *end(FinishReason.TOOL_CALLS)),
    ),
    "custom": ({"tools": [CUSTOM]}, (Started(5), *CUSTOM_CALL, *end(FinishReason.TOOL_CALLS))),
    "unknown_tool": (
        {"tools": [tool("clock")]},
        (Started(5), *CALL, *end(FinishReason.TOOL_CALLS)),
    ),
    "length": ({"max_output_tokens": 7}, (Started(5), *TEXT, *end(FinishReason.LENGTH))),
    "length_in_call": ({"tools": [CUSTOM]}, (Started(5), *CUSTOM_CALL[:3], *end(FinishReason.LENGTH))),
    "length_in_thought": ({"max_output_tokens": 7}, (Started(5), *THOUGHT, *end(FinishReason.LENGTH))),
    "empty": ({"service_tier": "auto"}, (Started(5), TextDelta(0, ""), *end())),
    "logprobs": (
        {"include": ["message.output_text.logprobs"], "top_logprobs": 1},
        (Started(5), *LOGPROBS, *end()),
    ),
    "format": (
        {"text": {"format": {"type": "json_schema", "name": "a", "schema": {}}}},
        (
            Started(5),
            TextDelta(0, "{}"),
            Finished(0, FinishReason.STOP, schema_violations=("$: nope",)),
            Completed(Usage(5, 0, 1, 0)),
        ),
    ),
    "everything": (
        {
            "instructions": "Be brief.",
            "metadata": {"a": "b"},
            "temperature": 0.5,
            "top_p": 0.9,
            "max_tool_calls": 3,
            "parallel_tool_calls": False,
            "truncation": "auto",
            "user": "me",
        },
        (Tick(), Started(5), Tick(), *TEXT, Tick(), *end()),
    ),
    "error_early": ({}, (Tick(), Overloaded("64 requests wait already.", retry_after=2.5))),
    "error_late": ({}, (Started(5), *THOUGHT, TextDelta(0, "He"), EngineCrashed("The engine died."))),
}


def recorded(result: falcon.testing.Result) -> str:
    names = ("content-type", "cache-control", "x-accel-buffering", "retry-after", "x-should-retry")
    headers = [f"{name}: {result.headers[name]}" for name in names if name in result.headers]
    return "\n".join([result.status, *headers, "", result.content.decode(), ""])


@pytest.mark.parametrize("name", CASES)
def test_bytes(name: str, client: falcon.testing.TestClient, service: FakeService) -> None:
    extra, steps = CASES[name]
    service.enqueue(*steps)
    service.enqueue(*steps)
    body = {"model": "ai/smollm2", "input": "Hi", **extra}
    streamed = client.simulate_post("/v1/responses", json={**body, "stream": True})
    whole = client.simulate_post("/v1/responses", json=body)
    told = f"--- streamed\n{recorded(streamed)}\n--- whole\n{recorded(whole)}"
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(told, encoding="utf-8")
    assert told == golden.read_text(encoding="utf-8")
    assert all(stream.closed for stream in service.streams)


def test_every_golden_file_is_used() -> None:
    assert {file.stem for file in GOLDEN.iterdir()} == set(CASES)


def section(name: str, which: str) -> tuple[int, str]:
    text = (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")
    streamed, whole = text.removeprefix("--- streamed\n").split("\n--- whole\n")
    head, _, body = (streamed if which == "streamed" else whole).partition("\n\n")
    return int(head[:3]), body


def frames(name: str) -> list[dict[str, Any]]:
    status, body = section(name, "streamed")
    if status != 200:
        return []
    told = []
    for block in body.strip().split("\n\n"):
        event, data = block.split("\n")
        told.append(json.loads(data.removeprefix("data: ")))
        assert event == f"event: {told[-1]['type']}"
    return told


@pytest.mark.parametrize("name", CASES)
def test_the_official_types_take_every_answer(name: str) -> None:
    for frame in frames(name):
        EVENTS.validate_python(frame)
    status, body = section(name, "whole")
    if status == 200:
        Response.model_validate_json(body)


@pytest.mark.parametrize("name", CASES)
def test_numbers_have_no_gaps_and_the_end_holds_what_was_told(name: str) -> None:
    events = frames(name)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    if not events:
        return
    last = events[-1]["response"]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    if last["status"] != "failed":
        assert last["output"] == done
    added = [event for event in events if event["type"] == "response.output_item.added"]
    assert [event["output_index"] for event in added] == list(range(len(added)))


@pytest.mark.parametrize("name", [name for name in CASES if "error" not in name])
def test_a_stream_ends_with_what_the_whole_answer_is(name: str) -> None:
    streamed = frames(name)[-1]["response"]
    whole = json.loads(section(name, "whole")[1])
    text = json.dumps(streamed).replace("_1_", "_2_").replace('"resp_1"', '"resp_2"')
    assert json.loads(text) == whole


@pytest.mark.parametrize("name", [name for name in CASES if "error" not in name])
def test_the_official_clients_own_bookkeeping_agrees(name: str) -> None:
    state: Any = ResponseStreamState(input_tools=openai.omit, text_format=openai.omit)
    for frame in frames(name):
        state.handle_event(EVENTS.validate_python(frame))
    last = frames(name)[-1]
    if last["type"] == "response.completed":
        assert [item.id for item in state._completed_response.output] == [
            item["id"] for item in last["response"]["output"]
        ]


def test_a_late_error_is_told_twice_and_then_nothing() -> None:
    error, failed = frames("error_late")[-2:]
    assert (error["type"], error["code"]) == ("error", "engine_restarting")
    assert failed["type"] == "response.failed"
    assert failed["response"]["error"] == {"code": "server_error", "message": "The engine died."}
    assert [item["status"] for item in failed["response"]["output"]] == ["completed", "incomplete"]
    assert section("error_late", "whole")[0] == 503
