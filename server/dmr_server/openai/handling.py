"""Parts of a message: **honoured** are `text` and `refusal`, in any role, and, in all roles but the assistant's,
`image_url` (an object with `url` and `detail`, or the URL alone) and `input_audio` (wav, mp3, flac), for
[models that see or hear](../multimodal.md); a last assistant message is continued, its `reasoning_content` (or
`reasoning`) goes where the template wants it. **Refused** are video and files. `prompt_cache_breakpoint` is
**ignored**: what can be taken from the cache always is.

A field that none of these tables names is ignored, and `null` means "absent". Answers add to OpenAI's what clients of
other servers read: `reasoning_content` and `reasoning`, `timings`, and `schema_violations`, which tells where an answer
breaks a schema that could not be enforced as a whole. With `"include_reasoning": false` (vLLM) or
`"reasoning": {"exclude": true}` (OpenRouter) the thought is left out of the answer.

`POST /v1/audio/transcriptions` takes a form: `file`, `model`, `prompt`, `language`, `temperature`, `stream` and
`response_format` (`json`, `text`, `verbose_json`) are honoured; what needs times (`srt`, `vtt`,
`timestamp_granularities[]`), `include[]` and speakers are refused.

Known parts of OpenAI's API that are not served (images that are made, speech, translations, files, batches,
moderations, fine-tuning, assistants, threads, vector stores) answer 501; stored chat completions answer 404.
"""

from __future__ import annotations

from collections.abc import Mapping

from dmr_server.handling import Field, Route

_USER = {"role": "user", "content": "Hi"}
_TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
_CUSTOM = {"type": "custom", "custom": {"name": "shell", "description": "Runs it"}}
_SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
_WHERE = "Also at `/engines/v1`, `/engines/{backend}/v1` and without `/v1`."
_STREAM = {"stream": True}

_SAMPLING: Mapping[str, Field] = {
    "temperature": Field("honoured", 0.5, "0 to 2; 0 takes the likeliest token"),
    "top_p": Field("honoured", 0.5),
    "top_k": Field("honoured", 5, "0 or -1 = off"),
    "min_p": Field("honoured", 0.1),
    "typical_p": Field("honoured", 0.9),
    "top_n_sigma": Field("honoured", 1.0),
    "xtc_probability": Field("honoured", 0.5),
    "xtc_threshold": Field("honoured", 0.2),
    "dynatemp_range": Field("honoured", 0.5),
    "dynatemp_exponent": Field("honoured", 2.0),
    "repeat_last_n": Field("honoured", 32),
    "repeat_penalty": Field("honoured", 1.1),
    "repetition_penalty": Field("honoured", 1.1, "vLLM's name of `repeat_penalty`"),
    "presence_penalty": Field("honoured", 0.5, "-2 to 2"),
    "frequency_penalty": Field("honoured", 0.5, "-2 to 2"),
    "dry_multiplier": Field("honoured", 0.8),
    "dry_base": Field("honoured", 2.0),
    "dry_allowed_length": Field("honoured", 3),
    "dry_penalty_last_n": Field("honoured", 128),
    "dry_sequence_breakers": Field("honoured", ["."]),
    "mirostat": Field("honoured", 2),
    "mirostat_tau": Field("honoured", 4.0),
    "mirostat_eta": Field("honoured", 0.2),
    "adaptive_target": Field("honoured", 0.5),
    "adaptive_decay": Field("honoured", 0.5),
    "min_keep": Field("honoured", 2),
    "samplers": Field("honoured", ["top_k", "temperature"], "their order"),
    "seed": Field("honoured", 42, "-1 = a fresh one"),
    "logit_bias": Field("honoured", {"15": -100}, "by token id, -100 to 100"),
    "ignore_eos": Field("honoured", True),
}

_LENGTH: Mapping[str, Field] = {
    "stop": Field("honoured", ["two"], "a text, or up to 64 of them"),
    "n_predict": Field("honoured", 7, "llama-server's name of `max_tokens`; -1 = what the context holds"),
}

