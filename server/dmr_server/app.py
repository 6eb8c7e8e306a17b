"""The Falcon app: every route in one table, every error through one door."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import falcon

from dmr.config import Settings
from dmr.errors import DmrError, InternalError, InvalidRequest
from dmr.types.preparation import prepare_types
from dmr_server import docker, docker_configure, door, engines
from dmr_server.access import Access
from dmr_server.anthropic import resources as anthropic
from dmr_server.anthropic.wire import AnthropicDialect
from dmr_server.dialect import Dialect, send_error
from dmr_server.door import Remembering
from dmr_server.errors import ClientGone, MethodNotAllowed, RouteNotFound
from dmr_server.generation import Stamps
from dmr_server.key_limits import KeyLimits
from dmr_server.keys import KeyCheck, KeyRing
from dmr_server.logs import Logs
from dmr_server.metrics import Metrics
from dmr_server.middleware import ChooseDialect, CleanPath, ModelName, ModelsForAnthropic, RequestId, Sending
from dmr_server.ollama import resources as ollama
from dmr_server.ollama.wire import OllamaDialect
from dmr_server.openai import resources as openai
from dmr_server.openai.wire import OpenAIDialect
from dmr_server.openapi import OpenApi
from dmr_server.passing_on import PassOn
from dmr_server.recording import journal
from dmr_server.recording.recorder import Recorder
from dmr_server.recording.resources import Requests
from dmr_server.refusal import Refusal
from dmr_server.responses import resources as responses

if TYPE_CHECKING:
    from dmr.service import Service

log = logging.getLogger("dmr.server")

App = falcon.App[falcon.Request, falcon.Response]

# Who words the error when no route matched; the longest prefix first.
DIALECTS: Mapping[str, Dialect] = {
    "/engines/v1/messages": AnthropicDialect(),
    "/v1/messages": AnthropicDialect(),
    "/anthropic": AnthropicDialect(),
    "/messages": AnthropicDialect(),
    "/api": OllamaDialect(),
    "/v1": OpenAIDialect(),
    "/responses": OpenAIDialect(),
    "/engines": OpenAIDialect(),
    "": docker.DockerDialect(),
}


def create_app(service: Service, settings: Settings, stamps: Stamps | None = None) -> App:
    """The WSGI app over a service."""
    prepare_types()
    sending = Sending(settings.write_timeout)
    recorder = _recorder(service, settings)
    passing_on = PassOn(service, settings.max_body_bytes)
    app: App = falcon.App(
        middleware=[
            Remembering(door.current, checks_keys=settings.keys is not None, num_workers=settings.num_workers),
            recorder,
            RequestId(),
            CleanPath(),
            ModelsForAnthropic(),
            sending,
            ChooseDialect(DIALECTS),
            Access(settings.origins, settings.host),
            _key_check(settings),
            Refusal(),
            passing_on,
        ]
    )
    app.router_options.converters["model"] = ModelName
    for template, resource in routes(service, settings, stamps or Stamps(), recorder).items():
        app.add_route(template, resource)
    app.add_error_handler(Exception, _on_defect)
    app.add_error_handler(falcon.HTTPError, _on_http_error)
    app.add_error_handler(DmrError, _on_error)
    app.add_error_handler(ClientGone, _on_gone)
    return app


def _recorder(service: Service, settings: Settings) -> Recorder:
    path = settings.runtime_dir / journal.NAME if settings.runtime_dir is not None else None
    return Recorder(service, journal.Journal(path), settings.record)


def _key_check(settings: Settings) -> KeyCheck:
    """Raises InvalidRequest: the keys file cannot be used."""
    keys = KeyRing(settings.keys) if settings.keys is not None else None
    return KeyCheck(keys, KeyLimits(settings.runtime_dir / "limits" if settings.runtime_dir is not None else None))


def routes(service: Service, settings: Settings, stamps: Stamps, recorder: Recorder | None = None) -> dict[str, object]:
    """Every route there is."""
    recorder = recorder or _recorder(service, settings)
    table: dict[str, object] = {
        **docker.routes(service, settings),
        **engines.routes(service, settings),
        **docker_configure.routes(service, settings),
        **openai.routes(service, settings, stamps),
        **responses.routes(service, settings, stamps),
        **anthropic.routes(service, settings, stamps),
        **ollama.routes(service, settings, stamps),
    }
    table["/logs"] = Logs(settings.log_dir)
    table["/engines/requests"] = Requests(service, recorder)
    if not settings.disable_metrics:
        table["/metrics"] = Metrics(service, recorder)
    table["/openapi.json"] = OpenApi(service, table)
    return table


def _on_error(req: falcon.Request, resp: falcon.Response, error: DmrError, params: dict[str, Any]) -> None:
    send_error(req, resp, req.context.dialect, error)


def _on_http_error(req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError, params: dict[str, Any]) -> None:
    """Falcon's own errors, told as ours."""
    told = _as_ours(req, error)
    if told is None:
        _on_defect(req, resp, error, params)
        return
    send_error(req, resp, req.context.dialect, told)
    resp.set_headers(dict(error.headers or {}))


def _as_ours(req: falcon.Request, error: falcon.HTTPError) -> DmrError | None:
    status = falcon.http_status_to_code(error.status)
    if status == 404:
        return RouteNotFound("not found" if _is_text(req) else f"Unknown request URL: {req.method} {req.path}.")
    if status == 405:
        return MethodNotAllowed("Method Not Allowed" if _is_text(req) else f"{req.method} is not allowed here.")
    if 400 <= status < 500:
        return InvalidRequest(error.description or error.title or "Bad request.")
    return None


def _is_text(req: falcon.Request) -> bool:
    return bool(req.context.dialect.media_type.startswith("text/"))


def _on_defect(req: falcon.Request, resp: falcon.Response, error: Exception, params: dict[str, Any]) -> None:
    request_id = getattr(req.context, "request_id", "")
    log.error("%s %r failed (%s)", req.method, req.path, request_id, exc_info=error)
    told = InternalError(f"Something went wrong here; the server's log has the details under {request_id}.")
    send_error(req, resp, getattr(req.context, "dialect", DIALECTS[""]), told)


def _on_gone(req: falcon.Request, resp: falcon.Response, error: ClientGone, params: dict[str, Any]) -> None:
    log.debug("the client left: %s %r (%s)", req.method, req.path, req.context.request_id)
    resp.status = "499 Client Closed Request"
