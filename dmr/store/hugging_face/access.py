"""Where the hub is and who we are there, by the variables and files of the hub's own tools."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

DEFAULT_ENDPOINT = "https://huggingface.co"
MAX_TOKEN_BYTES = 4096
_TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_TRUE = ("1", "on", "yes", "true")


def find_endpoint(environ: Mapping[str, str]) -> str:
    return (environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")


def find_token(environ: Mapping[str, str], given: str | None = None) -> str | None:
    """The token that was given, else the environment's, else the one that `hf auth login` has left; None = nobody."""
    if given:
        return given
    for variable in _TOKEN_VARIABLES:
        if token := _cleaned(environ.get(variable, "")):
            return token
    if environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").lower() in _TRUE:
        return None
    path = _token_path(environ)
    try:
        with path.open("rb") as file:
            return _cleaned(file.read(MAX_TOKEN_BYTES).decode()) if path.is_file() else None
    except (OSError, UnicodeDecodeError):
        return None


def _cleaned(text: str) -> str | None:
    """None for what cannot be sent in a header."""
    token = text.strip()
    return token if token and token.isascii() and token.isprintable() else None


def _token_path(environ: Mapping[str, str]) -> Path:
    if named := environ.get("HF_TOKEN_PATH"):
        return _expanded(named, environ)
    if home := environ.get("HF_HOME"):
        return _expanded(home, environ) / "token"
    cache = environ.get("XDG_CACHE_HOME") or "~/.cache"
    return _expanded(cache, environ) / "huggingface" / "token"


def _expanded(text: str, environ: Mapping[str, str]) -> Path:
    return Path(environ.get("HOME", "/nonexistent"), text.removeprefix("~/")) if text.startswith("~/") else Path(text)
