"""The OpenAI resources, and where each is served."""

from __future__ import annotations

from typing import TYPE_CHECKING

import falcon

from dmr.config import Settings
from dmr.errors import ModelNotFound
from dmr_server.generation import BACKEND, Generation, Stamps, check_backend
from dmr_server.openai.calls import Call
from dmr_server.openai.chat import read_chat
from dmr_server.openai.completions import read_completion
from dmr_server.openai.embeddings import read_embeddings
from dmr_server.openai.infill import read_infill
from dmr_server.openai.missing import missing_routes
from dmr_server.openai.models import Deleted, model_elsewhere, to_model, to_models
from dmr_server.openai.rerank import read_rerank, read_score
from dmr_server.openai.tokens import read_apply_template, read_detokenize, read_input_tokens, read_tokenize
from dmr_server.openai.transcriptions import Transcriptions
from dmr_server.openai.wire import OpenAIDialect, encode

if TYPE_CHECKING:
    from dmr.service import Service


# Where OpenAI's API is served. Upstream knows no `/{backend}/v1` without `/engines`.
ROOTS = ("/v1", "/engines/v1", "/engines/{backend}/v1")
# Where upstream and llama-server have what is not OpenAI's.
BARE_ROOTS = ("", "/engines", "/engines/{backend}")


class ModelList:
    """GET /v1/models"""

    dialect = OpenAIDialect()

    def __init__(self, service: Service) -> None:
        self._service = service

    def on_get(self, req: falcon.Request, resp: falcon.Response, backend: str = "") -> None:
        """With the models of other engines, unless only those of one are asked for."""
        check_backend(backend or BACKEND)
        others = {} if backend else self._service.upstreams.models()
        resp.data = encode(to_models(self._service.served_models(), others, self._service.capabilities))

    on_head = on_get


class ModelItem:
    """GET, DELETE /v1/models/{name}"""

    dialect = OpenAIDialect()

    def __init__(self, service: Service) -> None:
        self._service = service

    def on_get(self, req: falcon.Request, resp: falcon.Response, name: str, backend: str = "") -> None:
        check_backend(backend or BACKEND)
        try:
            record = self._service.get_model(name)
            resp.data = encode(to_model(record, name, self._service.capabilities(record)))
        except ModelNotFound:
            other = None if backend else self._service.upstreams.of_model(name)
            if other is None:
                raise
            resp.data = encode(model_elsewhere(name, other.engine.name))

    on_head = on_get

    def on_delete(self, req: falcon.Request, resp: falcon.Response, name: str, backend: str = BACKEND) -> None:
        check_backend(backend)
        self._service.remove_model(name, False)
        resp.data = encode(Deleted(name))


def routes(service: Service, settings: Settings, stamps: Stamps) -> dict[str, object]:
    """Every OpenAI route, and those that llama-server and vLLM serve beside them."""
    generating = _generating(service, settings, stamps)
    ranking = _ranking(service, settings, stamps)
    transcriptions = Transcriptions(service, settings.max_body_bytes)
    table: dict[str, object] = {}
    for root in (*ROOTS, ""):  # llama-server has all of them without `/v1` too
        table.update((root + path, resource) for path, resource in {**generating, **ranking}.items())
    for root in BARE_ROOTS:
        table.update((root + path, resource) for path, resource in ranking.items())
    for root in ROOTS:
        table[f"{root}/models"] = ModelList(service)
        table[f"{root}/audio/transcriptions"] = transcriptions
        table[f"{root}/models/{{name:model}}"] = ModelItem(service)
        table.update(missing_routes(root))
    return table


def _generating(service: Service, settings: Settings, stamps: Stamps) -> dict[str, object]:
    limit = settings.max_body_bytes
    return {
        "/chat/completions": Generation(service, OpenAIDialect("messages"), read_chat, "chatcmpl-", stamps, limit),
        "/completions": Generation(service, OpenAIDialect("prompt"), read_completion, "cmpl-", stamps, limit),
        "/infill": Generation(service, OpenAIDialect("input_prefix"), read_infill, "infill-", stamps, limit),
        "/embeddings": Call(service, read_embeddings, stamps, limit, prompt_param="input"),
        **{
            path: Call(service, read, stamps, limit, prompt_param=param, guess_model=True)
            for path, read, param in (
                ("/chat/completions/input_tokens", read_input_tokens, "messages"),
                ("/apply-template", read_apply_template, "messages"),
                ("/tokenize", read_tokenize, "content"),
                ("/detokenize", read_detokenize, "tokens"),
            )
        },
    }


def _ranking(service: Service, settings: Settings, stamps: Stamps) -> dict[str, object]:
    limit = settings.max_body_bytes
    rerank = Call(service, read_rerank, stamps, limit, prompt_param="documents", prefix="rerank-")
    score = Call(service, read_score, stamps, limit, prompt_param="text_2", prefix="score-")
    return {"/rerank": rerank, "/reranking": rerank, "/score": score}
