"""Requests for engines beyond this machine go through to them, and their answers come back piece by piece as they are.

An engine is addressed by its name (`/engines/NAME/v1/…`), or by a model that it has and the store has not.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Union
from urllib.parse import unquote

import falcon
import msgspec

from dmr.config.keys import ADMIN, INFERENCE
from dmr.errors import DmrError, InvalidRequest, ModelNotFound
from dmr_server.anthropic.wire import AnthropicDialect
from dmr_server.bodies import read_body, read_raw
from dmr_server.dialect import EVENT_STREAM, Client, Dialect
from dmr_server.errors import ClientGone, MethodNotAllowed, RouteNotFound
from dmr_server.middleware import raw_path
from dmr_server.openai.models import to_models
from dmr_server.recording.draft import Draft, draft_of
from dmr_server.recording.kinds import NO_KIND
from dmr_server.refusal import refuse_if_full
from dmr_server.watching import ClientWatch

if TYPE_CHECKING:
    from dmr.service import Service
    from dmr.service.upstream_call import UpstreamCall
    from dmr.service.upstreams import Upstream

log = logging.getLogger("dmr.server")

_ADDRESS = re.compile(r"/+engines/+([^/]+)(/.*)")
_SERVED = re.compile(r"/v1(/.*)?|/(rerank|score|tokenize|detokenize)")
_UNWRITABLE = re.compile(r"[^\x21-\x7e]")  # in an address
_BY_MODEL = re.compile(
    r"(?:/engines|/anthropic)?(?:/v1)?"
    r"(/(?:chat/completions|completions|embeddings|rerank|reranking|score|responses|messages(?:/count_tokens)?))"
)
# A client's credentials are for us and not for others; what belongs to one connection ends with it.
_REQUEST_HEADERS = [
    "accept",
    "content-type",
    "content-encoding",
    "user-agent",
    "traceparent",
    "tracestate",
    "openai-organization",
    "openai-project",
    "anthropic-version",
    "anthropic-beta",
]
_ANSWER_HEADERS = re.compile(
    "content-type|content-length|content-encoding|content-disposition|retry-after|retry-after-ms|x-should-retry|"
    "cache-control|openai-.*|x-ratelimit-.*|anthropic-ratelimit-.*"
)
_METHODS = ("GET", "HEAD", "POST", "DELETE")


class _Named(msgspec.Struct):
    model: Union[str, None] = None


class PassOn:
    """Middleware; it comes after what chooses the dialect and after `Refusal`. Does nothing where no engine is set."""

    def __init__(self, service: Service, max_body_bytes: int) -> None:
        self._service = service
        self._max_body_bytes = max_body_bytes
        self._watch = ClientWatch()

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        if not self._service.upstreams or not req.path.startswith("/engines/"):
            return
        address = _ADDRESS.fullmatch(raw_path(req.env))
        engine = self._service.upstreams.get(address[1]) if address else None
        if address is None or engine is None:
            return
        path = _checked(address[2])
        changes = req.method == "DELETE" and not path.startswith("/v1/responses/")
        req.context.key_check.admit(req, resp, ADMIN if changes else INFERENCE)
        refuse_if_full()
        req.context.route = "/engines/{engine}" + ("/v1/*" if path.startswith("/v1") else path)
        if req.method not in _METHODS:
            raise MethodNotAllowed(f"{req.method} is not allowed here.")
        if path in ("/v1/models", "/v1/models/") and engine.engine.models and req.method != "POST":
            resp.data = msgspec.json.encode(to_models((), {engine.engine.name: engine.engine.models}))
        else:
            if req.method == "POST":
                req.context.recorder.begin_draft(req, path)
            body = read_raw(req, self._max_body_bytes) if req.method == "POST" else None
            _check_model(engine, req, body)
            if not _is_only_for_loading(req):
                self._pass_on(req, resp, engine, path, body)
        resp.complete = True

    def process_resource(
        self, req: falcon.Request, resp: falcon.Response, resource: object, params: dict[str, Any]
    ) -> None:
        """By the model's name. What the store has is answered here, and so is what is wrong in itself."""
        if not self._service.upstreams or req.method != "POST" or params.get("backend"):
            return
        address = _BY_MODEL.fullmatch(req.uri_template or "")
        if address is None:
            return
        with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            body = read_body(req, self._max_body_bytes)
            req.context.body = body
            found = self._of_model(msgspec.json.decode(body, type=_Named).model)
            if found is not None:
                engine, model = found
                if not _is_only_for_loading(req):
                    body = _with_model(body, model)
                    self._pass_on(req, resp, engine, "/v1" + address[1], body, is_unpacked=True)
                resp.complete = True

    def _of_model(self, model: str | None) -> tuple[Upstream, str] | None:
        """Who has it, and by which name; that is another one where the settings say what it stands for."""
        if not model:
            return None
        try:
            self._service.get_model(model)
        except DmrError:  # it is not there, or its name is none that a store can have
            for name in (model, *self._service.names.others(model)):
                engine = self._service.upstreams.of_model(name)
                if engine is not None:
                    return engine, name
        return None

    def _pass_on(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        engine: Upstream,
        path: str,
        body: bytes | None,
        is_unpacked: bool = False,
    ) -> None:
        client = Client(req.env)
        draft = draft_of(req)
        if draft is not None:
            draft.passed_on(engine.engine.name, body or b"")
        call = engine.call()
        query = f"?{req.query_string}" if req.query_string else ""
        if _UNWRITABLE.search(query):
            raise InvalidRequest("The query holds characters that must be percent-encoded.")
        try:
            with self._watch.watching(client, call.abort):
                call.send(req.method, path + query, _headers(req, is_unpacked), body)
        except DmrError as error:
            client.check()  # if it has left, that is the reason
            log.warning("%s (%s)", error.message, req.context.request_id)
            if not call.was_connected:
                engine.note_unreached(error)
            raise
        resp.status = falcon.code_to_http_status(call.status)
        for name, value in call.headers.items():
            if _ANSWER_HEADERS.fullmatch(name):
                resp.set_header(name, value)
        if _is_event_stream(call):
            resp.set_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        if req.method == "HEAD" or call.status in (204, 304):
            call.close()
        else:
            resp.stream = PassedOn(
                call, client, self._watch, draft, lambda error: _frame(req, error) if _is_event_stream(call) else b""
            )


