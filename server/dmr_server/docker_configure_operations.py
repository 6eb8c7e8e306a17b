"""The routes of `_configure`, in types."""

from __future__ import annotations

from collections.abc import Mapping

from dmr_server.docker_configure import ConfigurationEntry, ConfigurationReset, ConfigureRequest
from dmr_server.errors import RouteNotFound
from dmr_server.operation import BAD_NAME, BAD_QUERY, IN_USE, Operation, Parameter

_MODEL = Parameter("model", "only of this model, by any of its names")
_MODE = Parameter("mode", "only for completion, embedding or reranking")
_NO_BACKEND = (RouteNotFound(""),)
_OPERATIONS = {
    "get": Operation(
        "how models are configured", list[ConfigurationEntry], query=(_MODEL,), errors=(*BAD_NAME, *_NO_BACKEND)
    ),
    "post": Operation(
        "configure a model: what is named changes, all else stays",
        body=ConfigureRequest,
        status=202,
        errors=(*BAD_NAME, *IN_USE, *_NO_BACKEND),
    ),
    "delete": Operation(
        "forget how a model is configured, or all of them",
        ConfigurationReset,
        query=(_MODEL, _MODE),
        errors=(*BAD_NAME, *BAD_QUERY, *_NO_BACKEND),
    ),
}
OPERATIONS: Mapping[str, Mapping[str, Operation]] = {
    "/engines/_configure": _OPERATIONS,
    "/engines/{backend}/_configure": _OPERATIONS,
}
