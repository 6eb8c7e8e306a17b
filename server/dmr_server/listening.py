"""Where the server listens: a plain port, a port with TLS, a Unix socket; and what each needs before and after."""

from __future__ import annotations

import grp
import os
import socket
import stat
from pathlib import Path

from dmr.config import Settings
from dmr_server.certificates import TlsContext, files_of

PROBE_TIMEOUT = 1.0  # seconds
PRIVATE_UMASK = 0o177  # a socket is nobody else's until it has its mode


class ListeningFailed(RuntimeError):
    """The server cannot listen there. gunicorn prints a RuntimeError's message and exits with 1."""


class Listening:
    """The addresses of one master, in the order in which gunicorn opens them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.binds: list[str] = []
        self._tls_place: int | None = None
        self.tls: TlsContext | None = None
        if settings.plain:
            self.binds.append(_bind(settings.host, settings.port))
        if settings.tls.enabled:
            self._tls_place = len(self.binds)
            self.binds.append(_bind(settings.host, settings.tls.port))
        if settings.socket is not None:
            self.binds.append(f"unix:{settings.socket}")

    def prepare(self) -> None:
        """Before anything is opened. Raises CertificateFailed, ListeningFailed."""
        if self._settings.tls.enabled:
            self.tls = TlsContext(files_of(self._settings))
        if self._settings.socket is not None:
            _check_path(self._settings.socket)
            _group_id(self._settings.socket_group)

    def open_socket(self) -> None:
        """Let in whom the settings let in. Raises ListeningFailed."""
        path = self._settings.socket
        if path is None:
            return
        try:
            group = _group_id(self._settings.socket_group)
            if group is not None:
                os.chown(path, -1, group, follow_symlinks=False)
            path.chmod(int(self._settings.socket_mode, 8))
        except OSError as error:
            raise ListeningFailed(f"The socket {path} cannot get its group or mode: {error.strerror}.") from None

    def is_tls(self, place: int, name: object) -> bool:
        """Whether the listener with this place and own address is that of TLS."""
        port = self._settings.tls.port
        if port and self._settings.tls.enabled:  # sockets that are inherited may be in any order
            return isinstance(name, tuple) and name[1] == port
        return place == self._tls_place


def _bind(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def _check_path(path: Path) -> None:
    """What is there must be a socket that nobody listens on: gunicorn removes it."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise ListeningFailed(f"There is no folder {path.parent} for the socket.") from None
        return
    except OSError as error:
        raise ListeningFailed(f"The socket {path} cannot be made: {error.strerror}.") from None
    if not stat.S_ISSOCK(mode):
        raise ListeningFailed(f"{path} is there already, and is no socket: take it away, or choose another path.")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(PROBE_TIMEOUT)
        try:
            probe.connect(str(path))
        except OSError:
            return
    raise ListeningFailed(f"Another server listens on {path}.")


def _group_id(name: str) -> int | None:
    if not name:
        return None
    try:
        return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise ListeningFailed(f"There is no group '{name}' for the socket (DMR_SOCKET_GROUP).") from None


current: Listening | None = None
"""The one of this master and its workers."""
