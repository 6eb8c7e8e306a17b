"""Known parts of OpenAI's API that a runner of text models does not have, and how that is told."""

from __future__ import annotations

from collections.abc import Iterator

import falcon

from dmr_server.errors import RouteNotFound
from dmr_server.generation import BACKEND, check_backend
from dmr_server.openai.wire import ErrorAnswer, ErrorBody, OpenAIDialect, encode

NOT_SERVED = {
    "images/generations": "Images are not generated here",
    "images/edits": "Images are not generated here",
    "images/variations": "Images are not generated here",
    "audio/translations": "What is said is not translated here: use /v1/audio/transcriptions, or ask in a chat",
    "audio/speech": "Speech is not generated here",
    "moderations": "Moderation needs a model of its own, which is not served here",
    "files": "Files are not stored here: send their content with the request",
    "uploads": "Files are not stored here: send their content with the request",
    "batches": "Batches are not run here: send the requests themselves, many at once",
    "fine_tuning": "Models are not trained here",
    "assistants": "Assistants are not served here: use /v1/responses",
    "threads": "Assistants are not served here: use /v1/responses",
    "vector_stores": "Vector stores are not served here: use /v1/embeddings",
}


class NotServed:
    """Answers 501 to everything, without reading the body: it may be a large upload."""

    dialect = OpenAIDialect()

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def on_get(self, req: falcon.Request, resp: falcon.Response, backend: str = BACKEND, rest: str = "") -> None:
        check_backend(backend)
        message = f"{self._reason} ({req.method} {req.path} is not implemented)."
        resp.data = encode(ErrorAnswer(ErrorBody(message, "invalid_request_error", None, "not_implemented")))
        resp.status = falcon.HTTP_501
        resp.set_header("x-should-retry", "false")  # or the official clients repeat every 5xx

    on_post = on_put = on_patch = on_delete = on_head = on_get


class StoredChat:
    """GET, POST, DELETE /v1/chat/completions/{id}: no chat completion is stored, so none is there."""

    dialect = OpenAIDialect()

    def on_get(
        self, req: falcon.Request, resp: falcon.Response, id: str, backend: str = BACKEND, rest: str = ""
    ) -> None:
        check_backend(backend)
        raise RouteNotFound(f"The chat completion '{id}' does not exist: they are not stored, 'store' or not.")

    on_post = on_delete = on_get


def missing_routes(root: str) -> Iterator[tuple[str, object]]:
    """Address and resource, under one root."""
    for name, reason in NOT_SERVED.items():
        resource = NotServed(reason)
        yield f"{root}/{name}", resource
        if "/" not in name:
            yield f"{root}/{name}/{{rest:path}}", resource
    stored = StoredChat()
    yield f"{root}/chat/completions/{{id}}", stored
    yield f"{root}/chat/completions/{{id}}/messages", stored
