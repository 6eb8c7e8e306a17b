"""Who we are to a registry: a token of the request, the environment, or what `docker login` has left."""

from __future__ import annotations

import base64
import binascii
import json
import logging
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

_log = logging.getLogger(__name__)

HUB = "docker.io"
HUB_KEY = "https://index.docker.io/v1/"  # its name in the file that `docker login` writes
HUB_HOSTS = ("docker.io", "index.docker.io", "registry-1.docker.io")
HELPER_TIMEOUT = 20.0  # seconds
_HELPER_NAME = re.compile(r"[A-Za-z0-9._-]+")


class Credentials(NamedTuple):
    """A user name with its password, or (with no user name) an identity token."""

    username: str
    password: str

    @property
    def basic(self) -> str:
        """The value of an Authorization header."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


def find_credentials(registry: str, environ: Mapping[str, str]) -> Credentials | None:
    """What the environment or the user's Docker configuration has for a registry; None = go there as nobody."""
    if registry == HUB:
        for prefix, name in (("DOCKER_USERNAME", "DOCKER_PASSWORD"), ("DOCKER_HUB_USER", "DOCKER_HUB_PASSWORD")):
            if environ.get(prefix) and environ.get(name):
                return Credentials(environ[prefix], environ[name])
    folder = Path(environ.get("DOCKER_CONFIG") or Path(environ.get("HOME", "/nonexistent")) / ".docker")
    return _from_config(_read(folder / "config.json"), HUB_KEY if registry == HUB else registry, environ)


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        _log.warning("%s cannot be read: %s", path, error)
        return {}
    return document if isinstance(document, dict) else {}


def _from_config(config: Mapping[str, Any], key: str, environ: Mapping[str, str]) -> Credentials | None:
    helper = _table(config, "credHelpers").get(key) or config.get("credsStore")
    if isinstance(helper, str) and helper:
        found = _ask_helper(helper, key, environ)
        if found is not None:
            return found
    auths = _table(config, "auths")
    # Some tools write a key as an address, or another of the hub's names.
    near = (entry for name, entry in auths.items() if _host_of(name) == _host_of(key))
    entry = auths.get(key) or next(near, None)
    return _from_entry(entry) if isinstance(entry, dict) else None


def _host_of(key: str) -> str:
    host = key.rpartition("://")[2].partition("/")[0].lower()
    return HUB if host in HUB_HOSTS else host


def _table(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = config.get(name)
    return value if isinstance(value, dict) else {}


def _from_entry(entry: Mapping[str, Any]) -> Credentials | None:
    if token := entry.get("identitytoken"):
        return Credentials("", str(token))
    if entry.get("username") and entry.get("password"):
        return Credentials(str(entry["username"]), str(entry["password"]))
    try:
        username, colon, password = base64.b64decode(str(entry.get("auth", ""))).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return Credentials(username, password.rstrip("\0")) if colon else None


def _ask_helper(helper: str, key: str, environ: Mapping[str, str]) -> Credentials | None:
    """Run `docker-credential-<helper> get`, as its protocol says: the key goes in, JSON comes out."""
    if not _HELPER_NAME.fullmatch(helper):
        return None
    try:
        done = subprocess.run(
            [f"docker-credential-{helper}", "get"],
            input=key.encode(),
            capture_output=True,
            timeout=HELPER_TIMEOUT,
            env=dict(environ),
            check=False,
        )
        if done.returncode != 0:  # it has nothing for this registry
            return None
        answer = json.loads(done.stdout)
        username = str(answer["Username"])
        return Credentials("" if username == "<token>" else username, str(answer["Secret"]))
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError) as error:
        _log.warning("the credential helper %r failed: %s", helper, error)
        return None
