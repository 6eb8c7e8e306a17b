"""Whatever stands wherever in a request: an answer or a clear refusal, never a failure of ours."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import falcon.testing
import pytest
from fakes import FakeService

from dmr.types import TokenCount

RICH: dict[str, Any] = {
    "model": "ai/smollm2",
    "max_tokens": 4096,
    "system": [{"type": "text", "text": "S", "cache_control": {"type": "ephemeral"}}],
    "stream": False,
    "temperature": 0.5,
    "top_k": 5,
    "stop_sequences": ["two"],
    "thinking": {"type": "enabled", "budget_tokens": 1024, "display": "omitted"},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
    "tools": [
        {"name": "weather", "description": "W", "input_schema": {"type": "object"}, "strict": True},
        {"name": "later", "input_schema": {}, "defer_loading": True, "allowed_callers": ["direct"]},
        {"type": "bash_20250124", "name": "bash"},
    ],
    "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
    "mcp_servers": [{"type": "url"}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Hi"},
                {
                    "type": "document",
                    "title": "T",
                    "context": "C",
                    "citations": {"enabled": False},
                    "source": {"type": "content", "content": [{"type": "text", "text": "D"}]},
                },
                {"type": "search_result", "title": "T", "source": "S", "content": [{"type": "text", "text": "F"}]},
            ],
        },
        {"role": "system", "content": "S", "clear_at": "never", "output_config": {}},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "", "signature": "dmr1z.eJwLyUitVEgvSk0t0QMAGGkEAA=="},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "tool_search_tool_result", "content": {"tool_references": [{"tool_name": "later"}]}},
                {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Rome"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_1",
                    "is_error": True,
                    "content": [{"type": "text", "text": "R"}, {"type": "tool_reference", "tool_name": "later"}],
                }
            ],
        },
    ],
}
STRANGE: tuple[Any, ...] = (
    None,
    True,
    -1,
    2**70,
    1.5,
    "",
    "\x00x",
    [],
    [None],
    [[]],
    {},
    {"type": {}},
    {"type": "text"},
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def with_value(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    body = copy.deepcopy(RICH)
    inner: Any = body
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return body


@pytest.mark.parametrize("place", list(RICH))
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_strange_values(
    client: falcon.testing.TestClient, service: FakeService, answer: Any, place: str, path: str
) -> None:
    for keys in ((place,), *places(RICH[place], (place,))):
        for value in STRANGE:
            service.replies.append(TokenCount(12, 2048))
            service.enqueue(*answer)
            result = client.simulate_post(path, json=with_value(keys, value))
            assert result.status_code in (200, 400, 404), f"{keys} = {value!r}: {result.text}"
            if result.status_code != 200:
                assert result.json["error"]["message"]


def test_the_rich_request_is_right(client: falcon.testing.TestClient, service: FakeService, answer: Any) -> None:
    service.enqueue(*answer)
    assert client.simulate_post("/v1/messages", json=RICH).status_code == 200
