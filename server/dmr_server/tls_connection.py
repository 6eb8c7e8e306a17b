"""A connection that speaks TLS, in the hands of the thread that serves it."""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Any

from gunicorn.http.errors import NoMoreData  # type: ignore[import-untyped]
from gunicorn.workers.gthread import TConn  # type: ignore[import-untyped]

from dmr_server.certificates import TlsContext

HANDSHAKE_TIMEOUT = 10.0  # seconds
# Seconds of silence. The kernel's own limits for a blocking socket do not end a read or a write of TLS.
MAX_SILENCE = 60.0


class TlsConnection(TConn):  # type: ignore[misc]
    """Takes the place of a fresh connection."""

    def __init__(self, plain: TConn, tls: TlsContext) -> None:
        super().__init__(plain.cfg, plain.sock, plain.client, plain.server)
        self.sock: Any = plain.sock
        self._tls = tls

    def init(self) -> None:
        """The handshake, before the first request. Raises NoMoreData: there will be none."""
        if not self.initialized:
            self.sock.settimeout(HANDSHAKE_TIMEOUT)
            try:
                self.sock = self._tls.current().wrap_socket(self.sock, server_side=True)
            except (OSError, ValueError) as error:
                raise NoMoreData(f"no TLS: {error}") from None
        super().init()
        self.sock.settimeout(MAX_SILENCE)

    def close(self, graceful: bool = False) -> None:
        if graceful and isinstance(self.sock, ssl.SSLSocket):
            with suppress(OSError, ValueError):  # it says that it ends, and waits for nothing
                self.sock.settimeout(0)
                self.sock.unwrap()
        super().close(graceful)
