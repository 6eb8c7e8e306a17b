"""Docker Hub's list of repositories on loopback, in pages of two."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from loopback_registry import LoopbackServer, send


class LoopbackCatalog(LoopbackServer):
    def __init__(self) -> None:
        self.repositories: list[dict[str, Any]] = []
        self.status = 200
        super().__init__()

    def add(self, name: str, description: str = "", **more: Any) -> None:
        self.repositories.append({"name": name, "namespace": "ai", "description": description, **more})

    def answer(self, handler: BaseHTTPRequestHandler, headers: dict[str, str]) -> None:
        url = urlsplit(handler.path)
        if url.path != "/v2/repositories/ai/" or self.status != 200:
            send(handler, self.status if self.status != 200 else 404, b"{}")
            return
        page = int(parse_qs(url.query).get("page", ["1"])[0])
        following = f"http://{self.host}/v2/repositories/ai/?page={page + 1}"
        results = self.repositories[2 * page - 2 : 2 * page]
        more = following if 2 * page < len(self.repositories) else None
        send(handler, 200, json.dumps({"count": len(self.repositories), "next": more, "results": results}).encode())
