"""Every setting that can be set: its variable, its place in `Settings`, its kind and range."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from dmr.config.aliases import Alias
from dmr.config.settings import RECORDS, SOCKET_MODES, SPECULATIONS

ORIGIN = re.compile(r"\*|[^\s/]+://[^\s/]+/?")  # as browsers send it, or with "*"
HOST = re.compile(r"[A-Za-z0-9_.-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")  # or a word that means some
LOG_LEVELS = ("debug", "info", "warn", "warning", "error")


class FileName(str):
    """The path of a file, where `Settings` has it as text."""


class Variable(NamedTuple):
    """`field` is a place in `Settings`: "port", "engine.max_queue"."""

    field: str
    kind: type  # str, int, float, bool, Path, FileName; tuple = texts; Alias = a table of them
    least: float = -math.inf
    most: float = math.inf
    choices: tuple[str, ...] = ()
    form: re.Pattern[str] | None = None  # of each of several texts
    like: str = ""  # an example of that form

    @property
    def section(self) -> str:
        """The settings file's table that has it."""
        return self.field.rpartition(".")[0] or "server"

    @property
    def key(self) -> str:
        """Its name in that table."""
        return self.field.rpartition(".")[2]


VARIABLES: Mapping[str, Variable] = {
    "DMR_HOST": Variable("host", str),
    "MODEL_RUNNER_PORT": Variable("port", int, 0, 65535),
    "DMR_PLAIN": Variable("plain", bool),
    "MODEL_RUNNER_SOCK": Variable("socket", Path),
    "DMR_SOCKET_MODE": Variable("socket_mode", str, choices=SOCKET_MODES),
    "DMR_SOCKET_GROUP": Variable("socket_group", str),
    "DMR_CORE_DUMPS": Variable("core_dumps", bool),
    "MODELS_PATH": Variable("models_path", Path),
    "DMR_RUNTIME_DIR": Variable("runtime_dir", Path),
    "LOG_LEVEL": Variable("log_level", str, choices=LOG_LEVELS),
    "DMR_KEEP_ALIVE": Variable("keep_alive", float),
    "DMR_LOAD_TIMEOUT": Variable("load_timeout", float, 1, 86400),
    "DMR_MEMORY_LIMIT": Variable("memory_limit", int, -1, 1 << 60),
    "DMR_MEMORY_WAIT": Variable("memory_wait", float, 0, 86400),
    "DMR_MAX_LOADED_MODELS": Variable("max_loaded_models", int, 0, 4096),
    "DMR_GRACE_PERIOD": Variable("grace_period", float, 0, 86400),
    "DMR_MAX_BODY_BYTES": Variable("max_body_bytes", int, 1),
    "DMR_WORKERS": Variable("num_workers", int, 1, 256),
    "DMR_WORKER_THREADS": Variable("num_threads", int, 1, 4096),
    "DMR_WRITE_TIMEOUT": Variable("write_timeout", float, 1, 86400),
    "DMR_RECORD": Variable("record", str, choices=RECORDS),
    "MODEL_RUNNER_LOG_DIR": Variable("log_dir", Path),
    "DISABLE_METRICS": Variable("disable_metrics", bool),
    "DMR_KEYS": Variable("keys", Path),
    "DMR_ORIGINS": Variable("origins", tuple, form=ORIGIN, like="https://example.com or http://localhost:3000"),
    "DMR_FETCH_MEDIA": Variable("fetch_media", tuple, form=HOST, like="off, public, example.com or example.com:8080"),
    "DMR_ALIASES": Variable("aliases", Alias),
    "DMR_CONTEXT_SIZE": Variable("engine.context_size", int, 0, 1 << 24),
    "DMR_MAX_SEQUENCES": Variable("engine.max_num_seqs", int, 1, 256),
    "DMR_BATCH_TOKENS": Variable("engine.max_batch_tokens", int, 1, 1 << 16),
    "DMR_THREADS": Variable("engine.num_threads", int, 0, 512),
    "DMR_MAX_QUEUE": Variable("engine.max_queue", int, 1),
    "DMR_QUEUE_SHARE": Variable("engine.queue_share", float, 0.01, 1),
    "DMR_QUEUE_TIMEOUT": Variable("engine.queue_timeout", float, 0, 86400),
    "DMR_REQUEST_TIMEOUT": Variable("engine.request_timeout", float, 0, 86400),
    "DMR_HANG_TIMEOUT": Variable("engine.hang_timeout", float, 0, 86400),
    "DMR_HOST_CACHE": Variable("engine.host_cache_bytes", int, -1),
    "DMR_GPU_LAYERS": Variable("engine.num_gpu_layers", int),
    "DMR_CONTEXT_BYTES": Variable("engine.context_bytes", int, 0, 1 << 50),
    "DMR_SPECULATION": Variable("engine.speculation", str, choices=SPECULATIONS),
    "DMR_DRAFT_MODEL": Variable("engine.draft_model", FileName),
    "DMR_INTER_TOKEN_TARGET": Variable("engine.inter_token_target", float, 0.001, 3600),
    "DMR_DRAFT_TOKENS": Variable("engine.max_draft_tokens", int, 1, 64),
    "DEFAULT_REGISTRY": Variable("registry.default", str),
    "INSECURE_REGISTRY": Variable("registry.insecure", bool),
    "MODEL_RUNNER_REGISTRY_MIRRORS": Variable("registry.mirrors", tuple),
    "DMR_CA_FILE": Variable("registry.certificates", FileName),
    "DMR_PRIVATE_REGISTRIES": Variable(
        "registry.private", tuple, form=HOST, like="auto, all, off, registry.example.com or 10.0.0.7:5000"
    ),
    "MODEL_RUNNER_TLS_ENABLED": Variable("tls.enabled", bool),
    "MODEL_RUNNER_TLS_PORT": Variable("tls.port", int, 0, 65535),
    "MODEL_RUNNER_TLS_CERT": Variable("tls.cert", FileName),
    "MODEL_RUNNER_TLS_KEY": Variable("tls.key", FileName),
    "MODEL_RUNNER_TLS_AUTO_CERT": Variable("tls.auto_cert", bool),
}
