"""Engines beyond this machine: servers that speak the same API, to which requests can be passed on."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import msgspec

from dmr.errors import InvalidRequest

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
# What stands in an engine's place in addresses already.
RESERVED_NAMES = frozenset(
    [
        "llama.cpp",
        "v1",
        "ps",
        "df",
        "status",
        "unload",
        "requests",
        "responses",
        "rerank",
        "reranking",
        "score",
        "tokenize",
        "detokenize",
        "infill",
        "apply-template",
        "embeddings",
        "completions",
        "chat",
        "models",
        "install-backend",
        "uninstall-backend",
        "_configure",
    ]
)


class UpstreamEngine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One table `[engines.NAME]`. `url` is what clients of that server use as their base address."""

    name: str
    url: str  # "http://host:8000/v1"; the "/v1" at its end may be left out
    api_key_env: str = ""  # the environment variable that has the key; empty = none is sent
    models: tuple[str, ...] = ()  # that it is asked for; empty = all that it lists
    health: str = ""  # the path that tells whether it lives; empty = its list of models
    connect_timeout: float = 5.0  # seconds
    timeout: float = 600.0  # seconds that it may be silent

    @property
    def root(self) -> str:
        """The address without "/v1"."""
        return self.url.rstrip("/").removesuffix("/v1")


def check_upstream(engine: UpstreamEngine) -> None:
    """Raises InvalidRequest, which names the key at fault."""
    where = f"engines.{engine.name}"
    if not NAME.fullmatch(engine.name) or engine.name in RESERVED_NAMES:
        raise InvalidRequest(
            f"[{where}]: an engine's name has small letters, digits, '.', '_' and '-', and is none of "
            f"{', '.join(sorted(RESERVED_NAMES))}.",
            param=where,
        )
    _check_url(engine.url, f"{where}.url")
    if engine.health and not engine.health.startswith("/"):
        raise InvalidRequest(f"{where}.health={engine.health!r} is no path: it begins with '/'.", param=where)
    for field in ("connect_timeout", "timeout"):
        if not 0 < getattr(engine, field) <= 86400:
            raise InvalidRequest(f"{where}.{field} is a number of seconds above 0 and at most 86400.", param=where)


def _check_url(url: str, where: str) -> None:
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_good = False
    if not is_good or parts.query or parts.fragment or re.search(r"[\s\x00-\x1f]", url):
        raise InvalidRequest(f"{where}={url!r} is no address like http://host:8000/v1.", param=where)
    if parts.username is not None or parts.password is not None:
        raise InvalidRequest(f"{where}: a key belongs into the variable that 'api_key_env' names.", param=where)
