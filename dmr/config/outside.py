"""Variables that are no settings of ours, but are read where they are needed; shown without what is secret in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from dmr.config.variables import VARIABLES

MASK = "********"
_OURS = re.compile(r"DMR_(?!SERVICE_|PORT(_|$))")  # not what Kubernetes says of a service that is called dmr
_OURS_ELSEWHERE = {
    "DMR_API_KEY",
    "DMR_BENCH_EMBED_GGUF",
    "DMR_CONFIG",
    "DMR_HUB_ENDPOINT",
    "DMR_NO_HISTORY",
}
_SECRET = re.compile(r"TOKEN|PASSWORD|SECRET|KEY")
_USER_OF_URL = re.compile(r"(?<=//)[^/@\s]*(?=@)")
_NAMES = (
    "MODEL_RUNNER_HOST",
    "DOCKER_CONFIG",
    "DOCKER_USERNAME",
    "DOCKER_PASSWORD",
    "DOCKER_HUB_USER",
    "DOCKER_HUB_PASSWORD",
    "HF_ENDPOINT",
    "HF_TOKEN",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
)


def outside_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Those that are set, as they may be shown."""
    spelled = [spelling for name in _NAMES for spelling in (name, name.lower())]
    return {name: masked(name, environ[name]) for name in spelled if environ.get(name)}


def unknown_variables(names: Iterable[str], named: Iterable[str] = ()) -> list[str]:
    """Names that look like ours and are none: most likely misspelled. `named`: by the settings, as those of keys."""
    known = {*VARIABLES, *_OURS_ELSEWHERE, *named}
    return sorted(name for name in names if _OURS.match(name) and name not in known)


def masked(name: str, value: str) -> str:
    """A value without passwords, keys and tokens."""
    return MASK if _SECRET.search(name.upper()) else _USER_OF_URL.sub(MASK, value)
