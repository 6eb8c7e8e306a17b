"""HEAD and POST /api/blobs/{digest}: files from which models are made afterwards."""

from __future__ import annotations

from contextlib import suppress
from typing import BinaryIO

import falcon

from dmr.errors import DmrError
from dmr_server.bodies import MAX_DISCARDED, PIECE, open_body
from dmr_server.errors import RouteNotFound
from dmr_server.ollama.resource import Resource


class Blob(Resource):
    def on_head(self, req: falcon.Request, resp: falcon.Response, digest: str) -> None:
        """200 if the file is here, as an upload or as a part of a model."""
        if not self._service.has_file(digest):
            raise RouteNotFound("blob not found")

    def on_post(self, req: falcon.Request, resp: falcon.Response, digest: str) -> None:
        """The body is the file. 201, or 200 if it was here already."""
        body, size = open_body(req)
        if self._service.has_file(digest):
            _discard(body)
            return
        self._service.add_file(body, size, digest)
        resp.status = falcon.HTTP_201


def _discard(body: BinaryIO) -> None:
    """Read what is not needed, up to a limit, so that the client comes to read the answer."""
    discarded = 0
    with suppress(DmrError):
        while discarded < MAX_DISCARDED and (piece := body.read(PIECE)):
            discarded += len(piece)
