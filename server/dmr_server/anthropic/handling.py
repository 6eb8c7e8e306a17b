"""Content blocks, wherever they can stand: **honoured** are text, tool_use, tool_result (with `is_error`, text,
images, documents, search results and tool references), image (base64, or a URL where the server's settings
[allow it](../multimodal.md#urls)), thinking (also one that was omitted: its signature holds it), document
with a source of type text or content, search_result, a system role inside of `messages` (with `clear_at`), and a last
assistant message, which is continued. **Ignored** are redacted_thinking, server_tool_use, mcp_tool_use and their
results, and `cache_control` on anything: what can be taken from the cache always is. **Refused** are PDF documents,
documents by URL, sources by file, citations, container_upload, and blocks that nobody knows.

Tools: the client's own are honoured, with `strict` and `defer_loading`; those that Anthropic's API defines or runs
itself (web_search_…, bash_…, text_editor_…, mcp_toolset) are left out with a line in the log.

`thinking.display`: with `"omitted"` the thinking block comes without its text. The sampling fields of
[OpenAI's chat completions](openai.md) are understood here too.
"""

from __future__ import annotations

from dmr_server.handling import Field, Route

_USER = {"role": "user", "content": "Hi"}
_TOOL = {"name": "weather", "description": "Tells it", "input_schema": {"type": "object", "properties": {}}}
_SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
_FORMAT = {"type": "json_schema", "schema": _SCHEMA}
_THINKING = {"type": "enabled", "budget_tokens": 1024}
_CALL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}
_RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "Rain", "is_error": True}
_HISTORY = [_USER, {"role": "assistant", "content": [_CALL]}, {"role": "user", "content": [_RESULT]}]

# What makes the prompt, and so counts.
_PROMPT = {
    "messages": Field("honoured", _HISTORY, "every block type is listed above"),
    "system": Field(
        "honoured",
        [{"type": "text", "text": "Be brief."}],
        "or a text; Claude Code's billing line is dropped",
    ),
    "tools": Field("honoured", [_TOOL]),
    "tool_choice": Field("honoured", {"type": "tool", "name": "weather"}, "auto, any, tool, none", {"tools": [_TOOL]}),
    "tool_choice.disable_parallel_tool_use": Field(
        "honoured", True, "at most one call", {"tools": [_TOOL], "tool_choice": {"type": "auto"}}
    ),
    "thinking": Field(
        "honoured", {"type": "adaptive"}, "enabled, adaptive, between_tools, disabled; without it there is none"
    ),
    "thinking.budget_tokens": Field(
        "honoured", 2048, "at least 1024, less than `max_tokens`", {"thinking": _THINKING, "max_tokens": 4096}
    ),
    "output_config": Field("honoured", {"effort": "low", "format": _FORMAT}),
    "output_config.effort": Field("honoured", "low"),
    "output_config.format": Field("honoured", _FORMAT, "enforced; a schema that cannot be is refused"),
    "output_config.task_budget": Field("refused", {"type": "tokens", "total": 20000}),
    "output_format": Field("honoured", _FORMAT, "an older name of `output_config.format`"),
    "cache_control": Field("ignored", {"type": "ephemeral"}, "everything that can be reused is"),
    "context_management": Field("ignored", {"edits": [{"type": "clear_thinking_20251015"}]}, "nothing is cleared"),
    "mcp_servers": Field("ignored", [{"type": "url", "name": "a", "url": "https://a"}], "with a line in the log"),
    "thread": Field("refused", {"type": "create"}),
    "speed": Field("ignored", "fast"),
    "user_profile_id": Field("ignored", "a"),
    "workspace_id": Field("ignored", "a"),
    "betas": Field("ignored", ["token-counting-2024-11-01"]),
}

HANDLING: tuple[Route, ...] = (
    Route(
        path="/v1/messages",
        summary="Also at `/messages`, `/anthropic/v1/messages`, `/engines/v1/messages` and "
        "`/engines/{backend}/v1/messages`.",
        body={"messages": [_USER], "max_tokens": 64},
        fields={
            **_PROMPT,
            "max_tokens": Field(
                "honoured", 7, "required; more than the context holds is no error, 0 only fills the cache"
            ),
            "stream": Field("honoured", True),
            "stop_sequences": Field("honoured", ["two"]),
            "temperature": Field("honoured", 0.5, "0 to 1"),
            "top_p": Field("honoured", 0.5),
            "top_k": Field("honoured", 5),
            "compaction": Field("refused", {"type": "enabled"}),
            "metadata": Field("ignored", {"user_id": "a"}),
            "service_tier": Field("ignored", "auto"),
            "container": Field("ignored", "container_1"),
            "diagnostics": Field("ignored", {"previous_message_id": "msg_1"}),
            "inference_geo": Field("ignored", "eu"),
            "billing_policy": Field("ignored", {"type": "a"}),
            "fallbacks": Field("ignored", "default", "no request is declined here"),
            "fallback_credit_token": Field("ignored", "a"),
        },
    ),
    Route(
        path="/v1/messages/count_tokens",
        summary="Also beside every other address of messages. Costs no step of the engine and tells the sum of the "
        "three input counts that the answer's `usage` would have.",
        body={"messages": [_USER]},
        fields={
            **_PROMPT,
            "max_tokens": Field("ignored", 64),
            "stream": Field("ignored", True),
            "compaction": Field("ignored", {"type": "enabled"}, "the conversation is counted as it was sent"),
        },
    ),
)
