"""LiteLLM, in an environment of its own (it holds openai below 3), against a real server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from e2e.conftest import CallsInOtherEnvironment, Server
from tiny_models import (
    EMBED_SIZE,
    SCRIPT_ANSWER,
    SCRIPT_ANSWER_TOKENS,
    SCRIPT_TOOL,
    SCRIPT_TOOL_ANSWER,
    SCRIPT_TOOL_ARGUMENTS,
    THINK_REASONING,
)

pytestmark = pytest.mark.litellm
NAMES = (
    *("whole", "streamed", "tools", "structured", "reasoning"),
    *("embedded", "reranked", "unknown_model"),
)


@pytest.fixture(scope="module")
def calls(server: Server) -> CallsInOtherEnvironment:
    return CallsInOtherEnvironment("litellm_calls.py", server.url, NAMES)


def test_a_whole_answer(calls: CallsInOtherEnvironment) -> None:
    replies = calls.value("whole")
    assert {provider: reply[:2] for provider, reply in replies.items()} == {
        provider: [SCRIPT_ANSWER, "stop"]
        for provider in ("openai", "anthropic", "ollama", "ollama_chat", "hosted_vllm")
    }
    assert {tuple(reply[2:]) for provider, reply in replies.items() if provider != "ollama"} == {
        (replies["openai"][2], SCRIPT_ANSWER_TOKENS)
    }


def test_a_stream_says_the_same(calls: CallsInOtherEnvironment) -> None:
    for provider, pieces in calls.value("streamed").items():
        assert "".join(pieces) == SCRIPT_ANSWER, provider
        assert len(pieces) >= SCRIPT_ANSWER_TOKENS - 1, provider


def test_a_tool_is_called_and_answered(calls: CallsInOtherEnvironment) -> None:
    for provider, (name, arguments, answer) in calls.value("tools").items():
        assert name == SCRIPT_TOOL, provider
        assert json.loads(arguments) == json.loads(SCRIPT_TOOL_ARGUMENTS), provider
        assert answer == SCRIPT_TOOL_ANSWER, provider


def test_a_schema_is_kept(calls: CallsInOtherEnvironment) -> None:
    for provider, text in calls.value("structured").items():
        value = json.loads(text)
        assert set(value) == {"name", "age"}, provider
        assert isinstance(value["age"], int), provider


def test_a_thought_is_told_apart(calls: CallsInOtherEnvironment) -> None:
    assert [text.strip() for text in calls.value("reasoning")] == [THINK_REASONING, SCRIPT_ANSWER]


def test_texts_become_vectors(calls: CallsInOtherEnvironment) -> None:
    found: dict[str, Any] = calls.value("embedded")
    assert [len(vector) for vectors in found.values() for vector in vectors] == [EMBED_SIZE] * 4
    for ours, theirs in zip(found["openai"], found["ollama"], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)


def test_documents_are_ranked(calls: CallsInOtherEnvironment) -> None:
    indices = calls.value("reranked")
    assert len(indices) == 2
    assert set(indices) < {0, 1, 2}


def test_an_unknown_model_is_the_clients_own_error(calls: CallsInOtherEnvironment) -> None:
    assert calls.value("unknown_model") == {"openai": "NotFoundError", "anthropic": "NotFoundError"}