_CONSTRAINTS: Mapping[str, Field] = {
    "response_format": Field(
        "honoured",
        {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": _SCHEMA}},
        "`text`, `json_object`, `json_schema`; what `strict` cannot enforce is refused",
    ),
    "json_schema": Field("honoured", _SCHEMA, "llama-server's"),
    "grammar": Field("honoured", 'root ::= "a"', "GBNF"),
    "guided_json": Field("honoured", _SCHEMA, "vLLM's"),
    "guided_choice": Field("honoured", ["red", "green"], "vLLM's; the bare text, without quotes"),
    "guided_grammar": Field("honoured", 'root ::= "a"', "vLLM's; read as GBNF"),
    "guided_regex": Field("refused", "[ab]+"),
    "structured_outputs": Field("honoured", {"choice": ["red", "green"]}, "vLLM's: json, json_object, choice, grammar"),
    "structured_outputs.regex": Field("refused", "[ab]+"),
    "structured_outputs.structural_tag": Field("refused", "{}"),
    "grammar_lazy": Field("refused", True),
}

_STREAMING: Mapping[str, Field] = {
    "stream": Field("honoured", True),
    "stream_options": Field("honoured", {"include_usage": True}, "refused without `stream`", _STREAM),
    "stream_options.include_usage": Field("honoured", True, "", _STREAM),
    "stream_options.include_obfuscation": Field("ignored", True, "", _STREAM),
    "stream_options.continuous_usage_stats": Field("refused", True, "", _STREAM),
}

_HABITS: Mapping[str, Field] = {
    "user": Field("ignored", "me"),
    "metadata": Field("ignored", {"a": "b"}),
    "store": Field("ignored", True, "nothing is stored"),
    "safety_identifier": Field("ignored", "a"),
    "prompt_cache_key": Field("ignored", "a", "everything that can be reused is"),
    "cache_prompt": Field("ignored", False, "everything that can be reused is"),
    "id_slot": Field("ignored", 1),
    "n_cache_reuse": Field("ignored", 256),
    "n_keep": Field("ignored", 4),
    "n_discard": Field("ignored", 4),
    "priority": Field("ignored", 1),
    "timings_per_token": Field("ignored", True, "`timings` come with the usage"),
    "return_progress": Field("ignored", True),
    "sse_ping_interval": Field("ignored", 5),
    "backend_sampling": Field("ignored", True),
    "spaces_between_special_tokens": Field("ignored", False),
}

_REFUSED: Mapping[str, Field] = {
    "min_tokens": Field("refused", 5),
    "bad_words": Field("refused", ["a"]),
    "allowed_token_ids": Field("refused", [1]),
    "stop_token_ids": Field("refused", [1]),
    "include_stop_str_in_output": Field("refused", True),
    "prompt_logprobs": Field("refused", 1),
    "truncate_prompt_tokens": Field("refused", 5),
    "use_beam_search": Field("refused", True),
    "length_penalty": Field("refused", 0.5),
    "lora": Field("refused", [{"id": 0, "scale": 1}]),
    "n_cmpl": Field("refused", 2, "use `n`"),
    "n_indent": Field("refused", 2),
    "post_sampling_probs": Field("refused", True),
    "response_fields": Field("refused", ["content"]),
    "return_token_ids": Field("refused", True),
    "return_tokens": Field("refused", True),
    "t_max_predict_ms": Field("refused", 100),
    "skip_special_tokens": Field("refused", False, "only true"),
    "add_special_tokens": Field("refused", False, "only true"),
    "detokenize": Field("refused", False, "only true"),
    "parse_tool_calls": Field("refused", False, "only true"),
}

_COMMON = {**_SAMPLING, **_LENGTH, **_CONSTRAINTS, **_STREAMING, **_HABITS, **_REFUSED}

_TOOLS: Mapping[str, Field] = {
    "tools": Field("honoured", [_TOOL, _CUSTOM], "`function` with `strict`, `custom` with text; others are refused"),
    "tool_choice": Field(
        "honoured",
        {"type": "function", "function": {"name": "weather"}},
        "none, auto, required, function, custom, allowed_tools; enforced",
        {"tools": [_TOOL]},
    ),
    "tool_choice.allowed_tools": Field(
        "honoured",
        {"mode": "required", "tools": [{"type": "function", "function": {"name": "weather"}}]},
        "",
        {
            "tools": [_TOOL, _CUSTOM],
            "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}},
        },
    ),
    "parallel_tool_calls": Field("honoured", False, "at most one call", {"tools": [_TOOL]}),
    "functions": Field("honoured", [{"name": "weather"}], "answered with `function_call`"),
    "function_call": Field("honoured", {"name": "weather"}, "", {"functions": [{"name": "weather"}]}),
}

_THINKING: Mapping[str, Field] = {
    "reasoning_effort": Field("honoured", "low", "none, minimal, low, medium, high, xhigh, max"),
    "reasoning": Field("honoured", {"effort": "low"}, "OpenRouter's: effort, max_tokens, enabled, exclude"),
    "thinking_budget_tokens": Field("honoured", 64, "-1 = no limit"),
    "reasoning_budget_tokens": Field("honoured", 64),
    "reasoning_budget": Field("honoured", 64),
    "thinking_budget": Field("honoured", 64),
    "enable_thinking": Field("honoured", False),
    "reasoning_format": Field("refused", "none", "only `auto` and `deepseek`"),
    "chat_template_kwargs": Field("honoured", {"enable_thinking": False}, "any; go to the template"),
}

HANDLING: tuple[Route, ...] = (
    Route(
        path="/v1/chat/completions",
        summary=_WHERE + " `/v1/chat/completions/input_tokens` and `/apply-template` take the same body and answer "
        "how many tokens it has, and the prompt that it becomes.",
        body={"messages": [_USER]},
        fields={
            **_COMMON,
            **_TOOLS,
            **_THINKING,
            "messages": Field("honoured", [{"role": "developer", "content": "Be brief."}, _USER], "see above"),
            "max_tokens": Field("honoured", 7),
            "max_completion_tokens": Field("honoured", 7, "wins over `max_tokens`"),
            "n": Field("honoured", 2, "1 to 128"),
            "logprobs": Field("honoured", True),
            "top_logprobs": Field("honoured", 3, "0 to 20", {"logprobs": True}),
            "service_tier": Field("honoured", "auto", "told back as `default`"),
            "chat_template": Field("honoured", "{{ messages[0].content }}", "Jinja, instead of the model's own"),
            "documents": Field("honoured", [{"text": "a"}], "go to the template"),
            "continue_final_message": Field("honoured", False, "false closes a last assistant message"),
            "add_generation_prompt": Field("refused", False, "", {"continue_final_message": False}),
            "truncation": Field("honoured", "auto", "drops the oldest turns where the prompt is too long"),
            "echo": Field("refused", True),
            "modalities": Field("refused", ["text", "audio"], "only text"),
            "audio": Field("refused", {"format": "wav", "voice": "a"}),
            "prediction": Field("ignored", {"type": "content", "content": "Hello"}),
            "verbosity": Field("ignored", "low"),
            "moderation": Field("ignored", {"model": "a"}),
            "prompt_cache_options": Field("ignored", {"mode": "explicit"}),
            "prompt_cache_retention": Field("ignored", "24h"),
            "web_search_options": Field("ignored", {}),
        },
    ),
    Route(
        path="/v1/completions",
        summary=_WHERE,
        body={"prompt": "Hi"},
        fields={
            **_COMMON,
            "prompt": Field("honoured", [[1, 2], [3]], "a text, several, token ids, several lists of them"),
            "suffix": Field("honoured", "end", "needs a model that was trained to fill in"),
            "echo": Field("honoured", True, "with `logprobs` also those of the prompt"),
            "max_tokens": Field("honoured", 7, "16 where none is given; 0 together with `echo`"),
            "n": Field("honoured", 2, "1 to 128"),
            "best_of": Field("honoured", 3, "not less than `n`; not with `stream`"),
            "logprobs": Field("honoured", 2, "0 to 5"),
        },
    ),
    Route(
        path="/infill",
        summary="Also at `/v1`, `/engines/v1` and `/engines/{backend}/v1`. Asked and answered as llama-server does.",
        body={"input_prefix": "def f():\n", "input_suffix": "\n"},
        fields={
            **_COMMON,
            "input_prefix": Field("honoured", "def g():\n"),
            "input_suffix": Field("honoured", "return a\n"),
            "input_extra": Field(
                "honoured", [{"filename": "a.py", "text": "a = 1"}], "stands before the prefix, as text"
            ),
            "prompt": Field("honoured", "    a", "the beginning of what is filled in"),
            "max_tokens": Field("honoured", 7),
            "n_probs": Field("honoured", 2, "told as `completion_probabilities`"),
            "stream_options": Field("ignored", {"include_usage": True}, "the last chunk has the counts", _STREAM),
            "stream_options.include_usage": Field("ignored", True, "", _STREAM),
            "n": Field("refused", 2),
        },
    ),
    Route(
        path="/v1/embeddings",
        summary=_WHERE,
        body={"input": "Hi"},
        fields={
            "input": Field("honoured", [[1, 2], [3]], "a text, several, token ids, several lists of them; up to 2048"),
            "encoding_format": Field("honoured", "base64", "little-endian 32-bit floats"),
            "dimensions": Field("honoured", 1),
            "normalize": Field("honoured", False),
            "embd_normalize": Field("honoured", -1, "llama-server's: 2 = length 1, -1 = as the model gives them"),
            "truncate": Field("honoured", True, "cuts what is too long; else that is an error"),
            "user": Field("ignored", "me"),
            "pooling": Field("refused", "mean"),
            "task": Field("refused", "retrieval.query"),
            "input_type": Field("refused", "query"),
            "late_chunking": Field("refused", True),
            "truncate_prompt_tokens": Field("refused", 5),
        },
    ),
    Route(
        path="/v1/rerank",
        summary="Also as `/reranking`; " + _WHERE + " Also at `/engines` and `/engines/{backend}`.",
        body={"query": "Hi", "documents": ["a", "b"]},
        fields={
            "query": Field("honoured", "Ho"),
            "documents": Field("honoured", [{"text": "c"}, "d"], "texts, or objects with `text`"),
            "top_n": Field("honoured", 1),
            "return_documents": Field("honoured", True),
            "truncate": Field("honoured", True, "cuts what is too long; else that is an error"),
            "truncation": Field("honoured", True, "Jina's name of `truncate`"),
            "max_chunks_per_doc": Field("refused", 2),
            "max_tokens_per_doc": Field("refused", 64),
            "rank_fields": Field("refused", ["title"]),
            "raw_scores": Field("refused", True),
            "return_embeddings": Field("refused", True),
            "truncate_prompt_tokens": Field("refused", 5),
        },
    ),
    Route(
        path="/rerank",
        summary="With `texts` (TEI's name of `documents`) the answer has TEI's shape.",
        body={"query": "Hi", "texts": ["a", "b"]},
        fields={
            "texts": Field("honoured", ["c", "d"]),
            "return_text": Field("honoured", True),
            "truncate": Field("honoured", True),
            "truncation_direction": Field("ignored", "Right"),
        },
    ),
    Route(
        path="/v1/score",
        summary=_WHERE + " Also at `/engines` and `/engines/{backend}`. Asked and answered as vLLM does.",
        body={"text_1": "Hi", "text_2": ["a", "b"]},
        fields={
            "text_1": Field("honoured", ["Hi", "Ho"], "one, or as many as in `text_2`"),
            "text_2": Field("honoured", ["c", "d"]),
            "truncate": Field("honoured", True),
            "truncate_prompt_tokens": Field("refused", 5),
            "activation": Field("refused", True),
            "use_activation": Field("refused", True),
        },
    ),
    Route(
        path="/score",
        summary="The same with other names.",
        body={"queries": "Hi", "documents": ["a", "b"]},
        fields={"queries": Field("honoured", ["Hi", "Ho"]), "documents": Field("honoured", ["c", "d"])},
    ),
    Route(
        path="/tokenize",
        summary="Also at `/v1`, `/engines/v1` and `/engines/{backend}/v1`. Asked with `content` it answers as "
        "llama-server does, with `prompt` (next table) or `messages` (a chat, under the model's template) as vLLM.",
        body={"content": "Hi"},
        fields={
            "content": Field("honoured", "Ho"),
            "add_special": Field("honoured", True),
            "parse_special": Field("honoured", False),
            "with_pieces": Field("honoured", True),
        },
    ),
    Route(
        path="/v1/tokenize",
        summary="vLLM's form.",
        body={"prompt": "Hi"},
        fields={
            "prompt": Field("honoured", "Ho"),
            "add_special_tokens": Field("honoured", False),
            "return_token_strs": Field("honoured", True),
        },
    ),
    Route(
        path="/detokenize",
        summary="Also at `/v1`, `/engines/v1` and `/engines/{backend}/v1`. The text comes as `content` and `prompt`.",
        body={"tokens": [1, 2]},
        fields={"tokens": Field("honoured", [3])},
    ),
)
