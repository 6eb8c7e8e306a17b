"""What all Ollama resources have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import falcon

from dmr.config import Settings
from dmr.types import Event, Tick
from dmr_server.bodies import read_json
from dmr_server.dialect import wait_for
from dmr_server.fields import normalised
from dmr_server.generation import Stamps
from dmr_server.ollama.wire import OllamaDialect

if TYPE_CHECKING:
    from dmr.service import Service


class Resource:
    dialect = OllamaDialect()

    def __init__(self, service: Service, settings: Settings, stamps: Stamps) -> None:
        self._service = service
        self._stamps = stamps
        self._max_body_bytes = settings.max_body_bytes

    def _body(self, req: falcon.Request) -> dict[str, Any]:
        return normalised(read_json(req, self._max_body_bytes))

    def _load(self, req: falcon.Request, model: str, keep_alive: float | None, context_size: int | None) -> None:
        """Load a model as long as somebody waits for it."""
        wait_for(req, _until_done(self._service.preload(model, keep_alive, context_size)))


def _until_done(events: Iterator[Event]) -> Iterator[Tick | bool]:
    """Ticks as long as something goes on, then one answer: that it is done."""
    for _ in events:
        yield Tick()
    yield True
