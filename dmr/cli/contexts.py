"""Servers by name, kept in a file of this user's."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import click
import msgspec

from dmr.cli.tls import Tls
from dmr.errors import InvalidRequest, StoreError

DEFAULT = "default"  # the server that one gets without any
_VERSION = 1


class Endpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """One server."""

    host: str
    description: str = ""
    tls: Tls = Tls()


class Contexts(msgspec.Struct, frozen=True):
    """The whole file."""

    version: int = _VERSION
    current: str = DEFAULT
    contexts: dict[str, Endpoint] = {}

    @property
    def endpoint(self) -> Endpoint | None:
        """The server in use; None for the default one."""
        return self.contexts.get(self.current)

    def named(self, name: str) -> Endpoint:
        """Raises `InvalidRequest`."""
        if name not in self.contexts:
            raise InvalidRequest(f"There is no context {name}: `dmr context ls` shows those that there are.")
        return self.contexts[name]


def _path() -> Path:
    return Path(click.get_app_dir("dmr")) / "contexts.json"


def read_contexts() -> Contexts:
    """None yet is the empty file. Raises `StoreError` for one that cannot be read."""
    path = _path()
    try:
        contexts = msgspec.json.decode(path.read_bytes(), type=Contexts)
    except FileNotFoundError:
        return Contexts()
    except (OSError, msgspec.DecodeError) as error:
        raise StoreError(f"{path} cannot be used: {error}. Mend it, or remove it.") from None
    if contexts.version != _VERSION:
        raise StoreError(f"{path} is of version {contexts.version}, which a newer dmr has written: use that one.")
    return contexts


def write_contexts(contexts: Contexts) -> None:
    """Replace the file at once. Raises `StoreError`."""
    path = _path()
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch(mode=0o600)
        part.write_bytes(msgspec.json.format(msgspec.json.encode(contexts), indent=2) + b"\n")
        part.replace(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}.") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
