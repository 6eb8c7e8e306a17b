"""SIGHUP: keys and settings are read anew, and only what is right counts.

Processes read copies in the runtime folder, which this one alone writes: so a file that is being edited, or is wrong,
neither ends a process nor gives one other settings than its fellows have.
"""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from dmr.config import Settings
from dmr.config.keeping import keep_file
from dmr.config.keys import format_key, read_keys
from dmr.config.reading import Effective, read_effective
from dmr.errors import DmrError
from dmr_server.certificates import CertificateFailed, files_of

KEYS_VARIABLE = "DMR_KEYS"
# Other processes have these from the start: no worker may have others.
_FIXED = ("host", "port", "models_path", "log_level", "runtime_dir", "log_dir", "num_workers", "plain", "socket", "tls")
_PINNED: Mapping[str, Callable[[Settings], object]] = {
    "DMR_HOST": lambda settings: settings.host,
    "MODEL_RUNNER_PORT": lambda settings: settings.port,
    "MODELS_PATH": lambda settings: settings.models_path,
    "LOG_LEVEL": lambda settings: settings.log_level,
}

log = logging.getLogger("gunicorn.error")


class Reloading:
    """Belongs to the master. `folder` is the runtime folder."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        """`environ`: the variables that the server was started with."""
        self._folder = folder
        self._environ = dict(environ)
        self._settings = Settings()
        self._copies: set[Path] = set()
        atexit.register(self._forget, os.getpid())

    def begin(self) -> None:
        """Write the first copies. Raises InvalidRequest, OSError."""
        effective = read_effective(self._environ)
        self._keep(effective)
        self._settings = effective.settings
        for variable, value_of in _PINNED.items():
            os.environ[variable] = str(value_of(self._settings))

    def reload(self, restart_workers: Callable[[], None]) -> None:
        """Keys change in the workers that there are; for other settings there are new ones, and the old ones end."""
        try:
            effective = read_effective(self._environ)
            self._keep(effective)
        except (DmrError, OSError) as error:
            log.error("Nothing is changed by SIGHUP: %s", error)
            return
        settings, before = _without_pinned(effective.settings, self._settings), self._settings
        self._settings = settings
        self._renew_certificate()
        if settings != before:
            log.info("The settings have changed: new workers take over.")
            restart_workers()
        else:
            log.info("Keys and settings are read anew.")

    def _keep(self, effective: Effective) -> None:
        keys = effective.settings.keys
        text = "\n".join(map(format_key, read_keys(keys))) if keys is not None else None
        copy = keep_file(effective.file, self._folder, os.environ)
        if copy is not None:
            self._copies.add(copy)
        if text is None:
            os.environ.pop(KEYS_VARIABLE, None)
        else:
            os.environ[KEYS_VARIABLE] = str(self._write_keys(text))

    def _write_keys(self, text: str) -> Path:
        """Hashes only, also of keys that are in plain in the file itself."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / f"keys-{os.getpid()}.toml"
        part = path.with_suffix(".part")
        part.unlink(missing_ok=True)
        part.touch(mode=0o600, exist_ok=False)
        part.write_text(text, encoding="utf-8")
        part.replace(path)
        self._copies.add(path)
        return path

    def _renew_certificate(self) -> None:
        if self._settings.tls.enabled:
            try:
                files_of(self._settings)
            except CertificateFailed as error:
                log.error("The certificate stays as it was: %s", error)

    def _forget(self, owner: int) -> None:
        if os.getpid() == owner:
            for copy in self._copies:
                copy.unlink(missing_ok=True)


def _without_pinned(settings: Settings, before: Settings) -> Settings:
    """The settings, with what only another start can change as it was."""
    return msgspec.structs.replace(settings, **{name: getattr(before, name) for name in _FIXED})


current: Reloading | None = None
"""The one of this master. It lives here because gunicorn may load its configuration anew at every reload."""
