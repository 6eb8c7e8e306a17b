"""Scripted event streams against the exact bytes that clients get, as lines and whole.

`UPDATE_GOLDEN=1 pytest tests/server/ollama/test_golden.py` writes them anew; read the diff.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import falcon.testing
import pytest
from fakes import FakeService, Step
from ollama import ChatResponse, GenerateResponse

from dmr.errors import ContextLengthExceeded, EngineCrashed, Overloaded
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
from dmr_server.ollama.chat import read_chat
from dmr_server.ollama.generate import read_generate

GOLDEN = Path(__file__).parent / "golden"
STOP = Finished(0, FinishReason.STOP)
TIMINGS = Timings(queued=0.25, prefill=0.5, decode=1.5, load=2.0)


def done(num_completion_tokens: int, **usage: int) -> Completed:
    return Completed(Usage(num_prompt_tokens=5, num_completion_tokens=num_completion_tokens, **usage), TIMINGS)


def logprob(data: bytes, value: float, *top: tuple[bytes, float]) -> TokenLogprob:
    return TokenLogprob(TokenProbability(1, data, value), tuple(TokenProbability(2, *each) for each in top))


CALL = (
    ToolCallStart(0, 0, "call_a", "weather"),
    ToolCallDelta(0, 0, '{"city":'),
    ToolCallDelta(0, 0, ""),
    ToolCallDelta(0, 0, '"Rome"}'),
)
CALLED = Finished(0, FinishReason.TOOL_CALLS)
TOOLS: dict[str, Any] = {"tools": [{"type": "function", "function": {"name": "weather"}}]}

PLAIN = (Started(5), TextDelta(0, "Hello"), TextDelta(0, " wörld <"), STOP, done(2, num_cached_tokens=3))
LENGTH = (Started(5), TextDelta(0, "One two"), Finished(0, FinishReason.LENGTH), done(2))
EMPTY = (Started(5), TextDelta(0, ""), STOP, Completed(Usage(5, 0, 0, 0)))
EARLY = (Tick(), Overloaded("64 requests wait already.", retry_after=2.5))
TOO_LONG = (Tick(), ContextLengthExceeded(130, 128))
LATE = (Started(5), TextDelta(0, "He"), EngineCrashed("The engine died."))
CUT = (Started(5, 0, 3, 40), TextDelta(0, "Hi"), STOP, done(1))
VIOLATED = (
    Started(5),
    TextDelta(0, "{}"),
    Finished(0, FinishReason.STOP, schema_violations=("$.a: missing",)),
    done(1),
)
# A two-byte character whose bytes are one token each: the text comes with the second.
LOGPROBS = (
    Started(5),
    TextDelta(0, "Hi", (logprob(b"Hi", -0.5, (b"Hi", -0.5), (b"Ho", -1.25)),)),
    TextDelta(0, "", (logprob(b"\xc3", -0.25, (b"\xc3", -0.25), (b"\xc4", float("-inf"))),)),
    TextDelta(0, "ö", (logprob(b"\xb6", -0.75, (b"\xbc", -0.5)),)),
    STOP,
    done(3),
)
REASONING = (Started(5), ReasoningDelta(0, "They "), ReasoningDelta(0, "greet."), TextDelta(0, "Hi"), STOP, done(4))

Case = tuple[dict[str, Any], tuple[Step, ...]]
GENERATE: dict[str, Case] = {
    "plain": ({}, PLAIN),
    "context": (
        {},
        (Started(3), TextDelta(0, "Hi"), Finished(0, FinishReason.STOP, token_ids=(1, 2, 3, 4)), done(1)),
    ),
    "length": ({"options": {"num_predict": 2}}, LENGTH),
    "empty": ({}, EMPTY),
    "reasoning": ({"think": True}, REASONING),
    "logprobs": ({"logprobs": True, "top_logprobs": 2}, LOGPROBS),
    "logprobs_unasked": ({}, LOGPROBS),
    "truncated": ({}, CUT),
    "violated": ({"format": {"type": "object", "required": ["a"]}}, VIOLATED),
    "error_early": ({}, EARLY),
    "error_late": ({}, LATE),
    "too_long": ({}, TOO_LONG),
}
CHAT: dict[str, Case] = {
    "plain": ({}, PLAIN),
    "reasoning": ({"think": "high"}, REASONING),
    "logprobs": ({"logprobs": True, "top_logprobs": 2}, LOGPROBS),
    "one_tool": (TOOLS, (Started(5), *CALL, CALLED, done(9))),
    "two_tools": (
        TOOLS,
        (
            Started(5),
            TextDelta(0, "Let me look."),
            *CALL,
            ToolCallStart(0, 1, "call_b", "weather"),
            CALLED,
            done(12),
        ),
    ),
    "text_after_tool": (TOOLS, (Started(5), *CALL, TextDelta(0, "Done."), CALLED, done(12))),
    "tool_logprobs": (
        {**TOOLS, "logprobs": True},
        (
            Started(5),
            CALL[0],
            TextDelta(0, "", (logprob(b"{", -0.5),)),
            ToolCallDelta(0, 0, "{}"),
            TextDelta(0, "", (logprob(b"}", -0.25),)),
            CALLED,
            done(2),
        ),
    ),
    "half_a_tool": (TOOLS, (Started(5), *CALL[:2], Finished(0, FinishReason.LENGTH), done(4))),
    "truncated": ({}, CUT),
    "error_late": ({}, LATE),
}
BODIES: dict[str, dict[str, Any]] = {
    "generate": {"prompt": "Hi"},
    "chat": {"messages": [{"role": "user", "content": "Hi"}]},
}
CASES = [
    *((f"generate-{name}", "generate", case) for name, case in GENERATE.items()),
    *((f"chat-{name}", "chat", case) for name, case in CHAT.items()),
]
IDS = [name for name, _, _ in CASES]


def recorded(result: falcon.testing.Result) -> str:
    names = ("content-type", "cache-control", "x-accel-buffering", "retry-after", "x-should-retry")
    headers = [f"{name}: {result.headers[name]}" for name in names if name in result.headers]
    return "\n".join([result.status, *headers, "", result.content.decode(), ""])


@pytest.mark.parametrize(("name", "path", "case"), CASES, ids=IDS)
def test_bytes(name: str, path: str, case: Case, client: falcon.testing.TestClient, service: FakeService) -> None:
    extra, steps = case
    service.enqueue(*steps)
    service.enqueue(*steps)
    body = {"model": "ai/smollm2", **BODIES[path], **extra}
    streamed = client.simulate_post(f"/api/{path}", json=body)
    whole = client.simulate_post(f"/api/{path}", json={**body, "stream": False})
    told = f"--- streamed\n{recorded(streamed)}\n--- whole\n{recorded(whole)}"
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(told, encoding="utf-8")
    assert told == golden.read_text(encoding="utf-8")
    assert all(stream.closed for stream in service.streams)


def test_every_golden_file_is_used() -> None:
    assert {file.stem for file in GOLDEN.iterdir()} == set(IDS)


def section(name: str, which: str) -> tuple[int, str]:
    text = (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")
    streamed, whole = text.removeprefix("--- streamed\n").split("\n--- whole\n")
    head, _, body = (streamed if which == "streamed" else whole).partition("\n\n")
    return int(head[:3]), body


def lines(name: str) -> list[dict[str, Any]]:
    status, body = section(name, "streamed")
    return [json.loads(line) for line in body.splitlines() if line] if status == 200 else []


@pytest.mark.parametrize("name", IDS)
def test_the_official_types_take_every_answer(name: str) -> None:
    kind = ChatResponse if name.startswith("chat") else GenerateResponse
    status, body = section(name, "whole")
    answers = [*lines(name), *([json.loads(body)] if status == 200 else [])]
    for answer in answers:
        if "error" not in answer:
            kind.model_validate(answer)


@pytest.mark.parametrize("name", [name for name in IDS if not name.endswith(("error_early", "error_late", "too_long"))])
def test_the_lines_add_up_to_the_whole(name: str) -> None:
    told = lines(name)
    whole = json.loads(section(name, "whole")[1])
    assert [line["done"] for line in told] == [False] * (len(told) - 1) + [True]
    for key in ("response", "thinking"):
        assert "".join(line.get(key, "") for line in told) == whole.get(key, "")
    for key in ("content", "thinking"):
        joined = "".join(line.get("message", {}).get(key, "") for line in told)
        assert joined == whole.get("message", {}).get(key, "")
    calls = [call for line in told for call in line.get("message", {}).get("tool_calls", [])]
    assert calls == whole.get("message", {}).get("tool_calls", [])
    assert [entry for line in told for entry in line.get("logprobs", [])] == whole.get("logprobs", [])
    spoken = ("response", "thinking", "message", "logprobs")
    assert {k: v for k, v in told[-1].items() if k not in spoken} == {k: v for k, v in whole.items() if k not in spoken}


@pytest.mark.parametrize(("path", "empty"), [("generate", {"response": ""}), ("chat", {"message": {"content": ""}})])
def test_a_silent_stream_says_so_with_a_line_that_adds_nothing(path: str, empty: dict[str, Any]) -> None:
    read = {"generate": read_generate, "chat": read_chat}[path]
    encoder = read({"model": "m", **BODIES[path]}, 0.0).encoder()
    line = encoder.comment()
    told = json.loads(line)
    assert (line.count(b"\n"), told["done"], "done_reason" in told) == (1, False, False)
    for key, value in empty.items():
        assert told[key] == (value if isinstance(value, str) else {"role": "assistant", **value})
