"""The file that keeps how models are configured. One process writes it, any may read it.

It stands in a folder of its own beside the index, which other programs that use the store do not look into.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable
from pathlib import Path

import msgspec

from dmr.errors import StoreError
from dmr.store.disk import store_errors, write_atomically
from dmr.types import ConfiguredModel, Mode, ModelConfiguration, ModelRecord

VERSION = 1
MAX_BYTES = 16 << 20


class _Version(msgspec.Struct, frozen=True):
    version: int


class _File(msgspec.Struct, frozen=True):
    version: int
    models: tuple[ConfiguredModel, ...]


class ConfigurationFile:
    def __init__(self, root: Path) -> None:
        """`root`: of the store."""
        self.path = root / "dmr" / "configurations.json"

    def read(self) -> tuple[ConfiguredModel, ...]:
        """In the order in which they were set; none if there is no file.

        Raises:
            StoreError: it is damaged, or of a newer version.
        """
        try:
            with self.path.open("rb") as file:
                raw = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise StoreError(f"{self.path} cannot be read: {error.strerror}.") from error
        return self._decoded(raw)

    def write(self, models: Iterable[ConfiguredModel]) -> None:
        """Replace what is there, at once or not at all. Raises StoreError."""
        with store_errors(f"write {self.path.name}"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, msgspec.json.format(msgspec.json.encode(_File(VERSION, tuple(models)))))

    def _decoded(self, raw: bytes) -> tuple[ConfiguredModel, ...]:
        advice = "Move it away to start with no configurations."
        try:
            if len(raw) > MAX_BYTES:
                raise StoreError(f"{self.path} is larger than {MAX_BYTES} bytes. {advice}")
            version = msgspec.json.decode(raw, type=_Version).version
            if version > VERSION:
                raise StoreError(
                    f"{self.path} was written by a newer dmr (version {version}, known is {VERSION}). "
                    f"Use that one. {advice}"
                )
            return msgspec.json.decode(raw, type=_File).models
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise StoreError(f"{self.path} is damaged: {error}. {advice}") from error


class ConfigurationCache:
    """For those who ask at every request: read again only when the file is another one. Any thread."""

    def __init__(self, root: Path) -> None:
        self._file = ConfigurationFile(root)
        self._state: object = None
        self._models: tuple[ConfiguredModel, ...] = ()
        self._lock = threading.Lock()

    def models(self) -> tuple[ConfiguredModel, ...]:
        """Raises StoreError."""
        state = self._state_of_file()
        with self._lock:
            if state != self._state:
                # The state is of before the look: what came since is read at the next one.
                self._models, self._state = self._file.read(), state
            return self._models

    def _state_of_file(self) -> object:
        with contextlib.suppress(OSError):
            found = self._file.path.stat()
            return found.st_ino, found.st_mtime_ns, found.st_size
        return None


def find_configuration(models: Iterable[ConfiguredModel], record: ModelRecord, mode: Mode) -> ConfiguredModel | None:
    """What was set for this mode of a model; None = nothing was.

    Set for the model itself; else, what was last set under one of its names, when they belonged to another model: who
    pulls a newer version under a name finds it configured.
    """
    of_mode = [configured for configured in models if configured.mode is mode]
    own = [configured for configured in of_mode if configured.model_id == record.id]
    named = own or [configured for configured in of_mode if configured.reference in record.tags]
    return named[-1] if named else None


def configuration_of(models: Iterable[ConfiguredModel], record: ModelRecord, mode: Mode) -> ModelConfiguration:
    """What counts in this mode: what was set for it, else for completion."""
    known = tuple(models)
    found = find_configuration(known, record, mode) or find_configuration(known, record, Mode.COMPLETION)
    return found.configuration if found else ModelConfiguration()