class PassedOn:
    """An answer on its way through. `close()` ends the request at the engine, also when nothing was read yet.

    `to_frame`: how a stream tells its reader of an error; b"" if it cannot, and then the connection is cut.
    """

    def __init__(
        self,
        call: UpstreamCall,
        client: Client,
        watch: ClientWatch,
        draft: Draft | None,
        to_frame: Callable[[DmrError], bytes],
    ) -> None:
        self._call = call
        self._client = client
        self._watch = watch
        self._draft = draft or Draft(NO_KIND, keeps_bodies=False)
        self._to_frame = to_frame
        self._has_ended = False
        watch.begin(client, call.abort)

    def __iter__(self) -> PassedOn:
        return self

    def __next__(self) -> bytes:
        piece = b"" if self._has_ended else self._next_piece()
        if not piece:
            raise StopIteration
        return piece

    def close(self) -> None:
        self._watch.end(self._client)
        self._call.close()

    def _next_piece(self) -> bytes:
        try:
            piece = self._call.read()
        except DmrError as error:
            self._has_ended = True
            try:
                self._client.check()
            except ClientGone:
                self._draft.has_left = True
                return b""
            self._draft.error = error
            log.warning("%s", error.message)
            told = self._to_frame(error)
            if not told:
                raise
            return told
        if self._draft.keeps_bodies:
            self._draft.keep_piece(piece)
        return piece


def _frame(req: falcon.Request, error: DmrError) -> bytes:
    """An error as the last event of a stream."""
    dialect: Dialect = req.context.dialect
    event = b"event: error\n" if isinstance(dialect, AnthropicDialect) else b""
    return b"%bdata: %b\n\n" % (event, dialect.error(error, req.context.request_id)[1])


def _is_event_stream(call: UpstreamCall) -> bool:
    return call.headers.get("content-type", "").startswith(EVENT_STREAM)


def _checked(path: str) -> str:
    """A path below the engine's root, as it was sent, of which none leads out of it.

    Raises:
        RouteNotFound: it is none of those that are passed on.
    """
    path = re.sub("//+", "/", path)
    if not _SERVED.fullmatch(path) or _UNWRITABLE.search(path) or "\\" in path:
        raise RouteNotFound(f"'{path}' is not passed on to other engines; '/v1/…' is.")
    if {".", ".."} & set(re.split(r"[/\\]", unquote(unquote(path)))):
        raise InvalidRequest("The path holds '.' or '..' as a segment.")
    return path


def _check_model(engine: Upstream, req: falcon.Request, body: bytes | None) -> None:
    """Where the settings name an engine's models, no other is asked for."""
    if not engine.engine.models or not body or req.get_header("Content-Encoding"):
        return
    with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        model = msgspec.json.decode(body, type=_Named).model
        if model is not None and model not in engine.engine.models:
            raise ModelNotFound(model)


def _with_model(body: bytes, model: str) -> bytes:
    if msgspec.json.decode(body, type=_Named).model == model:
        return body
    return msgspec.json.encode({**msgspec.json.decode(body), "model": model})


def _is_only_for_loading(req: falcon.Request) -> bool:
    """Other engines load what they have by themselves."""
    return req.get_header("X-Preload-Only") == "true"


def _headers(req: falcon.Request, is_unpacked: bool) -> dict[str, str]:
    names = [name for name in _REQUEST_HEADERS if not (is_unpacked and name == "content-encoding")]
    found = {name: req.get_header(name) for name in names}
    return {"x-request-id": req.context.request_id, **{name: value for name, value in found.items() if value}}
