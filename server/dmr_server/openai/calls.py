"""The resource behind every endpoint that has one reply and generates nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import falcon

from dmr.errors import InvalidRequest
from dmr.types import Tick
from dmr_server.bodies import read_json
from dmr_server.dialect import wait_for, who
from dmr_server.generation import BACKEND, Stamp, Stamps, check_backend, model_of, only_preloads
from dmr_server.openai.wire import OpenAIDialect

if TYPE_CHECKING:
    from dmr.service import Service


class CallExchange(Protocol):
    """One request, understood: what it asks of the service, and the body for the reply."""

    def ask(self, service: Service, client: str) -> Iterator[Tick | Any]:
        """Ticks, then the one reply."""

    def to_result(self, reply: Any) -> bytes: ...


class Call:
    """`read` understands bodies, `prompt_param` names the field that holds what the model reads."""

    def __init__(
        self,
        service: Service,
        read: Callable[[dict[str, Any], Stamp], CallExchange],
        stamps: Stamps,
        max_body_bytes: int,
        *,
        prompt_param: str,
        prefix: str = "",
        guess_model: bool = False,
    ) -> None:
        self.dialect = OpenAIDialect(prompt_param)
        self._service = service
        self._read = read
        self._stamps = stamps
        self._max_body_bytes = max_body_bytes
        self._prefix = prefix
        self._guess_model = guess_model

    def on_post(self, req: falcon.Request, resp: falcon.Response, backend: str = BACKEND) -> None:
        check_backend(backend)
        body = read_json(req, self._max_body_bytes)
        if self._guess_model and not body.get("model"):
            body["model"] = only_model(self._service)
        model = model_of(body)
        if only_preloads(req, self._service, model):
            return
        try:
            exchange = self._read(body, self._stamps.next(self._prefix))
        except InvalidRequest:
            self._service.get_model(model)  # an unknown model is told before any other mistake
            raise
        resp.data = exchange.to_result(wait_for(req, exchange.ask(self._service, who(req))))


def only_model(service: Service) -> str | None:
    """The model to take where none is named: the only one that is loaded, else the only one that there is."""
    running = service.running_models()
    if len(running) == 1:
        return running[0].reference
    stored = service.list_models()
    return (stored[0].tags or (stored[0].id,))[0] if len(stored) == 1 else None
