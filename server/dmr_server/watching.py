"""One thread that looks after clients whose own threads wait for somebody else."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dmr_server.dialect import PEEK_INTERVAL, Client
from dmr_server.errors import ClientGone

log = logging.getLogger("dmr.server")


class ClientWatch:
    """Its thread starts with the first client, so a process may fork before."""

    def __init__(self, interval: float = PEEK_INTERVAL) -> None:
        self._interval = interval
        self._lock = threading.Lock()
        self._watched: dict[Client, Callable[[], None]] = {}
        self._is_needed = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def watching(self, client: Client, on_gone: Callable[[], None]) -> Iterator[None]:
        """Meanwhile, `on_gone` is called once, in another thread, if the client leaves."""
        self.begin(client, on_gone)
        try:
            yield
        finally:
            self.end(client)

    def begin(self, client: Client, on_gone: Callable[[], None]) -> None:
        with self._lock:
            self._watched[client] = on_gone
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="client-watch", daemon=True)
                self._thread.start()
            self._is_needed.set()

    def end(self, client: Client) -> None:
        with self._lock:
            self._watched.pop(client, None)
            if not self._watched:
                self._is_needed.clear()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            self._is_needed.wait()
            pause.wait(self._interval)
            with self._lock:
                watched = list(self._watched.items())
            for client, on_gone in watched:
                self._look(client, on_gone)

    def _look(self, client: Client, on_gone: Callable[[], None]) -> None:
        try:
            client.check()
        except ClientGone:
            with self._lock:
                # Who has ended meanwhile may have handed its connection on already.
                if self._watched.pop(client, None) is None:
                    return
                on_gone()
        except Exception:
            log.exception("a client could not be looked at")
