"""The OpenAI resources: what Falcon calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import falcon

from dmr.config import Settings
from dmr_server.generation import BACKEND, Generation, Stamps, check_backend
from dmr_server.openai.chat import read_chat
from dmr_server.openai.completions import read_completion
from dmr_server.openai.models import to_model, to_models
from dmr_server.openai.wire import OpenAIDialect, encode

if TYPE_CHECKING:
    from dmr.service import Service


# Where OpenAI's API is served. Upstream knows no `/{backend}/v1` without `/engines`.
ROOTS = ("/v1", "/engines/v1", "/engines/{backend}/v1")


class ModelList:
    """GET /v1/models"""

    dialect = OpenAIDialect()

    def __init__(self, service: Service) -> None:
        self._service = service

    def on_get(self, req: falcon.Request, resp: falcon.Response, backend: str = BACKEND) -> None:
        check_backend(backend)
        resp.data = encode(to_models(self._service.list_models()))

    on_head = on_get


class ModelItem:
    """GET /v1/models/{name}"""

    dialect = OpenAIDialect()

    def __init__(self, service: Service) -> None:
        self._service = service

    def on_get(self, req: falcon.Request, resp: falcon.Response, name: str, backend: str = BACKEND) -> None:
        check_backend(backend)
        resp.data = encode(to_model(self._service.get_model(name), name))

    on_head = on_get


def routes(service: Service, settings: Settings, stamps: Stamps) -> dict[str, object]:
    """Every OpenAI route."""
    limit, dialect = settings.max_body_bytes, OpenAIDialect()
    chat = Generation(service, dialect, read_chat, "chatcmpl-", stamps, limit)
    completions = Generation(service, dialect, read_completion, "cmpl-", stamps, limit)
    table: dict[str, object] = {}
    for root in ROOTS:
        table[f"{root}/chat/completions"] = chat
        table[f"{root}/completions"] = completions
        table[f"{root}/models"] = ModelList(service)
        table[f"{root}/models/{{name:model}}"] = ModelItem(service)
    return table
