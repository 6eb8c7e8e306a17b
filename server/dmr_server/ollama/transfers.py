"""POST /api/pull, /api/push and /api/create."""

from __future__ import annotations

from collections.abc import Iterator

import falcon

from dmr.errors import InvalidReference, ModelNotFound
from dmr.types import NewModel, Tick, TransferProgress
from dmr_server.ollama.create import read_create
from dmr_server.ollama.fields import flag, required_model
from dmr_server.ollama.resource import Resource
from dmr_server.ollama.statuses import CREATE, PULL, PUSH, tell


class Pull(Resource):
    """POST /api/pull"""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        body = self._body(req)
        model, stream, insecure = required_model(body), flag(body, "stream", True), flag(body, "insecure", False)
        tell(req, resp, self._service.pull(model, insecure=insecure), PULL, stream)


class Push(Resource):
    """POST /api/push"""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        body = self._body(req)
        model, stream, insecure = required_model(body), flag(body, "stream", True), flag(body, "insecure", False)
        self._service.get_stored_model(model)
        tell(req, resp, self._service.push(model, insecure=insecure), PUSH, stream)


class Create(Resource):
    """POST /api/create"""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        new, stream = read_create(self._body(req))
        tell(req, resp, self._made(new), CREATE, stream)

    def _made(self, new: NewModel) -> Iterator[Tick | TransferProgress]:
        """A base that is not here is pulled first."""
        try:
            if new.base and not self._has(new.base):
                yield TransferProgress("pulling manifest")
                yield from self._service.pull(new.base)
            yield from self._service.create_model(new)
        except InvalidReference as error:
            raise InvalidReference(f"invalid model name: {error.message}", param="model") from error

    def _has(self, model: str) -> bool:
        try:
            self._service.get_stored_model(model)
        except ModelNotFound:
            return False
        return True
