"""Scripted event streams against the exact bytes that clients get, streamed and whole.

`UPDATE_GOLDEN=1 pytest tests/server/test_golden.py` writes them anew; read the diff.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import falcon.testing
import pytest
from fakes import FakeService, Step
from openai.types import Completion as OpenAICompletion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from dmr.errors import EngineCrashed, Overloaded
from dmr.types import (
    Completed,
    Echo,
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
USAGE = {"stream_options": {"include_usage": True}}


def stop(index: int = 0) -> Finished:
    return Finished(index, FinishReason.STOP)


def done(num_completion_tokens: int, **usage: int) -> Completed:
    return Completed(Usage(num_prompt_tokens=5, num_completion_tokens=num_completion_tokens, **usage))


def logprob(data: bytes, value: float, *top: tuple[bytes, float]) -> TokenLogprob:
    return TokenLogprob(TokenProbability(1, data, value), tuple(TokenProbability(2, *each) for each in top))


CALLS = (
    Started(5),
    ToolCallStart(0, 0, "call_a", "weather"),
    ToolCallDelta(0, 0, '{"city":'),
    ToolCallDelta(0, 0, '"Rome"}'),
)
TOOLS: dict[str, Any] = {"tools": [{"type": "function", "function": {"name": "weather"}}]}
CUSTOM: dict[str, Any] = {"tools": [{"type": "custom", "custom": {"name": "shell"}}]}

PLAIN = (Started(5), TextDelta(0, "Hello"), TextDelta(0, " wörld"), stop(), done(2, num_cached_tokens=3))
LENGTH = (Started(5), TextDelta(0, "One two"), Finished(0, FinishReason.LENGTH), done(2))
STOP_STRING = (Started(5), TextDelta(0, "One"), Finished(0, FinishReason.STOP, "two"), done(2))
EMPTY = (Started(5), TextDelta(0, ""), stop(), done(0))
EARLY = (Tick(), Overloaded("64 requests wait already.", retry_after=2.5))
LATE = (Started(5), TextDelta(0, "He"), EngineCrashed("The engine died."))
QUIET = (Tick(), Started(5), Tick(), TextDelta(0, "Hi"), Tick(), stop(), Tick(), done(1))
CHOICES = (
    Started(5),
    TextDelta(1, "b"),
    TextDelta(0, "a"),
    stop(1),
    TextDelta(0, "a"),
    Finished(0, FinishReason.LENGTH),
    done(3),
)
# A two-byte character whose bytes are one token each: the text comes with the second.
LOGPROBS = (
    Started(5),
    TextDelta(0, "Hi", (logprob(b"Hi", -0.5, (b"Hi", -0.5), (b"Ho", -1.25)),)),
    TextDelta(0, "", (logprob(b"\xc3", -0.25, (b"\xc3", -0.25), (b"\xc4", float("-inf"))),)),
    TextDelta(0, "ö", (logprob(b"\xb6", -0.75, (b"\xbc", -0.5)),)),
    stop(),
    done(3),
)
REASONING = (
    Started(5),
    ReasoningDelta(0, "They "),
    ReasoningDelta(0, "greet."),
    TextDelta(0, "Hi"),
    stop(),
    done(4, num_reasoning_tokens=3),
)

SHELL = (
    Started(5),
    ToolCallStart(0, 0, "call_a", "shell"),
    ToolCallDelta(0, 0, '{"inp'),
    ToolCallDelta(0, 0, 'ut": "echo \\"'),
    ToolCallDelta(0, 0, 'a\\" \\ud83d'),
    ToolCallDelta(0, 0, '\\ude00"}'),
    Finished(0, FinishReason.TOOL_CALLS),
    done(9),
)
# One choice calls a tool and says nothing of its arguments.
BARE_CALL = (
    Started(5),
    ToolCallStart(1, 0, "call_a", "weather"),
    ToolCallDelta(1, 0, ""),
    TextDelta(0, "Hi"),
    stop(0),
    Finished(1, FinishReason.TOOL_CALLS),
    done(9),
)
VIOLATIONS = (
    Started(5),
    TextDelta(0, "{}"),
    Finished(0, FinishReason.STOP, schema_violations=("$: 'a' is missing",)),
    Completed(Usage(5, 1, 2), Timings(prefill=0.5, decode=0.25)),
)
ECHO = (
    Started(5),
    Echo(0, "A"),
    Echo(1, "B"),
    *CHOICES[1:],
)
# Two prompt tokens, of which the first has no log probability, then the answer.
SCORED = (
    Echo(0, "Hö du", (None, logprob(b"\xb6", -0.5), logprob(b" du", -1.5, (b" da", -0.25)))),
    TextDelta(0, "!", (logprob(b"!", -0.125),)),
)
FILLED = (
    Started(5),
    TextDelta(0, "return", (logprob(b"return", -0.5, (b"return", -0.5), (b"pass", -1.25)),)),
    TextDelta(0, " a\n"),
    Finished(0, FinishReason.STOP, "\n\n"),
    Completed(Usage(7, 4, 3), Timings(prefill=0.5, decode=0.25)),
)

CHAT: dict[str, tuple[dict[str, Any], tuple[Step, ...]]] = {
    "plain": ({}, PLAIN),
    "usage": (USAGE, PLAIN),
    "reasoning": (USAGE, REASONING),
    "one_tool": (TOOLS, (*CALLS, Finished(0, FinishReason.TOOL_CALLS), done(9))),
    "two_tools": (
        TOOLS,
        (
            Started(5),
            TextDelta(0, "Let me look."),
            *CALLS[1:],
            ToolCallStart(0, 1, "call_b", "weather"),
            ToolCallDelta(0, 1, "{}"),
            Finished(0, FinishReason.TOOL_CALLS),
            done(12),
        ),
    ),
    "function": (
        {"functions": [{"name": "weather"}]},
        (*CALLS, Finished(0, FinishReason.TOOL_CALLS), done(9)),
    ),
    "length": ({"max_tokens": 2}, LENGTH),
    "stop_string": ({"stop": "two"}, STOP_STRING),
    "error_early": ({}, EARLY),
    "error_late": (USAGE, LATE),
    "empty": ({"service_tier": "auto"}, EMPTY),
    "logprobs": ({"logprobs": True, "top_logprobs": 2}, LOGPROBS),
    "two_choices": ({"n": 2, **USAGE}, CHOICES),
    "quiet": ({}, QUIET),
    "custom_tool": (CUSTOM, SHELL),
    "bare_call": ({"n": 2, **TOOLS}, BARE_CALL),
    "violations": ({"response_format": {"type": "json_object"}, **USAGE}, VIOLATIONS),
    "hidden_reasoning": ({"include_reasoning": False}, REASONING),
}
COMPLETIONS: dict[str, tuple[dict[str, Any], tuple[Step, ...]]] = {
    "plain": ({}, PLAIN),
    "usage": (USAGE, PLAIN),
    "length": ({"max_tokens": 2}, LENGTH),
    "stop_string": ({"stop": ["two"]}, STOP_STRING),
    "error_early": ({}, EARLY),
    "error_late": ({}, LATE),
    "empty": ({}, EMPTY),
    "logprobs": ({"logprobs": 2}, LOGPROBS),
    "two_choices": ({"n": 2}, CHOICES),
    "echo": ({"prompt": ["A", "B"], "echo": True}, ECHO),
    "echo_logprobs": ({"echo": True, "logprobs": 1}, (Started(5), *SCORED, stop(), done(1))),
    "echo_only": (
        {"echo": True, "logprobs": 1, "max_tokens": 0},
        (Started(5), *SCORED[:1], Finished(0, FinishReason.LENGTH), done(0)),
    ),
    "violations": ({"response_format": {"type": "json_object"}, **USAGE}, VIOLATIONS),
}
INFILL: dict[str, tuple[dict[str, Any], tuple[Step, ...]]] = {
    "plain": ({}, PLAIN),
    "length": ({"n_predict": 2}, LENGTH),
    "filled": ({"n_probs": 2}, FILLED),
    "error_early": ({}, EARLY),
    "error_late": ({}, LATE),
    "quiet": ({}, QUIET),
}

CASES = [
    *(
        (f"chat-{name}", "/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}, case)
        for name, case in CHAT.items()
    ),
    *((f"completions-{name}", "/v1/completions", {"prompt": "Hi"}, case) for name, case in COMPLETIONS.items()),
    *((f"infill-{name}", "/infill", {"input_prefix": "a", "input_suffix": "b"}, case) for name, case in INFILL.items()),
]


def ask(client: falcon.testing.TestClient, path: str, body: dict[str, Any]) -> falcon.testing.Result:
    return client.simulate_post(path, json={"model": "ai/smollm2", **body})


def recorded(result: falcon.testing.Result) -> str:
    names = ("content-type", "cache-control", "x-accel-buffering", "retry-after", "x-should-retry")
    headers = [f"{name}: {result.headers[name]}" for name in names if name in result.headers]
    return "\n".join([result.status, *headers, "", result.content.decode(), ""])


@pytest.mark.parametrize(("name", "path", "base", "case"), CASES, ids=[case[0] for case in CASES])
def test_bytes(
    name: str,
    path: str,
    base: dict[str, Any],
    case: tuple[dict[str, Any], tuple[Step, ...]],
    client: falcon.testing.TestClient,
    service: FakeService,
) -> None:
    extra, steps = case
    service.enqueue(*steps)
    service.enqueue(*steps)
    streamed = ask(client, path, {**base, **extra, "stream": True})
    whole = ask(client, path, {k: v for k, v in {**base, **extra}.items() if k != "stream_options"})
    told = f"--- streamed\n{recorded(streamed)}\n--- whole\n{recorded(whole)}"
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(told, encoding="utf-8")
    assert told == golden.read_text(encoding="utf-8")
    assert all(stream.closed for stream in service.streams)


def test_every_golden_file_is_used() -> None:
    assert {file.stem for file in GOLDEN.iterdir()} == {case[0] for case in CASES}


def section(name: str, which: str) -> tuple[int, str]:
    text = (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")
    streamed, whole = text.removeprefix("--- streamed\n").split("\n--- whole\n")
    head, _, body = (streamed if which == "streamed" else whole).partition("\n\n")
    return int(head[:3]), body


def frames(name: str) -> list[dict[str, Any]]:
    status, body = section(name, "streamed")
    lines = [line.removeprefix("data: ") for line in body.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"] if status == 200 else []


def without_custom_calls(frame: dict[str, Any]) -> dict[str, Any]:
    """The official chunk type forgets the custom calls that the type of the whole answer has."""
    for choice in frame["choices"]:
        for call in choice["delta"].get("tool_calls", []):
            if call.pop("custom", None) and "type" in call:
                call["type"] = "function"
    return frame


@pytest.mark.parametrize("name", [f"chat-{name}" for name in CHAT])
def test_the_official_types_take_every_chat_answer(name: str) -> None:
    for frame in frames(name):
        if "error" not in frame:
            ChatCompletionChunk.model_validate(without_custom_calls(frame))
    status, body = section(name, "whole")
    if status == 200:
        ChatCompletion.model_validate_json(body)


@pytest.mark.parametrize("name", [f"completions-{name}" for name in COMPLETIONS])
def test_the_official_types_take_every_completion(name: str) -> None:
    def lenient(logprobs: dict[str, Any] | None) -> None:
        for values in (logprobs or {}).values():
            values[:1] = [
                value for value in values[:1] if value is not None
            ]  # null for the first, which it forgets too

    for frame in frames(name):
        for choice in frame.get("choices", []):
            lenient(choice["logprobs"])
            choice["finish_reason"] = choice["finish_reason"] or "stop"  # null until the end, which the type forgets
        if "error" not in frame:
            OpenAICompletion.model_validate(frame)
    status, body = section(name, "whole")
    if status == 200:
        whole = json.loads(body)
        for choice in whole["choices"]:
            lenient(choice["logprobs"])
        OpenAICompletion.model_validate(whole)


@pytest.mark.parametrize("name", [c[0] for c in CASES if "error" not in c[0] and not c[0].startswith("infill")])
def test_chunks_come_in_the_order_that_clients_rely_on(name: str) -> None:
    """Docs: API reference, "Streaming": usage last and only if asked for, no chunk without choices otherwise."""
    chunks = frames(name)
    with_usage = [chunk for chunk in chunks if not chunk["choices"]]
    asked = "usage" in chunks[0]
    assert with_usage == chunks[-1:] if asked else with_usage == []
    assert all(("usage" in chunk) is asked for chunk in chunks)
    assert section(name, "streamed")[1].endswith("data: [DONE]\n\n\n")
    if name.startswith("chat"):
        roles = [
            chunk["choices"][0]["index"]
            for chunk in chunks
            if chunk["choices"] and "role" in chunk["choices"][0]["delta"]
        ]
        assert roles == sorted(roles)
        assert roles == [chunk["choices"][0]["index"] for chunk in chunks[: len(roles)]]


@pytest.mark.parametrize("name", [case[0] for case in CASES if case[0].endswith("error_late")])
def test_a_late_error_is_the_last_frame(name: str) -> None:
    chunks = frames(name)
    assert chunks[-1]["error"]["code"] == "engine_restarting"
    assert "[DONE]" not in section(name, "streamed")[1]
    assert section(name, "whole")[0] == 503
