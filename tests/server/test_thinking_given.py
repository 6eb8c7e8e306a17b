"""Whether a client has said how much the model is to think: only else its configuration says it."""

from __future__ import annotations

from typing import Any

import pytest

from dmr_server.anthropic.fields import read_request
from dmr_server.generation import Stamps
from dmr_server.ollama.fields import read_common
from dmr_server.openai.chat import read_chat

TURNS = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("fields", "is_given"),
    [
        ({}, False),
        ({"reasoning_effort": "low"}, True),
        ({"reasoning_effort": "none"}, True),
        ({"reasoning_budget": -1}, True),
        ({"thinking_budget_tokens": 5}, True),
        ({"enable_thinking": True}, True),
        ({"chat_template_kwargs": {"enable_thinking": True}}, True),
        ({"chat_template_kwargs": {"other": True}}, False),
        ({"reasoning": {"enabled": True}}, True),
        ({"reasoning": {"exclude": True}}, False),
        ({"include_reasoning": False}, False),
    ],
    ids=str,
)
def test_chat_completions(fields: dict[str, Any], is_given: bool) -> None:
    exchange = read_chat({"model": "m", "messages": TURNS, **fields}, Stamps().next("chatcmpl"))
    assert ("thinking" in exchange.request.given) is is_given


@pytest.mark.parametrize(
    ("think", "is_given"), [(None, False), (True, True), (False, True), ("high", True), ("", False)], ids=str
)
def test_chat_with_think(think: Any, is_given: bool) -> None:
    assert ("thinking" in read_common({"model": "m", "think": think}).given) is is_given


@pytest.mark.parametrize(
    ("thinking", "is_given"), [(None, False), ({"type": "adaptive"}, True), ({"type": "disabled"}, True)], ids=str
)
def test_messages(thinking: Any, is_given: bool) -> None:
    body = {"model": "m", "max_tokens": 5, "messages": TURNS, "thinking": thinking}
    assert ("thinking" in read_request(body).request.given) is is_given
