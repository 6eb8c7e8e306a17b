"""Flags about the server, templates, thoughts and what the model is for."""

from __future__ import annotations

from dmr.runtime_flags.flag import Flag, refused, sets, told
from dmr.runtime_flags.kinds import Choice, JsonObject, Number, Switch, Template, Whole

_ONE_SERVER = "the server is set up once for all models: see docs/configuration.md"
_NO_PAGES = "the server has no pages of its own for a model"

SERVING: tuple[Flag, ...] = (
    sets("-to --timeout", "engine.request_timeout", Number(0.0, 86400.0), "seconds for a whole request; 0: any time"),
    refused("--threads-http", "set DMR_WORKER_THREADS for the server"),
    sets("--chat-template", "request.template", Template()),
    sets("--chat-template-kwargs", "request.template_kwargs", JsonObject(), "what a request gives goes over them"),
    told("--jinja", "templates are Jinja"),
    refused("--no-jinja", "templates are always Jinja", takes_value=False),
    sets(
        "--pooling",
        "engine.pooling",
        Choice(("mean", "cls", "last", "rank")),
        "of the modes embedding and reranking; none is not to be had: there is one vector for each text",
    ),
    told("--reasoning-format", "thoughts stand beside the answer, never in it", "auto", "deepseek"),
    sets("--reasoning-budget", "model.reasoning_budget", Whole(-1), "tokens of thought; 0: none, -1: any number"),
    sets("--prefill-assistant", "request.continue_final", Switch(True), "a last turn of the assistant goes on"),
    sets("--no-prefill-assistant", "request.continue_final", Switch(False), "it is closed, and a new one begins"),
    refused("--api-prefix", _ONE_SERVER),
    refused("--webui", _NO_PAGES, takes_value=False),
    told("--no-webui", _NO_PAGES),
    refused("--webui-config", _NO_PAGES),
    refused("--api-key", "keys are the server's, not one model's"),
    told("--metrics", "there is /metrics"),
    refused("--no-metrics", _ONE_SERVER, takes_value=False),
    refused("--props", "properties are not changed over HTTP: use _configure", takes_value=False),
    refused("--slots", "slots are not shown: /metrics has what is running and waiting", takes_value=False),
    told("--no-slots", "slots are not shown"),
    sets("--embedding --embeddings", "mode.embedding", Switch(True), "says the mode"),
    sets("--rerank --reranking", "mode.reranking", Switch(True), "says the mode"),
    refused("--lora-init-without-apply", "adapters are not loaded", takes_value=False),
    refused("--control-vector-layer-range", "control vectors are not loaded"),
    sets("-v --verbose", "process.log_level", Switch("debug"), "the engine's log"),
)
