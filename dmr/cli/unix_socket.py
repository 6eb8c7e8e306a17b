"""HTTP over a Unix socket of this machine."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import urllib3

SCHEME = "unix"


def connect_unix(path: str, timeout: float | None) -> socket.socket:
    """Raises OSError: nobody listens there, or this user may not connect."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(timeout)
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection


def unix_pool(path: str, **options: Any) -> urllib3.HTTPConnectionPool:
    """Connections to the server that listens on `path`; it is asked as "localhost"."""
    import urllib3
    from urllib3.connection import HTTPConnection
    from urllib3.exceptions import NewConnectionError

    class Connection(HTTPConnection):
        default_socket_options = []  # noqa: RUF012  # those of TCP mean nothing here

        def _new_conn(self) -> socket.socket:
            timeout = self.timeout if isinstance(self.timeout, (int, float)) else None
            try:
                return connect_unix(path, timeout)
            except OSError as error:
                raise NewConnectionError(self, f"{path}: {error.strerror or error}") from error

    class Pool(urllib3.HTTPConnectionPool):
        ConnectionCls = Connection

    return Pool("localhost", **options)
