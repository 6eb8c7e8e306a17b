"""Settings: read once from the environment, frozen, and passed down. No other module reads environment variables.

Names are Docker Model Runner's own where it has one (`MODELS_PATH`, `MODEL_RUNNER_PORT`, `DMR_ORIGINS`); ours begin with `DMR_`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from dmr.errors import InvalidRequest

DEFAULT_PORT = 12434


class EngineSettings(msgspec.Struct, frozen=True):
    """What an engine process is started with. 0 means "choose"."""

    context_size: int = 0  # tokens; 0 = the model's own, at most `DEFAULT_CONTEXT_LIMIT`
    max_num_seqs: int = 32  # sequences that are computed at the same time
    max_batch_tokens: int = 512  # tokens of one step
    num_threads: int = 0  # 0 = the cores this process may use
    inter_token_target: float = 0.1  # seconds; prefill chunks are sized to keep running streams within it
    max_queue: int = 1024  # sequences that may wait; more are refused
    num_gpu_layers: int = -1  # negative = all


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
    num_threads: int = 128  # requests that one worker serves at the same time
    engine: EngineSettings = EngineSettings()


_VARIABLES: Mapping[str, tuple[str, type]] = {
    "DMR_HOST": ("host", str),
    "MODEL_RUNNER_PORT": ("port", int),
    "MODELS_PATH": ("models_path", Path),
    "DMR_RUNTIME_DIR": ("runtime_dir", Path),
    "LOG_LEVEL": ("log_level", str),
    "DMR_KEEP_ALIVE": ("keep_alive", float),
    "DMR_LOAD_TIMEOUT": ("load_timeout", float),
    "DMR_GRACE_PERIOD": ("grace_period", float),
    "DMR_MAX_BODY_BYTES": ("max_body_bytes", int),
    "DMR_WORKERS": ("num_workers", int),
    "DMR_WORKER_THREADS": ("num_threads", int),
    "DMR_CONTEXT_SIZE": ("engine.context_size", int),
    "DMR_MAX_SEQUENCES": ("engine.max_num_seqs", int),
    "DMR_BATCH_TOKENS": ("engine.max_batch_tokens", int),
    "DMR_THREADS": ("engine.num_threads", int),
    "DMR_MAX_QUEUE": ("engine.max_queue", int),
    "DMR_GPU_LAYERS": ("engine.num_gpu_layers", int),
}


def read_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """Settings from environment variables; blanks and quotes around a value are dropped.

    Raises:
        InvalidRequest: a value is not of its type; the message names the variable.
    """
    flat: dict[str, Any] = {}
    for variable, (field, kind) in _VARIABLES.items():
        text = environ.get(variable, "").strip().strip("\"'")
        if not text:
            continue
        try:
            flat[field] = kind(text)
        except ValueError:
            raise InvalidRequest(f"{variable}={text!r} is not a valid {kind.__name__}.", param=variable) from None
    engine = {k.removeprefix("engine."): v for k, v in flat.items() if k.startswith("engine.")}
    top = {k: v for k, v in flat.items() if not k.startswith("engine.")}
    settings = Settings(**top, engine=EngineSettings(**engine))
    return msgspec.structs.replace(settings, models_path=settings.models_path.expanduser())
