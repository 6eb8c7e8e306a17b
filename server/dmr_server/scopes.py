"""What a key must be allowed to, for each route: nothing, inference, metrics, or administration."""

from __future__ import annotations

import re

import falcon

from dmr.config.keys import ADMIN, INFERENCE, METRICS
from dmr_server.openai.missing import NotServed, StoredChat

_OPEN = ("/", "/health", "/ready")  # probes have no keys
_METRICS = ("/metrics",)
# They tell of others' requests, or of how the server is run.
_ADMIN_READS = ("/logs", "/engines/requests", "/engines/_configure", "/engines/{backend}/_configure")
_MODEL = "/models/{name:model}"
_ROOT = r"(?:/anthropic)?(?:/engines(?:/\{backend\})?)?(?:/v1)?"
_INFERENCE_CALLS = re.compile(
    _ROOT + r"/(?:chat/completions(?:/input_tokens)?|completions|infill|embeddings|rerank|reranking|score|"
    r"audio/transcriptions|tokenize|detokenize|apply-template|messages(?:/count_tokens)?|"
    r"responses(?:/input_tokens|/compact|/\{response_id\}(?:/cancel)?)?)"
    r"|/api/(?:generate|chat|embed|embeddings|show)"
)


def scope_of(req: falcon.Request, resource: object) -> str | None:
    """The scope that a request needs; None = anybody may. What is not known to be harmless is administration."""
    template = req.uri_template or ""
    if req.method in ("GET", "HEAD"):
        if template in _OPEN:
            return None
        if template in _METRICS:
            return METRICS
        return ADMIN if template in _ADMIN_READS or _goes_far(req, template) else INFERENCE
    if req.method == "OPTIONS":
        return INFERENCE
    known = _INFERENCE_CALLS.fullmatch(template) or isinstance(resource, (NotServed, StoredChat))
    return INFERENCE if known else ADMIN


def _goes_far(req: falcon.Request, template: str) -> bool:
    """Whole models that are carried away, and registries that are asked."""
    return template == _MODEL and (req.path.endswith("/export") or req.get_param("remote") is not None)
