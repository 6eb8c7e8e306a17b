"""The routes of engines, records and logs, in types."""

from __future__ import annotations

from collections.abc import Mapping

from dmr.errors import Unsupported
from dmr_server.engines import BackendRequest
from dmr_server.errors import RouteNotFound
from dmr_server.operation import TEXT, Operation

_NOT_HAD = (RouteNotFound(""), Unsupported(""))

OPERATIONS: Mapping[str, Mapping[str, Operation]] = {
    "/engines/status": {"get": Operation("the state of each engine", dict[str, str])},
    "/engines/install-backend": {
        "post": Operation("whether an engine is installed", body=BackendRequest, answer_type=TEXT, errors=_NOT_HAD)
    },
    "/engines/uninstall-backend": {
        "post": Operation("why an engine is not removed", body=BackendRequest, answer_type=TEXT, errors=_NOT_HAD)
    },
}
