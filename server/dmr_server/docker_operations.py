"""Docker Model Runner's own routes, in types."""

from __future__ import annotations

from typing import Any, Union

import msgspec

from dmr.errors import InvalidModelFile, InvalidReference, RegistryError, RemoteModelNotFound, Unauthorized
from dmr_server import docker_configure_operations, engines_operations
from dmr_server.docker import DockerDialect, Unload, WireModel, WireRunning, WireUsage
from dmr_server.docker_archives import TAR, LoadedLine, Repackaged, RepackageRequest
from dmr_server.docker_transfers import PullRequest, PushRequest, WireStep
from dmr_server.operation import BAD_NAME, BAD_QUERY, IN_USE, OCTETS, TEXT, Operation, Parameter, Surface


class Health(msgspec.Struct, frozen=True):
    status: str


class Versions(msgspec.Struct, frozen=True):
    version: str
    llama_cpp_commit: Union[str, None] = None


class Unloaded(msgspec.Struct, frozen=True):
    unloaded_runners: int


class Tagged(msgspec.Struct, frozen=True):
    message: str
    target: str


_TRAVEL = (*BAD_NAME, Unauthorized(""), RemoteModelNotFound(""), RegistryError(""))
_REPOSITORY = Parameter("repo", "the new name without its tag", required=True)
_TAG = Parameter("tag", "the new name's tag", required=True)
_REMOTE = Parameter("remote", "read the model from its registry")
_FORCE = Parameter("force", "remove all names of the model, and the model")
_FORCE_PURGE = Parameter("force", "even while models are in use: their requests end")
_LOADED = Parameter("reference", "the model's name, in place of the one in the archive")
_REFERENCE = Parameter("reference", "the model's new name", required=True)

SURFACE = Surface(
    name="docker",
    description="Docker Model Runner's models and engines, and the probes.",
    dialect=DockerDialect(),
    error=None,
    roots=("",),
    operations={
        "/": {"get": Operation("a line that says that the server is there", str, answer_type=TEXT)},
        "/health": {"get": Operation("whether the process lives", Health)},
        "/ready": {"get": Operation("whether it can serve", Health, own_statuses={503: Health})},
        "/version": {"get": Operation("versions of dmr and llama.cpp", Versions)},
        "/metrics": {"get": Operation("what the engines have counted, for Prometheus", str, answer_type=TEXT)},
        "/openapi.json": {"get": Operation("this document", dict[str, Any])},
        "/models": {"get": Operation("the models of the store", list[WireModel])},
        "/models/{name:model}": {
            "get": Operation("one model", WireModel, query=(_REMOTE,), errors=(*BAD_QUERY, *_TRAVEL)),
            "delete": Operation("remove a model", list[dict[str, str]], query=(_FORCE,), errors=IN_USE),
        },
        "/engines/df": {"get": Operation("disk space in use", WireUsage)},
        "/engines/ps": {"get": Operation("which models are loaded", list[WireRunning])},
        "/engines/unload": {"post": Operation("unload models", Unloaded, body=Unload, errors=IN_USE)},
        **engines_operations.OPERATIONS,
        **docker_configure_operations.OPERATIONS,
    },
    actions={
        "/models/import": {
            "post": Operation(
                "take the GGUF file that is the body into the store",
                WireModel,
                upload=OCTETS,
                status=201,
                query=(_REFERENCE,),
                errors=(InvalidModelFile(""), *IN_USE),
            )
        },
        "/models/load": {
            "post": Operation(
                "take the model of a tar archive, which is the body, into the store",
                LoadedLine,
                upload=TAR,
                answer_type=TEXT,
                query=(_LOADED,),
                errors=(InvalidModelFile(""), InvalidReference("")),
            )
        },
        "/models/purge": {"delete": Operation("remove all models", query=(_FORCE_PURGE,), errors=IN_USE)},
        "/models/{name}/export": {"get": Operation("a model as a tar archive", Any, answer_type=TAR, errors=BAD_NAME)},
        "/models/{name}/repackage": {
            "post": Operation(
                "make a model of another one's files", Repackaged, body=RepackageRequest, status=201, errors=BAD_NAME
            )
        },
        "/models/create": {
            "post": Operation(
                "pull a model, told line by line",
                body=PullRequest,
                stream=WireStep,
                stream_type=TEXT,
                errors=_TRAVEL,
                own_statuses={422: None},
            )
        },
        "/models/{name}/push": {
            "post": Operation(
                "push a model, told line by line",
                body=PushRequest,
                stream=WireStep,
                stream_type=TEXT,
                errors=_TRAVEL,
                own_statuses={422: None},
            )
        },
        "/models/{name}/tag": {
            "post": Operation("one more name for a model", Tagged, status=201, query=(_REPOSITORY, _TAG))
        },
    },
)
