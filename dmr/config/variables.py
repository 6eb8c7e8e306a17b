"""Every setting that can be set: its variable, its place in `Settings`, its kind and range; and how texts are read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dmr.errors import InvalidRequest


class Variable(NamedTuple):
    field: str
    kind: type
    least: float = -math.inf
    most: float = math.inf


VARIABLES: Mapping[str, Variable] = {
    "DMR_HOST": Variable("host", str),
    "MODEL_RUNNER_PORT": Variable("port", int, 0, 65535),
    "MODELS_PATH": Variable("models_path", Path),
    "DMR_RUNTIME_DIR": Variable("runtime_dir", Path),
    "LOG_LEVEL": Variable("log_level", str),
    "DMR_KEEP_ALIVE": Variable("keep_alive", float),
    "DMR_LOAD_TIMEOUT": Variable("load_timeout", float, 1, 86400),
    "DMR_GRACE_PERIOD": Variable("grace_period", float, 0, 86400),
    "DMR_MAX_BODY_BYTES": Variable("max_body_bytes", int, 1),
    "DMR_WORKERS": Variable("num_workers", int, 1, 256),
    "DMR_WORKER_THREADS": Variable("num_threads", int, 1, 4096),
    "DMR_WRITE_TIMEOUT": Variable("write_timeout", float, 1, 86400),
    "DMR_CONTEXT_SIZE": Variable("engine.context_size", int, 0, 1 << 24),
    "DMR_MAX_SEQUENCES": Variable("engine.max_num_seqs", int, 1, 256),
    "DMR_BATCH_TOKENS": Variable("engine.max_batch_tokens", int, 1, 1 << 16),
    "DMR_THREADS": Variable("engine.num_threads", int, 0, 512),
    "DMR_MAX_QUEUE": Variable("engine.max_queue", int, 1),
    "DMR_QUEUE_SHARE": Variable("engine.queue_share", float, 0.01, 1),
    "DMR_QUEUE_TIMEOUT": Variable("engine.queue_timeout", float, 0, 86400),
    "DMR_REQUEST_TIMEOUT": Variable("engine.request_timeout", float, 0, 86400),
    "DMR_HOST_CACHE": Variable("engine.host_cache_bytes", int, -1),
    "DMR_GPU_LAYERS": Variable("engine.num_gpu_layers", int),
    "DMR_CONTEXT_BYTES": Variable("engine.context_bytes", int, 0, 1 << 50),
    "DMR_SPECULATION": Variable("engine.speculation", str),
    "DMR_DRAFT_MODEL": Variable("engine.draft_model", str),
    "DMR_DRAFT_TOKENS": Variable("engine.max_draft_tokens", int, 1, 64),
    "DEFAULT_REGISTRY": Variable("registry.default", str),
    "INSECURE_REGISTRY": Variable("registry.insecure", bool),
    "MODEL_RUNNER_REGISTRY_MIRRORS": Variable("registry.mirrors", tuple),
}


def parse_text(variable: str, text: str) -> Any:
    _, kind, least, most = VARIABLES[variable]
    if kind is tuple:
        return tuple(item.strip() for item in text.split(",") if item.strip())
    if kind is bool:
        return _parse_switch(variable, text)
    try:
        value = kind(text)
    except ValueError:
        wanted = "whole number" if kind is int else "number"
        raise InvalidRequest(f"{variable}={text!r} is not a {wanted}.", param=variable) from None
    if kind in (int, float) and not (least <= value <= most and math.isfinite(value)):
        raise InvalidRequest(f"{variable}={text!r} is out of range{_described(least, most)}.", param=variable)
    return value


def _parse_switch(variable: str, text: str) -> bool:
    """Go's words for true and false, as upstream takes them."""
    if text.lower() in ("1", "t", "true"):
        return True
    if text.lower() in ("0", "f", "false"):
        return False
    raise InvalidRequest(f"{variable}={text!r} is neither true nor false.", param=variable)


def _described(least: float, most: float) -> str:
    low = f" from {least:g}" if math.isfinite(least) else ""
    return low + (f" to {most:.0f}" if math.isfinite(most) else "")
