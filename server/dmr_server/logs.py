"""GET /logs: what the server and its engines have logged, as one text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import falcon

from dmr.log_file import ENGINE_LOG, SERVICE_LOG
from dmr_server import ending
from dmr_server.dialect import Client
from dmr_server.docker import DockerDialect
from dmr_server.errors import ClientGone, NotConfigured, RouteNotFound
from dmr_server.flags import flag
from dmr_server.log_reading import Tail, merged
from dmr_server.refusal import refuse_to_stay

POLL_INTERVAL = 0.2  # seconds between two looks for new lines
PIECE = 1 << 16  # bytes that are sent together, about


class Logs:
    """GET /logs"""

    dialect = DockerDialect()

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        if self._folder is None:
            raise NotConfigured("logs API not available: log directory not configured; set MODEL_RUNNER_LOG_DIR")
        follow, no_engines = flag(req, "follow"), flag(req, "no-engines")
        if follow:
            refuse_to_stay()
        tails = [Tail(self._folder / SERVICE_LOG)]
        if not tails[0].exists:
            raise RouteNotFound("service log not found")
        if not no_engines:
            tails.append(Tail(self._folder / ENGINE_LOG))
        resp.content_type = DockerDialect.media_type
        resp.set_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        resp.stream = _Text(tails, follow, Client(req.env))

    on_head = on_get


class _Text:
    """Ends with its client or with this process, or at the end of what there is."""

    def __init__(self, tails: list[Tail], follow: bool, client: Client) -> None:
        self._tails = tails
        self._follow = follow
        self._client = client

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._pieces()
            while self._follow and not ending.has_begun():
                ending.wait(POLL_INTERVAL)
                self._client.check()
                yield from self._pieces()
        except ClientGone:
            return
        except OSError as error:
            yield f"[logs error: {error.strerror}]\n".encode()

    def close(self) -> None:
        for tail in self._tails:
            tail.close()

    def _pieces(self) -> Iterator[bytes]:
        piece = bytearray()
        for line in merged(self._tails):
            piece += line
            if len(piece) >= PIECE:
                yield bytes(piece)
                piece.clear()
        if piece:
            yield bytes(piece)
