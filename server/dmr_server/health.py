"""Probes: is the process alive, can it serve."""

from __future__ import annotations

from typing import TYPE_CHECKING

import falcon
import msgspec

if TYPE_CHECKING:
    from dmr.service import Service


class Health:
    """GET /health: 200 while this process answers at all."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.data = msgspec.json.encode({"status": "ok"})

    on_head = on_get


class Ready:
    """GET /ready: 503 until the manager answers."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        if self._service.is_ready():
            resp.data = msgspec.json.encode({"status": "ok"})
            return
        resp.status = falcon.HTTP_503
        resp.set_header("Retry-After", "1")
        resp.data = msgspec.json.encode({"status": "starting"})

    on_head = on_get
