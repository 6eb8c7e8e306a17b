"""Nulls are the same as fields that are not there. `name` may stand for `model`. Fields and options that Ollama does
not document are ignored; unknown options are logged. Beside Ollama's own fields the last line of an answer has
`prompt_eval_cached_count` and, when there is something to tell, `truncated` (messages or tokens left out of the
prompt) and `schema_violations` (what the answer breaks of a `format` that could not be enforced whole)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dmr_server.handling import Field, Route

_IMAGES = "base64; sounds too; each stands at an `[img]` of the prompt, else before it"
_TEMPLATES = "Go's text/template, or Jinja if it has `{%`; with Go's the thought is not told apart"
_LOADER = "how a model is loaded is the server's matter"

_SAMPLING: Mapping[str, Any] = {
    "seed": 7,
    "top_k": 5,
    "top_p": 0.5,
    "min_p": 0.2,
    "typical_p": 0.7,
    "repeat_last_n": 16,
    "temperature": 0.1,
    "repeat_penalty": 1.2,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "mirostat": 2,
    "mirostat_tau": 4.0,
    "mirostat_eta": 0.2,
    "top_n_sigma": 1.5,
    "dynatemp_range": 0.3,
    "dynatemp_exponent": 2.0,
    "xtc_probability": 0.4,
    "xtc_threshold": 0.2,
    "dry_multiplier": 0.8,
    "dry_base": 2.0,
    "dry_allowed_length": 3,
    "dry_penalty_last_n": 32,
    "dry_sequence_breakers": ["\n"],
    "adaptive_target": 0.5,
    "adaptive_decay": 0.5,
    "min_keep": 2,
    "ignore_eos": True,
    "logit_bias": {"7": 5},
    "samplers": ["top_k", "temperature"],
}
_LOAD_TIME: Mapping[str, Any] = {
    "num_gpu": 0,
    "main_gpu": 1,
    "num_batch": 64,
    "num_thread": 2,
    "draft_num_predict": 8,
    "use_mmap": False,
}
_GONE: Mapping[str, Any] = {
    "tfs_z": 0.5,
    "penalize_newline": False,
    "numa": True,
    "low_vram": True,
    "f16_kv": True,
    "logits_all": True,
    "vocab_only": True,
    "use_mlock": True,
}

_OPTIONS: Mapping[str, Field] = {
    **{f"options.{name}": Field("honoured", value) for name, value in _SAMPLING.items()},
    "options.num_predict": Field("honoured", 5, "below 0: as many as there is room for"),
    "options.num_ctx": Field(
        "honoured", 4096, "a limit of this request; a loaded model with less grows when nobody uses it"
    ),
    "options.num_keep": Field("honoured", 32, "tokens that stay at the front when the context is shifted"),
    "options.stop": Field("honoured", ["END"], "a text or a list of texts"),
    **{f"options.{name}": Field("ignored", value, _LOADER) for name, value in _LOAD_TIME.items()},
    **{f"options.{name}": Field("ignored", value, "Ollama has dropped it too") for name, value in _GONE.items()},
}

_COMMON: Mapping[str, Field] = {
    "stream": Field("honoured", False, "default true: one JSON object a line"),
    "format": Field("honoured", "json", '"json" or a JSON Schema'),
    "keep_alive": Field("honoured", "10m", 'seconds, or text like "1h30m"; negative: for ever; 0: unload afterwards'),
    "think": Field("honoured", False, 'true, false, "low", "medium", "high" or "max"; 400 if the model cannot think'),
    "truncate": Field("honoured", False, "default true; what was left out is told in `truncated`"),
    "shift": Field("honoured", False, "default true: goes on when the context is full"),
    "logprobs": Field("honoured", True),
    "top_logprobs": Field("honoured", 3, "0 to 20", {"logprobs": True}),
    "_debug_render_only": Field("honoured", True, "answers with the prompt that the model would get"),
    **_OPTIONS,
}

_GENERATE: Mapping[str, Field] = {
    "prompt": Field("honoured", "Bye", "empty: only loads the model, or unloads it with `keep_alive` 0"),
    "suffix": Field("honoured", "the end", "fills in between; 400 if the model was not trained for it"),
    "system": Field("honoured", "Be brief."),
    "template": Field(
        "honoured",
        "Q: {{ .Prompt }}\nA: ",
        "Go's text/template, or Jinja if it has `{%`; with Go's no thought is told apart",
    ),
    "context": Field("honoured", [1, 2, 3], "the `context` of an earlier answer stands before the prompt"),
    "raw": Field("honoured", True, "the prompt as it is; 400 together with template, system or context"),
    "images": Field("honoured", ["aGk="], _IMAGES),
    "width": Field("ignored", 64, "of image models, which do not run here"),
    "height": Field("ignored", 64, "of image models, which do not run here"),
    "steps": Field("ignored", 4, "of image models, which do not run here"),
    **_COMMON,
}

_USER = {"role": "user", "content": "Hi"}
_TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "It.", "parameters": {"type": "object", "properties": {}}},
}

_CHAT: Mapping[str, Field] = {
    "messages": Field(
        "honoured",
        [{"role": "user", "content": "Bye"}],
        "`role`, `content` (text), `thinking`, `tool_calls`, `tool_name`, `tool_call_id`; "
        "`images` as in generate. An empty list loads the model, or unloads it with `keep_alive` 0",
    ),
    "tools": Field("honoured", [_TOOL], "schemas are kept whole; a call comes in one line when it is complete"),
    **_COMMON,
}

_EMBED: Mapping[str, Field] = {
    "input": Field("honoured", ["one", "two"], "a text or a list of texts; empty: only loads the model"),
    "truncate": Field("honoured", False, "default true"),
    "dimensions": Field("honoured", 1, "the first so many, made length 1 again"),
    "keep_alive": Field("honoured", "10m"),
    "options.num_ctx": Field("honoured", 64, "tokens that a text may have"),
    "options.temperature": Field("ignored", 0.5, "nothing is sampled; the same holds for every other option"),
    **{f"options.{name}": Field("ignored", value, _LOADER) for name, value in _LOAD_TIME.items()},
}

_EMBEDDINGS: Mapping[str, Field] = {
    "prompt": Field("honoured", "other", "empty: only loads the model"),
    "keep_alive": Field("honoured", "10m"),
    "options.num_ctx": Field("honoured", 64, "tokens that a text may have"),
    "options.temperature": Field("ignored", 0.5, "nothing is sampled; the same holds for every other option"),
}

_BLOB = "sha256:" + "ab" * 32
_UNTIL_SUCCESS = "default true: one status a line; false: only the last one"
_NO_DRAFTS = "400: draft models are not available"

_TRANSFER: Mapping[str, Field] = {
    "stream": Field("honoured", False, _UNTIL_SUCCESS),
    "insecure": Field("honoured", True, "the registry may speak plain HTTP, or show a certificate that is not trusted"),
    "username": Field("ignored", "somebody", "Ollama has dropped it too; credentials are the server's"),
    "password": Field("ignored", "secret", "Ollama has dropped it too; credentials are the server's"),
}

_CREATE: Mapping[str, Field] = {
    "from": Field("honoured", "ai/other", "pulled if it is not here; the weights are shared"),
    "files": Field(
        "honoured",
        {"model.gguf": _BLOB},
        "GGUF files that were sent to /api/blobs: one or all shards, and a projector; not together with `from`",
        {"from": "", "files": {"other.gguf": "sha256:" + "cd" * 32}},
    ),
    "modelfile": Field("honoured", "FROM ai/other\nSYSTEM Be brief.", "the other fields lie over it"),
    "quantize": Field("honoured", "q4_K_M", "of F32, F16 and BF16 weights; every type that needs no importance matrix"),
    "quantization": Field("honoured", "q8_0", "the same"),
    "template": Field("honoured", "Q: {{ .Prompt }}\nA: ", "Go's text/template, or Jinja if it has `{%`"),
    "system": Field("honoured", "Be brief.", "an empty one takes the base's away"),
    "parameters": Field("honoured", {"temperature": 0.1}, "the same as `options`; over those of the base"),
    "messages": Field("honoured", [_USER], "in the place of the base's"),
    "license": Field("honoured", ["MIT"], "a text or a list of texts, beside those of the base"),
    "stream": Field("honoured", False, _UNTIL_SUCCESS),
    "requires": Field("refused", "999.0.0", "400 for a version of the API that is not spoken here"),
    "adapters": Field("refused", {"a.gguf": _BLOB}, "400: merge them into the weights"),
    "draft_files": Field("refused", {"a.gguf": _BLOB}, _NO_DRAFTS),
    "draft_quantize": Field("refused", "q8_0", _NO_DRAFTS),
    "renderer": Field("refused", "qwen3-coder", "400: the template says how a conversation is written"),
    "parser": Field("refused", "qwen3-coder", "400: the template says how an answer is read"),
    "info": Field("refused", {"context_length": 8}, "400: a model's metadata is what its file says"),
    "remote_host": Field("refused", "https://example.com", "400: models run here and nowhere else"),
}

HANDLING: tuple[Route, ...] = (
    Route("/api/generate", "Goes on with a text, in lines or whole.", {"prompt": "Hi"}, _GENERATE),
    Route("/api/chat", "Answers a conversation, in lines or whole.", {"messages": [_USER]}, _CHAT),
    Route("/api/embed", "Vectors of length 1 for texts.", {"input": "text"}, _EMBED),
    Route(
        "/api/embeddings",
        "The older form: one text, its vector as the model gives it.",
        {"prompt": "text"},
        _EMBEDDINGS,
    ),
    Route("/api/create", "Makes a model of another one or of files.", {"from": "ai/smollm2"}, _CREATE),
    Route("/api/pull", "Brings a model from a registry or a hub.", {}, _TRANSFER),
    Route("/api/push", "Sends a model to the registry that its name tells.", {}, _TRANSFER),
)
