"""The routes of engines, records and logs, in types."""

from __future__ import annotations

from collections.abc import Mapping

from dmr.errors import Unsupported
from dmr_server.dialect import EVENT_STREAM
from dmr_server.engines import BackendRequest
from dmr_server.errors import NotConfigured, RouteNotFound
from dmr_server.operation import BAD_QUERY, TEXT, Operation, Parameter
from dmr_server.recording.records import ModelRecords
from dmr_server.recording.resources import Dropped

_MODEL = Parameter("model", "only of this model, by any of its names")
_EXISTING = Parameter("include_existing", "of a stream: begin with the records that there are", bool)
_FOLLOW = Parameter("follow", "do not end, but go on with what is logged later", bool)
_NO_ENGINES = Parameter("no-engines", "only what the server itself has logged", bool)
_NOT_HAD = (RouteNotFound(""), Unsupported(""))

OPERATIONS: Mapping[str, Mapping[str, Operation]] = {
    "/engines/status": {"get": Operation("the state of each engine", dict[str, str])},
    "/engines/requests": {
        "get": Operation(
            "the last requests of each model, or a stream of those that end, as the Accept header says",
            list[ModelRecords],
            stream=list[ModelRecords],
            stream_type=EVENT_STREAM,
            query=(_MODEL, _EXISTING),
            errors=(*BAD_QUERY, NotConfigured("")),
        ),
        "delete": Operation("drop records", Dropped, query=(_MODEL,), errors=(NotConfigured(""),)),
    },
    "/logs": {
        "get": Operation(
            "what the server and its engines have logged, by time",
            str,
            answer_type=TEXT,
            query=(_FOLLOW, _NO_ENGINES),
            errors=(*BAD_QUERY, NotConfigured(""), RouteNotFound("")),
        )
    },
    "/engines/install-backend": {
        "post": Operation("whether an engine is installed", body=BackendRequest, answer_type=TEXT, errors=_NOT_HAD)
    },
    "/engines/uninstall-backend": {
        "post": Operation("why an engine is not removed", body=BackendRequest, answer_type=TEXT, errors=_NOT_HAD)
    },
}
