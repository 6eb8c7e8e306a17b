"""Nulls are the same as fields that are not there. `previous_response_id` is honoured: the whole conversation before
is read again, inputs and outputs, instructions excepted; an id that is not kept is a 404. The `stop` and sampling
fields of chat completions are taken too. Answers are kept for 30 days after their last use in a file beside the models,
so that they outlive restarts; `store: false` keeps nothing.

Input items: messages in both forms, function and custom tool calls with their outputs, reasoning items (a thought comes
back by its `encrypted_content`), `item_reference`, `compaction`. Items of other types are left out, with a line in the
server's log. `input_image` (with `image_url`) and `input_audio` are for [models that see or hear](../multimodal.md),
also in outputs of functions; they are kept as they were sent. Files are a 400. Tools: `function`, `custom` (free
text, or a `regex` grammar) and `namespace`, whose tools are offered to the model under one flat name each; tools that
OpenAI itself runs are left out.

Besides: GET and DELETE `/v1/responses/{id}` (`?stream=true&starting_after=N` plays the events again, each text in one
delta; a background stream is followed as it goes), `/input_items`, `/cancel` (what is in progress, in any worker),
`/input_tokens` and `/compact` (the model sums its history up; the item that comes back stands for it)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dmr_server.handling import Field, Route

_SCHEMA: Mapping[str, Any] = {"type": "object", "properties": {"a": {"type": "string"}}}
_TOOL: Mapping[str, Any] = {"type": "function", "name": "f", "parameters": _SCHEMA}
_WITH_TOOL: Mapping[str, Any] = {"tools": [_TOOL]}
_HABIT = "sent by habit"

_READ: Mapping[str, Field] = {
    "model": Field("honoured", "ai/smollm2:135M-Q4_1", "any name of a model of the store"),
    "input": Field("honoured", [{"role": "user", "content": [{"type": "input_text", "text": "Ho"}]}]),
    "instructions": Field("honoured", "Be brief.", "a system message before all others"),
    "tools": Field("honoured", [_TOOL, {"type": "web_search"}], "tools that OpenAI runs itself are left out"),
    "tool_choice": Field("honoured", {"type": "function", "name": "f"}, "enforced from the first token", _WITH_TOOL),
    "parallel_tool_calls": Field("honoured", False),
    "reasoning.effort": Field("honoured", "low", "`none` ends thinking"),
    "reasoning.summary": Field("honoured", "auto", "the thought itself is told as its summary"),
    "text.format": Field("honoured", {"type": "json_schema", "name": "a", "schema": _SCHEMA, "strict": True}),
    "truncation": Field("honoured", "auto", "drops the oldest turns until the prompt fits"),
    "conversation": Field("refused", "conv_1", "use `previous_response_id`"),
    "reasoning.context": Field("ignored", "all_turns", "the model's template decides"),
    "reasoning.mode": Field("ignored", "pro"),
    "text.verbosity": Field("ignored", "low", "no local model knows it"),
}
_CREATED: Mapping[str, Field] = {
    "include": Field("honoured", ["message.output_text.logprobs"], "and `reasoning.encrypted_content`"),
    "max_output_tokens": Field("honoured", 64),
    "max_tool_calls": Field("honoured", 3, "told back; it limits only tools that OpenAI runs, of which there are none"),
    "metadata": Field("honoured", {"a": "b"}, "kept and told"),
    "service_tier": Field("honoured", "auto", "the answer tells `default`"),
    "store": Field("honoured", False),
    "stream": Field("honoured", True),
    "background": Field("honoured", True, "with `stream` too; needs `store`"),
    "temperature": Field("honoured", 0.2),
    "top_p": Field("honoured", 0.5),
    "top_logprobs": Field("honoured", 3),
    "stop": Field("honoured", ["\n"], "chat completions' own"),
    "context_management": Field("refused", [{"type": "compaction"}], "use `truncation` or `/compact`"),
    "moderation": Field("refused", {"model": "omni"}, "nothing is moderated here"),
    "prompt": Field("refused", {"id": "pmpt_1"}, "there are no prompt templates"),
    "access_programs": Field("ignored", {"cyber": "standard"}),
    "background_options": Field("ignored", {"completion_window": "2h"}, "it is answered as soon as can be"),
    "client_metadata": Field("ignored", {"a": "b"}, "Codex"),
    "image": Field("ignored", {"context_compression": "enabled"}, "pictures are never left out"),
    "prompt_cache_key": Field("ignored", "k", "prompts are always cached"),
    "prompt_cache_options": Field("ignored", {"mode": "implicit", "ttl": "30m"}, "prompts are always cached"),
    "prompt_cache_retention": Field("ignored", "24h", "prompts are always cached"),
    "safety_identifier": Field("ignored", "me", _HABIT),
    "stream_options.include_obfuscation": Field("ignored", False, "nothing is obfuscated", {"stream": True}),
    "user": Field("ignored", "me", _HABIT),
}
_COUNTED: Mapping[str, Field] = {
    name: field if name != "reasoning.summary" else Field("ignored", "auto", "it changes the answer only")
    for name, field in _READ.items()
}
_COMPACTED: Mapping[str, Field] = {
    "model": _READ["model"],
    "input": _READ["input"],
    "instructions": _READ["instructions"],
    "prompt_cache_key": _CREATED["prompt_cache_key"],
    "service_tier": Field("ignored", "auto", _HABIT),
}

HANDLING: tuple[Route, ...] = (
    Route("/v1/responses", "Answers, streamed or whole.", {"input": "Hi"}, {**_READ, **_CREATED}),
    Route("/v1/responses/input_tokens", "What the same request would be billed for.", {"input": "Hi"}, _COUNTED),
    Route("/v1/responses/compact", "A history in one item.", {"input": "Hi"}, _COMPACTED),
)
