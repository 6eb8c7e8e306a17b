"""The Ollama resources: what Falcon calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import falcon
import msgspec

from dmr.config import Settings
from dmr.errors import Conflict, InvalidReference, InvalidRequest, ModelNotFound, Unsupported
from dmr.types import ModelRecord
from dmr_server.dialect import Exchange, respond, wait_for, who
from dmr_server.generation import Stamps
from dmr_server.ollama.blobs import Blob
from dmr_server.ollama.chat import read_chat
from dmr_server.ollama.embed import read_embed, read_embeddings, to_embed, to_embeddings
from dmr_server.ollama.fields import Need, model_of, required_model, text_of
from dmr_server.ollama.generate import read_generate
from dmr_server.ollama.images import count_images
from dmr_server.ollama.models import expiry, newest_first, to_listed, to_loaded
from dmr_server.ollama.resource import Resource
from dmr_server.ollama.show import read_show, to_shown
from dmr_server.ollama.transfers import Create, Pull, Push
from dmr_server.ollama.wire import INPUT_TOO_LONG, JSON, VERSION, OllamaDialect, timestamp

if TYPE_CHECKING:
    from dmr.service import Service

encode = msgspec.json.encode


class OllamaExchange(Exchange, Protocol):
    """An exchange that may also be a wish to load the model, to unload it, or to see the prompt."""

    is_empty: bool
    render_only: bool
    needs: tuple[Need, ...]

    def to_notice(self, reason: str) -> bytes: ...


class Generating(Resource):
    """POST /api/generate and POST /api/chat"""

    def __init__(
        self,
        service: Service,
        settings: Settings,
        stamps: Stamps,
        read: Callable[[Mapping[str, Any], float], OllamaExchange],
    ) -> None:
        super().__init__(service, settings, stamps)
        self._read = read

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        body = self._body(req)
        if req.get_header("X-Preload-Only") == "true":  # Docker Model Runner's own wish
            self._load(req, required_model(body), None, None)
            return
        exchange = self._exchange(body)
        request = exchange.request
        self._check_needs(exchange)
        if exchange.render_only:
            resp.data = self._rendered(req, exchange)
        elif not exchange.is_empty:
            respond(req, resp, self._service, exchange)
        elif request.keep_alive == 0:
            self._unload(req, request.model)
            resp.data = exchange.to_notice("unload")
        else:
            self._load(req, request.model, request.keep_alive, request.context_size)
            resp.data = exchange.to_notice("load")
        if resp.stream is None:
            resp.content_type = JSON

    def _exchange(self, body: Mapping[str, Any]) -> OllamaExchange:
        try:
            return self._read(body, self._stamps.now())
        except InvalidRequest as error:
            if error.param not in ("model", "top_logprobs"):
                self._record(model_of(body))  # an unknown model is told before any other mistake
            raise

    def _record(self, model: str) -> ModelRecord:
        """Raises ModelNotFound, also for what can be no name."""
        try:
            return self._service.get_model(model)
        except InvalidReference:
            raise ModelNotFound(model) from None

    def _check_needs(self, exchange: OllamaExchange) -> None:
        """Raises Unsupported if the model cannot do what is asked, ModelNotFound if there is none."""
        capabilities = self._service.capabilities(self._record(exchange.request.model))
        is_special = "embedding" in capabilities or "rerank" in capabilities
        for need in exchange.needs:
            # A plain base model may claim nothing at all, and can still go on with any text.
            if need.capability not in capabilities and (need.capability != "completion" or is_special):
                raise Unsupported(need.refusal, param="model")

    def _rendered(self, req: falcon.Request, exchange: OllamaExchange) -> bytes:
        info: dict[str, Any] = {"rendered_template": wait_for(req, self._service.render(exchange.request))}
        num_images = count_images(exchange.request)
        if num_images:
            info["image_count"] = num_images
        return encode(
            {"model": exchange.request.model, "created_at": timestamp(self._stamps.now()), "_debug_info": info}
        )

    def _unload(self, req: falcon.Request, model: str) -> None:
        """Unload now, or as soon as the last of those who use it is done."""
        try:
            self._service.unload_models([model])
        except Conflict:
            self._load(req, model, 0.0, None)


class Embed(Resource):
    """POST /api/embed"""

    dialect = OllamaDialect(too_long=INPUT_TOO_LONG)

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        arrived = self._stamps.now()
        request = msgspec.structs.replace(read_embed(self._body(req)), client=who(req))
        resp.content_type = JSON
        if not request.inputs:
            self._load(req, request.model, request.keep_alive, request.context_size)
            resp.data = encode({"model": request.model, "embeddings": []})
            return
        embeddings = wait_for(req, self._service.embed(request))
        resp.data = to_embed(request.model, embeddings, self._stamps.now() - arrived)


class LegacyEmbeddings(Resource):
    """POST /api/embeddings"""

    dialect = OllamaDialect(hint="try pulling it first", too_long=INPUT_TOO_LONG)

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        request = msgspec.structs.replace(read_embeddings(self._body(req)), client=who(req))
        resp.content_type = JSON
        if not request.inputs:
            self._load(req, request.model, request.keep_alive, request.context_size)
            resp.data = encode({"embedding": []})
            return
        resp.data = to_embeddings(wait_for(req, self._service.embed(request)))


class Tags(Resource):
    """GET /api/tags"""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        records = newest_first(self._service.served_models())
        models = [model for each in records for model in to_listed(each, self._service.capabilities(each))]
        resp.content_type = JSON
        resp.data = encode({"models": models})

    on_head = on_get


class Loaded(Resource):
    """GET /api/ps"""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        now = self._stamps.now()
        running = sorted(self._service.running_models(), key=lambda model: -expiry(model, now))
        resp.content_type = JSON
        resp.data = encode({"models": [to_loaded(model, self._record(model.id), now) for model in running]})

    on_head = on_get

    def _record(self, id: str) -> ModelRecord | None:
        with suppress(ModelNotFound):
            return self._service.get_model(id)
        return None


class Show(Resource):
    """POST /api/show"""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        body = self._body(req)
        reference = required_model(body)
        record = self._service.get_model(reference)
        shown = to_shown(
            record,
            reference,
            self._service.chat_template(record),
            self._service.capabilities(record),
            read_show(body),
        )
        resp.content_type = JSON
        resp.data = encode(shown)


class Copy(Resource):
    """POST /api/copy"""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        body = self._body(req)
        source, destination = text_of(body, "source"), text_of(body, "destination")
        try:
            self._service.get_stored_model(source)
        except InvalidReference:
            raise InvalidReference(f'source "{source[:100]}" is invalid', param="source") from None
        try:
            self._service.copy_model(source, destination)
        except InvalidReference:
            raise InvalidReference(f'destination "{destination[:100]}" is invalid', param="destination") from None


class Delete(Resource):
    """DELETE /api/delete"""

    def on_delete(self, req: falcon.Request, resp: falcon.Response) -> None:
        reference = required_model(self._body(req))
        try:
            record = self._service.get_stored_model(reference)
        except InvalidReference:
            raise InvalidReference(f'name "{reference[:100]}" is invalid', param="model") from None
        if len(record.tags) <= 1:
            with suppress(Conflict):  # whoever uses it may end in peace
                self._service.unload_models([reference])
        self._service.remove_model(reference, False)


class Version(Resource):
    """GET /api/version"""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        own = self._service.versions().get("version", "unknown")
        resp.content_type = JSON
        resp.data = encode({"version": VERSION, "dmr": own})

    on_head = on_get


class Status(Resource):
    """GET /api/status: there is no cloud behind this server."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.content_type = JSON
        resp.data = encode({"cloud": {"disabled": True, "source": "config"}})

    on_head = on_get


def routes(service: Service, settings: Settings, stamps: Stamps) -> dict[str, object]:
    """Every Ollama route."""
    shared = (service, settings, stamps)
    return {
        "/api/generate": Generating(*shared, read=read_generate),
        "/api/chat": Generating(*shared, read=read_chat),
        "/api/embed": Embed(*shared),
        "/api/embeddings": LegacyEmbeddings(*shared),
        "/api/tags": Tags(*shared),
        "/api/ps": Loaded(*shared),
        "/api/show": Show(*shared),
        "/api/copy": Copy(*shared),
        "/api/delete": Delete(*shared),
        "/api/create": Create(*shared),
        "/api/pull": Pull(*shared),
        "/api/push": Push(*shared),
        "/api/blobs/{digest}": Blob(*shared),
        "/api/version": Version(*shared),
        "/api/status": Status(*shared),
    }
