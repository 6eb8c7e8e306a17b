"""Scripted event streams against the exact bytes of Anthropic's dialect, streamed and whole.

`UPDATE_GOLDEN=1 pytest tests/server/anthropic/test_golden.py` writes them anew; read the diff.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import falcon.testing
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from anthropic.types.beta import BetaMessage, BetaRawMessageStreamEvent
from fakes import FakeService, Step
from pydantic import TypeAdapter

from dmr.errors import ContextLengthExceeded, EngineCrashed, Overloaded
from dmr.types import (
    Completed,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    Tick,
    ToolCallDelta,
    ToolCallStart,
    Usage,
)

GOLDEN = Path(__file__).parent / "golden"
EVENTS: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
BETA_EVENTS: TypeAdapter[Any] = TypeAdapter(BetaRawMessageStreamEvent)
TOOLS = {"tools": [{"name": "weather", "input_schema": {"type": "object"}}]}
THINKING = {"thinking": {"type": "adaptive"}}


def stop() -> Finished:
    return Finished(0, FinishReason.STOP)


def done(num_completion_tokens: int, **usage: int) -> Completed:
    return Completed(Usage(num_prompt_tokens=9, num_completion_tokens=num_completion_tokens, **usage))


CALLED = Finished(0, FinishReason.TOOL_CALLS)
CALL = (
    ToolCallStart(0, 0, "call_a", "weather"),
    ToolCallDelta(0, 0, '{"city":'),
    ToolCallDelta(0, 0, ""),
    ToolCallDelta(0, 0, '"Rome"}'),
)
THOUGHT = (Started(9), ReasoningDelta(0, "They "), ReasoningDelta(0, "greet."))

SCRIPTS: dict[str, tuple[dict[str, Any], tuple[Step, ...]]] = {
    "plain": ({}, (Started(9), TextDelta(0, "Hello"), TextDelta(0, " wörld\n"), stop(), done(2))),
    "cached": ({}, (Started(9, 4), TextDelta(0, "Hi"), stop(), done(1, num_cached_tokens=6))),
    "empty": ({}, (Started(9), TextDelta(0, ""), stop(), done(0))),
    "blank": ({}, (Started(9), TextDelta(0, "\n"), stop(), done(1))),
    "length": ({}, (Started(9), TextDelta(0, "One"), Finished(0, FinishReason.LENGTH), done(1))),
    "context_full": (
        {},
        (Started(9), TextDelta(0, "One"), Finished(0, FinishReason.LENGTH, is_context_full=True), done(1)),
    ),
    "stop_sequence": (
        {"stop_sequences": ["two"]},
        (Started(9), TextDelta(0, "One "), Finished(0, FinishReason.STOP, "two"), done(2)),
    ),
    "thinking": (THINKING, (*THOUGHT, TextDelta(0, "\n\nHi"), stop(), done(4, num_reasoning_tokens=3))),
    "thinking_omitted": (
        {"thinking": {"type": "adaptive", "display": "omitted"}},
        (*THOUGHT, TextDelta(0, "Hi"), stop(), done(4, num_reasoning_tokens=3)),
    ),
    "thinking_unasked": ({}, (*THOUGHT, TextDelta(0, "Hi"), stop(), done(4, num_reasoning_tokens=3))),
    "thinking_cut": (THINKING, (*THOUGHT, Finished(0, FinishReason.LENGTH), done(2, num_reasoning_tokens=2))),
    "thinking_then_tool": (TOOLS | THINKING, (*THOUGHT, TextDelta(0, "\n"), *CALL, CALLED, done(9))),
    "tool": (TOOLS, (Started(9), *CALL, CALLED, done(9))),
    "text_then_tools": (
        TOOLS,
        (
            Started(9),
            TextDelta(0, "Let me look."),
            *CALL,
            ToolCallStart(0, 1, "call_b", "weather"),
            CALLED,
            done(12),
        ),
    ),
    "tool_and_blanks": (TOOLS, (Started(9), TextDelta(0, "\n"), *CALL, TextDelta(0, "\n"), CALLED, done(9))),
    "tool_cut": (TOOLS, (Started(9), *CALL[:2], Finished(0, FinishReason.LENGTH), done(3))),
    "interleaved": (
        THINKING,
        (Started(9), TextDelta(0, "A"), ReasoningDelta(0, "then"), TextDelta(0, "B"), stop(), done(3)),
    ),
    "quiet": ({}, (Tick(), Started(9), Tick(), TextDelta(0, "Hi"), Tick(), stop(), Tick(), done(1))),
    "error_early": ({}, (Tick(), Overloaded("64 requests wait already.", retry_after=2.5))),
    "error_late": ({}, (Started(9), TextDelta(0, "He"), EngineCrashed("The engine died."))),
    "too_long": ({}, (ContextLengthExceeded(9000, 8192),)),
}


@pytest.fixture
def ask(client: falcon.testing.TestClient) -> Any:
    def post(**body: Any) -> falcon.testing.Result:
        base = {"model": "ai/smollm2", "max_tokens": 64, "messages": [{"role": "user", "content": "Hi"}]}
        return client.simulate_post("/v1/messages", json={**base, **body}, headers={"x-request-id": "req_1"})

    return post


def recorded(result: falcon.testing.Result) -> str:
    names = ("content-type", "cache-control", "retry-after", "x-should-retry", "request-id")
    headers = [f"{name}: {result.headers[name]}" for name in names if name in result.headers]
    return "\n".join([result.status, *headers, "", result.content.decode(), ""])


@pytest.mark.parametrize("name", SCRIPTS)
def test_bytes(name: str, ask: Any, service: FakeService) -> None:
    extra, steps = SCRIPTS[name]
    service.enqueue(*steps)
    service.enqueue(*steps)
    told = f"--- streamed\n{recorded(ask(**extra, stream=True))}\n--- whole\n{recorded(ask(**extra))}"
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(told, encoding="utf-8")
    assert told == golden.read_text(encoding="utf-8")
    assert all(stream.closed for stream in service.streams)


def test_every_golden_file_is_used() -> None:
    assert {file.stem for file in GOLDEN.iterdir()} == set(SCRIPTS)


def section(name: str, which: str) -> tuple[int, str]:
    text = (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")
    streamed, whole = text.removeprefix("--- streamed\n").split("\n--- whole\n")
    head, _, body = (streamed if which == "streamed" else whole).partition("\n\n")
    return int(head[:3]), body


def events(name: str) -> list[dict[str, Any]]:
    """The data of each event; checks that its name is its type."""
    status, body = section(name, "streamed")
    found = []
    for block in body.strip().split("\n\n") if status == 200 else ():
        head, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert head == f"event: {found[-1]['type']}"
    return found


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_official_types_take_every_answer(name: str) -> None:
    for event in events(name):
        if event["type"] not in ("ping", "error"):
            EVENTS.validate_python(event)
            BETA_EVENTS.validate_python(event)
    status, body = section(name, "whole")
    if status == 200:
        Message.model_validate_json(body)
        BetaMessage.model_validate_json(body)


@pytest.mark.parametrize("name", [name for name in SCRIPTS if "error" not in name and name != "too_long"])
def test_events_come_in_the_order_that_clients_rely_on(name: str) -> None:
    told = events(name)
    kinds = [event["type"] for event in told]
    assert kinds[:2] == ["message_start", "ping"]
    assert kinds[-2:] == ["message_delta", "message_stop"]
    blocks = [event for event in told if event["type"].startswith("content_block")]
    last = -1
    is_open = False
    for event in blocks:
        if event["type"] == "content_block_start":
            assert not is_open
            assert event["index"] == last + 1
            last, is_open = last + 1, True
            continue
        assert is_open
        assert event["index"] == last
        is_open = event["type"] != "content_block_stop"
    assert not is_open


def assembled(name: str) -> list[dict[str, Any]]:
    """The content that a client puts together from a stream."""
    content: list[dict[str, Any]] = []
    pieces: dict[int, str] = {}
    for event in events(name):
        if event["type"] == "content_block_start":
            content.append(event["content_block"])
        elif event["type"] == "content_block_delta":
            delta, index = event["delta"], event["index"]
            if delta["type"] == "input_json_delta":
                pieces[index] = pieces.get(index, "") + delta["partial_json"]
            else:
                (field,) = set(delta) - {"type"}
                content[index][field] += delta[field]
    for index, text in pieces.items():
        content[index]["input"] = json.loads(text)
    assert all(index in pieces for index, block in enumerate(content) if block["type"] == "tool_use")
    return content


@pytest.mark.parametrize(
    "name", [name for name in SCRIPTS if not name.startswith(("error", "too_long", "interleaved", "tool_cut"))]
)
def test_a_stream_adds_up_to_the_whole_answer(name: str) -> None:
    whole = json.loads(section(name, "whole")[1])
    end = events(name)[-2]
    assert assembled(name) == whole["content"]
    assert end["usage"] == whole["usage"]
    assert end["delta"] == {key: whole[key] for key in ("stop_reason", "stop_sequence", "stop_details")}


def test_a_late_error_is_the_last_event() -> None:
    assert events("error_late")[-1] == {"type": "error", "error": {"type": "api_error", "message": "The engine died."}}
    assert section("error_late", "whole")[0] == 500


def test_overload_is_529_and_says_when_to_come_back() -> None:
    status, _ = section("error_early", "streamed")
    assert status == 529
    assert "retry-after: 3" in (GOLDEN / "error_early.txt").read_text()
