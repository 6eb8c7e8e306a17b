"""The Responses resources: what Falcon calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import falcon
import msgspec

from dmr.config import Settings
from dmr.errors import InvalidRequest
from dmr_server.bodies import read_json
from dmr_server.dialect import EVENT_STREAM, Client, Exchange, respond, wait_for, with_client
from dmr_server.generation import BACKEND, Stamp, Stamps, check_backend, model_of, only_preloads
from dmr_server.responses.background import Follower, Jobs
from dmr_server.responses.compaction import read_compaction
from dmr_server.responses.items import Item
from dmr_server.responses.keeping import UNFINISHED, KeptExchange, Lookup, input_of, to_response
from dmr_server.responses.request import ResponseExchange, read_response
from dmr_server.responses.storage import ResponseStore
from dmr_server.responses.wire import Deleted, InputTokens, ItemList, ResponseNotFound, ResponsesDialect, encode

if TYPE_CHECKING:
    from dmr.service import Service

ROOTS = (
    "/responses",
    "/v1/responses",
    "/engines/responses",
    "/engines/v1/responses",
    "/engines/{backend}/v1/responses",
)
FILE_NAME = "dmr-responses.sqlite3"
MAX_LISTED = 100


class _Resource:
    dialect = ResponsesDialect()

    def __init__(self, service: Service, store: ResponseStore, stamps: Stamps, max_body_bytes: int) -> None:
        self._service = service
        self._store = store
        self._stamps = stamps
        self._max_body_bytes = max_body_bytes

    def _body(self, req: falcon.Request, backend: str) -> dict[str, Any]:
        check_backend(backend)
        body = read_json(req, self._max_body_bytes)
        model_of(body)
        return body

    def _read(self, body: dict[str, Any], stamp: Stamp) -> ResponseExchange:
        try:
            return read_response(body, stamp, Lookup(self._store), can_store=self._store.is_available())
        except InvalidRequest:
            self._service.get_model(body["model"])  # an unknown model is told before any other mistake
            raise


class Create(_Resource):
    """POST /v1/responses"""

    def __init__(self, service: Service, store: ResponseStore, stamps: Stamps, max_body_bytes: int) -> None:
        super().__init__(service, store, stamps, max_body_bytes)
        self._jobs = Jobs(service, store)

    def on_post(self, req: falcon.Request, resp: falcon.Response, backend: str = BACKEND) -> None:
        body = self._body(req, backend)
        if only_preloads(req, self._service, body["model"]):
            return
        exchange = self._read(body, self._stamps.next("resp_"))
        base = exchange.style.base
        if base.background:
            self._begin(req, resp, exchange)
        elif base.store:
            kept = KeptExchange(self._service, self._store, exchange)
            respond(req, resp, cast("Service", kept), kept)
        else:
            respond(req, resp, self._service, exchange)

    def _begin(self, req: falcon.Request, resp: falcon.Response, exchange: ResponseExchange) -> None:
        self._service.get_model(exchange.request.model)  # what can be told at once shall not be told by a failure
        queued = self._jobs.start(exchange, with_client(req, exchange.request))
        if exchange.stream:
            _stream(req, resp, self._store, queued.id)
        else:
            resp.data = encode(queued)


class OneResponse(_Resource):
    """GET and DELETE /v1/responses/{id}"""

    def on_get(self, req: falcon.Request, resp: falcon.Response, response_id: str, backend: str = BACKEND) -> None:
        check_backend(backend)
        kept = Lookup(self._store).get(response_id)
        if _is_true(req, "stream"):
            _stream(req, resp, self._store, kept.id, _number(req, "starting_after", -1, 0, 2**53))
        else:
            resp.data = kept.body

    on_head = on_get

    def on_delete(self, req: falcon.Request, resp: falcon.Response, response_id: str, backend: str = BACKEND) -> None:
        check_backend(backend)
        Lookup(self._store).get(response_id)
        self._store.delete(response_id)
        resp.data = encode(Deleted(id=response_id))


class InputItems(_Resource):
    """GET /v1/responses/{id}/input_items: all that was read for an answer, what came before it included"""

    def on_get(self, req: falcon.Request, resp: falcon.Response, response_id: str, backend: str = BACKEND) -> None:
        check_backend(backend)
        lookup = Lookup(self._store)
        own = lookup.get(response_id)
        items = (lookup.history(own.previous) if own.previous else []) + input_of(own)
        order = req.get_param("order") or "desc"
        if order not in ("asc", "desc"):
            raise InvalidRequest("Invalid value for 'order': expected 'asc' or 'desc'.", param="order")
        if order == "desc":
            items.reverse()
        limit = _number(req, "limit", 20, 1, MAX_LISTED)
        resp.data = encode(_listed(_after(items, req.get_param("after")), limit))

    on_head = on_get


class Cancel(_Resource):
    """POST /v1/responses/{id}/cancel"""

    def on_post(self, req: falcon.Request, resp: falcon.Response, response_id: str, backend: str = BACKEND) -> None:
        check_backend(backend)
        kept = Lookup(self._store).get(response_id)
        if kept.status in UNFINISHED:
            body = encode(msgspec.structs.replace(to_response(kept), status="cancelled"))
            if self._store.cancel(response_id, body):
                resp.data = body
                return
            kept = Lookup(self._store).get(response_id)  # it ended at the same moment
        if kept.status != "cancelled":
            raise InvalidRequest(f"Cannot cancel a response that is {kept.status} already.")
        resp.data = kept.body


class CountTokens(_Resource):
    """POST /v1/responses/input_tokens"""

    def on_post(self, req: falcon.Request, resp: falcon.Response, backend: str = BACKEND) -> None:
        body = {**self._body(req, backend), "stream": False, "stream_options": None, "background": False}
        exchange = self._read(body, self._stamps.next("resp_"))
        count = wait_for(req, self._service.count_tokens(exchange.request))
        resp.data = encode(InputTokens(input_tokens=count.num_prompt_tokens))


class Compact(_Resource):
    """POST /v1/responses/compact"""

    def on_post(self, req: falcon.Request, resp: falcon.Response, backend: str = BACKEND) -> None:
        body = self._body(req, backend)
        try:
            exchange: Exchange = read_compaction(body, self._stamps.next("resp_"), Lookup(self._store))
        except InvalidRequest:
            self._service.get_model(body["model"])
            raise
        respond(req, resp, self._service, exchange)


def _stream(
    req: falcon.Request, resp: falcon.Response, store: ResponseStore, id: str, starting_after: int = -1
) -> None:
    resp.content_type = EVENT_STREAM
    resp.set_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
    resp.stream = Follower(store, id, Client(req.env), starting_after)


def _is_true(req: falcon.Request, name: str) -> bool:
    value = (req.get_param(name) or "false").lower()
    if value not in ("true", "false", "1", "0"):
        raise InvalidRequest(f"Invalid value for '{name}': expected true or false.", param=name)
    return value in ("true", "1")


def _number(req: falcon.Request, name: str, default: int, least: int, most: int) -> int:
    text = req.get_param(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or not least <= int(text[:20]) <= most:
        raise InvalidRequest(f"Invalid value for '{name}': expected a number from {least} to {most}.", param=name)
    return int(text)


def _after(items: list[Item], after: str | None) -> list[Item]:
    if after is None:
        return items
    for index, item in enumerate(items):
        if item["id"] == after:
            return items[index + 1 :]
    raise ResponseNotFound(f"Item with id '{after[:80]}' not found.", param="after")


def _listed(items: list[Item], limit: int) -> ItemList:
    page = items[:limit]
    return ItemList(
        data=page,
        first_id=page[0]["id"] if page else None,
        last_id=page[-1]["id"] if page else None,
        has_more=len(items) > limit,
    )


def routes(service: Service, settings: Settings, stamps: Stamps) -> dict[str, object]:
    """Every Responses route."""
    store = ResponseStore(settings.models_path / FILE_NAME)
    needed = (service, store, stamps, settings.max_body_bytes)
    under = {
        "": Create(*needed),
        "/input_tokens": CountTokens(*needed),
        "/compact": Compact(*needed),
        "/{response_id}": OneResponse(*needed),
        "/{response_id}/input_items": InputItems(*needed),
        "/{response_id}/cancel": Cancel(*needed),
    }
    return {root + path: resource for root in ROOTS for path, resource in under.items()}
