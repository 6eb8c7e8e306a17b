"""The resource behind every endpoint that generates text, in every dialect."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import falcon
import msgspec

from dmr.errors import InvalidRequest
from dmr_server.bodies import read_json
from dmr_server.dialect import Dialect, Exchange, respond
from dmr_server.errors import RouteNotFound

if TYPE_CHECKING:
    from dmr.service import Service

BACKEND = "llama.cpp"


class Stamp(msgspec.Struct, frozen=True):
    """What makes two equal answers differ: the identity of this one and its time in Unix seconds."""

    id: str
    created: int


class Stamps:
    """Gives every answer its identity and time; both sources can be replaced in tests."""

    def __init__(
        self, clock: Callable[[], float] = time.time, new_id: Callable[[], str] = lambda: uuid.uuid4().hex
    ) -> None:
        self._clock = clock
        self._new_id = new_id

    def next(self, prefix: str) -> Stamp:
        return Stamp(f"{prefix}{self._new_id()}", int(self._clock()))

    def now(self) -> float:
        """Unix seconds, with their fraction."""
        return self._clock()


class Generation:
    """An endpoint that generates text: `read` understands its bodies, `prefix` begins its answers' ids."""

    def __init__(
        self,
        service: Service,
        dialect: Dialect,
        read: Callable[[dict[str, Any], Stamp], Exchange],
        prefix: str,
        stamps: Stamps,
        max_body_bytes: int,
    ) -> None:
        self.dialect = dialect
        self._service = service
        self._read = read
        self._prefix = prefix
        self._stamps = stamps
        self._max_body_bytes = max_body_bytes

    def on_post(self, req: falcon.Request, resp: falcon.Response, backend: str = BACKEND) -> None:
        check_backend(backend)
        body = read_json(req, self._max_body_bytes)
        model = model_of(body)
        if only_preloads(req, self._service, model):
            return
        try:
            exchange = self._read(body, self._stamps.next(self._prefix))
        except InvalidRequest:
            self._service.get_model(model)  # an unknown model is told before any other mistake
            raise
        respond(req, resp, self._service, exchange)


def only_preloads(req: falcon.Request, service: Service, model: str) -> bool:
    """Docker Model Runner's own wish, `X-Preload-Only`: load the model, answer 200 and nothing. Done if it is one."""
    if req.get_header("X-Preload-Only") != "true":
        return False
    for _ in service.preload(model):
        pass
    return True


def check_backend(backend: str) -> None:
    """Raises RouteNotFound for any backend but the one that there is."""
    if backend != BACKEND:
        raise RouteNotFound(f"The backend '{backend}' does not exist; '{BACKEND}' is the only one.")


def model_of(body: Mapping[str, Any]) -> str:
    """The name of the model that a body asks for; raises InvalidRequest when there is none."""
    model = body.get("model")
    if model is None or model == "":
        raise InvalidRequest("Missing required parameter: 'model' is required.", param="model")
    if not isinstance(model, str):
        raise InvalidRequest("Invalid value for 'model': expected str.", param="model")
    return model
