"""The Anthropic resources: what Falcon calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import falcon
import msgspec

from dmr.config import Settings
from dmr.errors import InvalidRequest
from dmr_server.anthropic.fields import read_count
from dmr_server.anthropic.message import read_message
from dmr_server.anthropic.models import MAX_PAGE, Page, to_model, to_models
from dmr_server.anthropic.wire import AnthropicDialect, encode
from dmr_server.bodies import read_json
from dmr_server.dialect import wait_for, who
from dmr_server.generation import BACKEND, Generation, Stamps, check_backend, model_of

if TYPE_CHECKING:
    from dmr.service import Service

# Where messages are served: Anthropic's own place, upstream's, and bare.
ROOTS = ("", "/v1", "/anthropic/v1", "/engines/v1", "/engines/{backend}/v1")


class TokensCount(msgspec.Struct, frozen=True):
    input_tokens: int


class CountTokens:
    """POST /v1/messages/count_tokens"""

    dialect = AnthropicDialect()

    def __init__(self, service: Service, max_body_bytes: int) -> None:
        self._service = service
        self._max_body_bytes = max_body_bytes

    def on_post(self, req: falcon.Request, resp: falcon.Response, backend: str = BACKEND) -> None:
        check_backend(backend)
        body = read_json(req, self._max_body_bytes)
        model = model_of(body)
        try:
            request = read_count(body)
        except InvalidRequest:
            self._service.get_model(model)  # an unknown model is told before any other mistake
            raise
        request = msgspec.structs.replace(request, client=who(req))
        count = wait_for(req, self._service.count_tokens(request))
        resp.data = encode(TokensCount(count.num_prompt_tokens))


class ModelList:
    """GET /anthropic/v1/models"""

    dialect = AnthropicDialect()

    def __init__(self, service: Service) -> None:
        self._service = service

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.data = encode(to_models(self._service.served_models(), _page(req)))

    on_head = on_get


class ModelItem:
    """GET /anthropic/v1/models/{name}"""

    dialect = AnthropicDialect()

    def __init__(self, service: Service) -> None:
        self._service = service

    def on_get(self, req: falcon.Request, resp: falcon.Response, name: str) -> None:
        resp.data = encode(to_model(self._service.get_model(name), name))

    on_head = on_get


def _page(req: falcon.Request) -> Page:
    limit = req.get_param("limit", default=str(MAX_PAGE))
    if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:5]) <= MAX_PAGE:
        raise InvalidRequest(f"Invalid value for 'limit': expected 1 to {MAX_PAGE}.", param="limit")
    return Page(int(limit), req.get_param("after_id", default=""), req.get_param("before_id", default=""))


def routes(service: Service, settings: Settings, stamps: Stamps) -> dict[str, object]:
    """Every Anthropic route."""
    limit = settings.max_body_bytes
    messages = Generation(service, AnthropicDialect(), read_message, "msg_", stamps, limit)
    count_tokens = CountTokens(service, limit)
    table: dict[str, object] = {
        "/anthropic/v1/models": ModelList(service),
        "/anthropic/v1/models/{name:model}": ModelItem(service),
    }
    for root in ROOTS:
        table[f"{root}/messages"] = messages
        table[f"{root}/messages/count_tokens"] = count_tokens
    return table
