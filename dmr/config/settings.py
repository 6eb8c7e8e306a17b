"""The values of all settings: frozen, passed down to whoever needs them."""

from __future__ import annotations

from pathlib import Path

import msgspec

from dmr.config.aliases import Alias
from dmr.config.native import AttentionSettings, DraftSettings, ProjectorSettings, RopeSettings, WeightSettings
from dmr.config.upstreams import UpstreamEngine

DEFAULT_PORT = 12434
DEFAULT_TLS_PORT = 12444
AUTO_CERTIFICATES = "~/.docker/model-runner/certs"  # ca.crt, ca.key, server.crt, server.key
SOCKET_MODES = ("0600", "0660", "0666")
DEFAULT_CONTEXT_LIMIT = 8192  # tokens; a model trained for more gets them when they are asked for


# "ngram": what was said before; "draft": a draft model; "auto": both, as far as they can be had.
SPECULATIONS = ("auto", "off", "ngram", "draft")

RECORDS = ("off", "metadata", "bodies")

# Of registries at private addresses: those that the server's surroundings let requests name, all, and none.
AUTOMATIC, ANY_REGISTRY, NO_REGISTRY = "auto", "all", "off"


class EngineSettings(msgspec.Struct, frozen=True):
    """What an engine process is started with. 0 means "choose"."""

    context_size: int = 0  # tokens; 0 = the model's own, at most `DEFAULT_CONTEXT_LIMIT` and what fits into memory
    max_num_seqs: int = 32  # sequences that are computed at the same time
    max_batch_tokens: int = 512  # tokens of one step
    num_threads: int = 0  # 0 = the cores that nobody else is using, followed while it runs
    inter_token_target: float = 0.035  # seconds; prefill chunks are sized to keep running streams within it
    max_queue: int = 1024  # sequences that may run or wait; more are refused
    queue_share: float = 0.5  # of the places to wait, that one client may take
    queue_timeout: float = 600.0  # seconds that a request may wait for its first step; 0 = for ever
    request_timeout: float = 0.0  # seconds that a request may take in the engine; 0 = any time
    hang_timeout: float = 120.0  # seconds in which an engine at work must get on, the manager say something; 0 = any
    host_cache_bytes: int = -1  # bytes of memory for saved KV cells; 0 = none, negative = a share of what is free
    num_gpu_layers: int = -1  # negative = all
    context_bytes: int = 0  # that a context may take, cells and buffers; 0 = what is free
    speculation: str = "auto"  # where guesses of the next tokens come from: see `SPECULATIONS`
    draft_model: str = ""  # path of a second, smaller model that guesses; empty = none
    max_draft_tokens: int = 16  # guesses for one sequence in one step
    num_batch_threads: int = 0  # for steps of more than one token; 0 = the same as `num_threads`
    # Of 100. Compute threads spin for some milliseconds after a step: over the pause between two steps, but not for
    # much longer, since whoever delivers the tokens needs a core too.
    thread_polling: int = 2
    shares_prefixes: bool = True  # a prompt that begins as an earlier one is computed from where they differ
    pooling: str = (
        ""  # how vectors of texts are made: "mean", "cls", "last" or "rank"; empty = as the model's file says
    )
    weights: WeightSettings = WeightSettings()
    attention: AttentionSettings = AttentionSettings()
    rope: RopeSettings = RopeSettings()
    draft: DraftSettings = DraftSettings()
    projector: ProjectorSettings = ProjectorSettings()


class TlsSettings(msgspec.Struct, frozen=True):
    """A second port that speaks https. Without files of one's own, an authority and a certificate are made."""

    enabled: bool = False
    port: int = DEFAULT_TLS_PORT
    cert: str = ""  # file of the certificate, with those between it and its authority (PEM)
    key: str = ""  # file of its key
    auto_cert: bool = True  # make what is not given, in `AUTO_CERTIFICATES`


class RegistrySettings(msgspec.Struct, frozen=True):
    """How models are pulled and pushed."""

    default: str = "docker.io"  # of names that have none
    insecure: bool = False  # plain http to every registry
    mirrors: tuple[str, ...] = ()  # hosts that are asked before the default one when pulling
    certificates: str = ""  # a file of authorities to trust beside the system's
    private: tuple[str, ...] = (AUTOMATIC,)  # at private addresses, that requests may name: see `private_registries`


class Settings(msgspec.Struct, frozen=True):
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    plain: bool = True  # listen on `port`; false leaves TLS and the Unix socket
    socket: Path | None = None  # a Unix socket to listen on, beside the ports
    socket_mode: str = "0600"  # who may connect: see `SOCKET_MODES`
    socket_group: str = ""  # whose group the socket has; empty = that of the server's user
    core_dumps: bool = False  # a crash may leave its memory, with prompts in it, on the disk
    models_path: Path = Path("~/.docker/models")
    runtime_dir: Path | None = None  # sockets live here; None = a fresh private folder, removed at exit
    log_level: str = "info"
    keep_alive: float = 300.0  # seconds an idle model stays loaded; negative = for ever
    load_timeout: float = 300.0  # seconds a model may take to load
    memory_limit: int = 0  # bytes for all engines together; 0 = what the system says is free, negative = no bound
    memory_wait: float = 20.0  # seconds that a model waits for others to become idle and make room
    max_loaded_models: int = 0  # at the same time; 0 = as many as memory has room for
    grace_period: float = 30.0  # seconds that requests in flight may take after SIGTERM
    max_body_bytes: int = 256 * 1024 * 1024
    num_workers: int = 2  # gunicorn worker processes
    num_threads: int = 640  # requests that one worker serves at the same time
    write_timeout: float = 60.0  # seconds in which a client must take something of what is sent to it
    record: str = "metadata"  # what is kept of the last requests: see `RECORDS`
    log_dir: Path | None = None  # log files are written here; None = none
    disable_metrics: bool = False  # there is no /metrics
    keys: Path | None = None  # the file of keys that let clients in; None = everybody may
    origins: tuple[str, ...] = ()  # of pages whose scripts may use the server, beside those of this machine
    fetch_media: tuple[str, ...] = ("off",)  # hosts whose media are fetched by URL; "public" = all public ones
    aliases: tuple[Alias, ...] = ()  # other names for models, the one that goes first in front
    upstreams: tuple[UpstreamEngine, ...] = ()  # engines beyond this machine
    engine: EngineSettings = EngineSettings()
    registry: RegistrySettings = RegistrySettings()
    tls: TlsSettings = TlsSettings()
