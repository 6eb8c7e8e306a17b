"""Which requests are for a model, of what kind they are, and by which name their address is counted."""

from __future__ import annotations

import re
from typing import NamedTuple

import falcon

_PREFIX = re.compile(r"^(/engines)?(/\{(?:backend|engine)\})?(/anthropic)?(/v1)?(?=/)")
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class Kind(NamedTuple):
    """`mode` is Docker Model Runner's word for what a model does, `origin` for the API that was spoken."""

    mode: str
    origin: str = ""


NO_KIND = Kind("")

_KINDS = {
    "/chat/completions": Kind("completion"),
    "/completions": Kind("completion"),
    "/infill": Kind("completion"),
    "/audio/transcriptions": Kind("completion"),
    "/responses": Kind("completion", "openai/responses"),
    "/messages": Kind("completion", "anthropic/messages"),
    "/api/chat": Kind("completion", "ollama/completion"),
    "/api/generate": Kind("completion", "ollama/completion"),
    "/embeddings": Kind("embedding"),
    "/api/embed": Kind("embedding", "ollama/embedding"),
    "/api/embeddings": Kind("embedding", "ollama/embedding"),
    "/rerank": Kind("reranking"),
    "/reranking": Kind("reranking"),
    "/score": Kind("reranking"),
}


def kind_of(template: str) -> Kind | None:
    """Of a route by its template or path; None if it is not for a model's work."""
    return _KINDS.get(_PREFIX.sub("", template))


def route_of(req: falcon.Request) -> str:
    """The template of a request's address, for there are few of these; "none" if there is none."""
    return getattr(req.context, "route", None) or req.uri_template or "none"


def method_of(req: falcon.Request) -> str:
    return req.method if req.method in _METHODS else "other"
