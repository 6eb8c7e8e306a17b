"""Settings: read once from the environment, frozen, and passed down. No other module reads environment variables.

Names are Docker Model Runner's own where it has one (`MODELS_PATH`, `MODEL_RUNNER_PORT`, `DMR_ORIGINS`); ours begin
with `DMR_`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from dmr.errors import InvalidRequest

DEFAULT_PORT = 12434
DEFAULT_CONTEXT_LIMIT = 8192  # tokens; a model trained for more gets them when they are asked for


# "ngram": what was said before; "draft": a draft model; "auto": both, as far as they can be had.
SPECULATIONS = ("auto", "off", "ngram", "draft")


class EngineSettings(msgspec.Struct, frozen=True):
    """What an engine process is started with. 0 means "choose"."""

    context_size: int = 0  # tokens; 0 = the model's own, at most `DEFAULT_CONTEXT_LIMIT` and what fits into memory
    max_num_seqs: int = 32  # sequences that are computed at the same time
    max_batch_tokens: int = 512  # tokens of one step
    num_threads: int = 0  # 0 = the cores that nobody else is using, followed while it runs
    inter_token_target: float = 0.115  # seconds; prefill chunks are sized to keep running streams within it
    max_queue: int = 1024  # sequences that may run or wait; more are refused
    queue_share: float = 0.5  # of the places to wait, that one client may take
    queue_timeout: float = 600.0  # seconds that a request may wait for its first step; 0 = for ever
    request_timeout: float = 0.0  # seconds that a request may take in the engine; 0 = any time
    host_cache_bytes: int = -1  # bytes of memory for saved KV cells; 0 = none, negative = a share of what is free
    num_gpu_layers: int = -1  # negative = all
    context_bytes: int = 0  # that a context may take, cells and buffers; 0 = what is free
    speculation: str = "auto"  # where guesses of the next tokens come from: see `SPECULATIONS`
    draft_model: str = ""  # path of a second, smaller model that guesses; empty = none
    max_draft_tokens: int = 16  # guesses for one sequence in one step


class RegistrySettings(msgspec.Struct, frozen=True):
    """How models are pulled and pushed."""

    default: str = "docker.io"  # of names that have none
    insecure: bool = False  # plain http to every registry
    mirrors: tuple[str, ...] = ()  # hosts that are asked before the default one when pulling


class Settings(msgspec.Struct, frozen=True):
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    models_path: Path = Path("~/.docker/models")
    runtime_dir: Path | None = None  # sockets live here; None = a fresh private folder, removed at exit
    log_level: str = "info"
    keep_alive: float = 300.0  # seconds an idle model stays loaded; negative = for ever
    load_timeout: float = 300.0  # seconds a model may take to load
    grace_period: float = 30.0  # seconds that requests in flight may take after SIGTERM
    max_body_bytes: int = 256 * 1024 * 1024
    num_workers: int = 2  # gunicorn worker processes
    num_threads: int = 512  # requests that one worker serves at the same time
    write_timeout: float = 60.0  # seconds in which a client must take something of what is sent to it
    engine: EngineSettings = EngineSettings()
    registry: RegistrySettings = RegistrySettings()


class _Variable(NamedTuple):
    field: str
    kind: type
    least: float = -math.inf
    most: float = math.inf


_VARIABLES: Mapping[str, _Variable] = {
    "DMR_HOST": _Variable("host", str),
    "MODEL_RUNNER_PORT": _Variable("port", int, 0, 65535),
    "MODELS_PATH": _Variable("models_path", Path),
    "DMR_RUNTIME_DIR": _Variable("runtime_dir", Path),
    "LOG_LEVEL": _Variable("log_level", str),
    "DMR_KEEP_ALIVE": _Variable("keep_alive", float),
    "DMR_LOAD_TIMEOUT": _Variable("load_timeout", float, 1, 86400),
    "DMR_GRACE_PERIOD": _Variable("grace_period", float, 0, 86400),
    "DMR_MAX_BODY_BYTES": _Variable("max_body_bytes", int, 1),
    "DMR_WORKERS": _Variable("num_workers", int, 1, 256),
    "DMR_WORKER_THREADS": _Variable("num_threads", int, 1, 4096),
    "DMR_WRITE_TIMEOUT": _Variable("write_timeout", float, 1, 86400),
    "DMR_CONTEXT_SIZE": _Variable("engine.context_size", int, 0, 1 << 24),
    "DMR_MAX_SEQUENCES": _Variable("engine.max_num_seqs", int, 1, 256),
    "DMR_BATCH_TOKENS": _Variable("engine.max_batch_tokens", int, 1, 1 << 16),
    "DMR_THREADS": _Variable("engine.num_threads", int, 0, 512),
    "DMR_MAX_QUEUE": _Variable("engine.max_queue", int, 1),
    "DMR_QUEUE_SHARE": _Variable("engine.queue_share", float, 0.01, 1),
    "DMR_QUEUE_TIMEOUT": _Variable("engine.queue_timeout", float, 0, 86400),
    "DMR_REQUEST_TIMEOUT": _Variable("engine.request_timeout", float, 0, 86400),
    "DMR_HOST_CACHE": _Variable("engine.host_cache_bytes", int, -1),
    "DMR_GPU_LAYERS": _Variable("engine.num_gpu_layers", int),
    "DMR_CONTEXT_BYTES": _Variable("engine.context_bytes", int, 0, 1 << 50),
    "DMR_SPECULATION": _Variable("engine.speculation", str),
    "DMR_DRAFT_MODEL": _Variable("engine.draft_model", str),
    "DMR_DRAFT_TOKENS": _Variable("engine.max_draft_tokens", int, 1, 64),
    "DEFAULT_REGISTRY": _Variable("registry.default", str),
    "INSECURE_REGISTRY": _Variable("registry.insecure", bool),
    "MODEL_RUNNER_REGISTRY_MIRRORS": _Variable("registry.mirrors", tuple),
}
_LOG_LEVELS = ("debug", "info", "warn", "warning", "error")


def read_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """Settings from environment variables; blanks and quotes around a value are dropped.

    Raises:
        InvalidRequest: a value is not of its type or out of range; the message names the variable.
    """
    flat: dict[str, Any] = {}
    for variable, (field, *_) in _VARIABLES.items():
        text = environ.get(variable, "").strip().strip("\"'")
        if text:
            flat[field] = _parse(variable, text)
    if "engine.draft_model" in flat:
        flat["engine.draft_model"] = str(Path(flat["engine.draft_model"]).expanduser())
    top = {field: value for field, value in flat.items() if "." not in field}
    engine, registry = EngineSettings(**_part(flat, "engine")), RegistrySettings(**_part(flat, "registry"))
    settings = Settings(**top, engine=engine, registry=registry)
    if settings.log_level.lower() not in _LOG_LEVELS:
        raise InvalidRequest(
            f"LOG_LEVEL={settings.log_level!r} is none of {', '.join(_LOG_LEVELS)}.", param="LOG_LEVEL"
        )
    _check_speculation(engine)
    return msgspec.structs.replace(settings, models_path=settings.models_path.expanduser())


def _check_speculation(engine: EngineSettings) -> None:
    if engine.speculation not in SPECULATIONS:
        raise InvalidRequest(
            f"DMR_SPECULATION={engine.speculation!r} is none of {', '.join(SPECULATIONS)}.", param="DMR_SPECULATION"
        )
    if engine.speculation == "draft" and not engine.draft_model:
        raise InvalidRequest("DMR_SPECULATION=draft needs a model in DMR_DRAFT_MODEL.", param="DMR_DRAFT_MODEL")


def _part(flat: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {field.partition(".")[2]: value for field, value in flat.items() if field.startswith(f"{name}.")}


def _parse(variable: str, text: str) -> Any:
    _, kind, least, most = _VARIABLES[variable]
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
