"""Ollama's routes, in types.

Bodies are read field by field elsewhere, since Ollama takes more than one form of many; here is what they may be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union

import msgspec
from msgspec import Meta

from dmr.errors import RegistryError, RemoteModelNotFound, Unauthorized
from dmr_server.fields import SAMPLING_FIELDS
from dmr_server.ollama.chat import ChatAnswer
from dmr_server.ollama.embed import EmbedAnswer
from dmr_server.ollama.generate import GenerateAnswer
from dmr_server.ollama.handling import HANDLING
from dmr_server.ollama.models import ListedModel, LoadedModel
from dmr_server.ollama.options import BOOLEAN, FLOAT, INTEGER, LENGTHS, LOAD_TIME, SAMPLING, Kind
from dmr_server.ollama.show import ShownModel
from dmr_server.ollama.statuses import Status
from dmr_server.ollama.wire import NDJSON, OllamaDialect
from dmr_server.operation import BAD_NAME, IN_ENGINE, IN_USE, OCTETS, Operation, Surface

_TYPES = {INTEGER: int, FLOAT: float, BOOLEAN: bool}


def _bounded(kind: Kind) -> Any:
    least = kind.least if math.isfinite(kind.least) else None
    most = kind.most if math.isfinite(kind.most) else None
    return Annotated[_TYPES[kind.name], Meta(ge=least, le=most)] if kind.name != BOOLEAN else bool


Options = msgspec.defstruct(
    "Options",
    [
        (name, kind, msgspec.UNSET)
        for name, kind in {
            **SAMPLING_FIELDS,
            **{name: _bounded(kind) for name, kind in {**SAMPLING, **LENGTHS, **LOAD_TIME}.items()},
            "stop": Union[str, list[str]],
        }.items()
    ],
)
KeepAlive = Union[float, str, None]
_OPTIONS = {"options": Options}


class _Body(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    keep_alive: KeepAlive = None


class _Generating(_Body, frozen=True, kw_only=True):
    stream: bool = True
    format: Union[str, dict[str, Any]] = ""
    think: Union[bool, Literal["low", "medium", "high", "max", ""], None] = None
    truncate: bool = True
    shift: bool = True
    logprobs: bool = False
    top_logprobs: int = 0


class GenerateBody(_Generating, frozen=True, kw_only=True):
    prompt: str = ""
    suffix: str = ""
    system: str = ""
    template: str = ""
    context: list[int] = []
    raw: bool = False
    images: list[str] = []


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True):
    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    thinking: str = ""
    tool_calls: list[dict[str, Any]] = []
    tool_name: str = ""
    tool_call_id: str = ""


class ChatBody(_Generating, frozen=True, kw_only=True):
    messages: list[ChatMessage] = []
    tools: list[dict[str, Any]] = []


class EmbedBody(_Body, frozen=True, kw_only=True):
    input: Union[str, list[str]] = []
    truncate: bool = True
    dimensions: int = 0


class EmbeddingsBody(_Body, frozen=True, kw_only=True):
    prompt: str = ""


class ShowBody(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    verbose: bool = False
    system: str = ""
    template: str = ""
    options: dict[str, Any] = {}


class CopyBody(msgspec.Struct, frozen=True):
    source: str
    destination: str


class TransferBody(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    stream: bool = True
    insecure: bool = False


class CreateBody(msgspec.Struct, frozen=True, kw_only=True):
    """`modelfile` is what the other fields lie over; `files` are names and digests of blobs."""

    model: str
    base: str = msgspec.field(name="from", default="")
    files: dict[str, str] = {}
    modelfile: str = ""
    quantize: str = ""
    system: str = ""
    template: str = ""
    messages: list[ChatMessage] = []
    license: Union[str, list[str]] = []
    stream: bool = True


class DeleteBody(msgspec.Struct, frozen=True):
    model: str


class Embedding(msgspec.Struct, frozen=True):
    embedding: list[float]


class ListedModels(msgspec.Struct, frozen=True):
    models: list[ListedModel]


class LoadedModels(msgspec.Struct, frozen=True):
    models: list[LoadedModel]


class RenderedInfo(msgspec.Struct, frozen=True):
    rendered_template: str


class Rendered(msgspec.Struct, frozen=True):
    """The answer to `_debug_render_only`."""

    model: str
    created_at: str
    info: RenderedInfo = msgspec.field(name="_debug_info")


class Version(msgspec.Struct, frozen=True):
    """`version` is that of the API, `dmr` is the server's own."""

    version: str
    dmr: str


class CloudState(msgspec.Struct, frozen=True):
    disabled: bool
    source: str


class ServerStatus(msgspec.Struct, frozen=True):
    cloud: CloudState


class ErrorBody(msgspec.Struct, frozen=True):
    error: str


def _generating(summary: str, body: Any, answer: Any) -> Operation:
    return Operation(
        summary,
        (answer, Rendered),
        body=body,
        more=_OPTIONS,
        stream=(answer, ErrorBody),
        stream_type=NDJSON,
        errors=IN_ENGINE,
    )


def _working(summary: str, body: Any, more: Mapping[str, Any] = {}) -> Operation:
    errors = (*BAD_NAME, *IN_USE, Unauthorized(""), RemoteModelNotFound(""), RegistryError(""))
    return Operation(
        summary, Status, body=body, more=more, stream=(Status, ErrorBody), stream_type=NDJSON, errors=errors
    )


SURFACE = Surface(
    name="ollama",
    description="Ollama's API.",
    dialect=OllamaDialect(),
    error=ErrorBody,
    roots=("/api",),
    operations={
        "/generate": {"post": _generating("go on with a text, line by line or whole", GenerateBody, GenerateAnswer)},
        "/chat": {"post": _generating("answer a conversation, line by line or whole", ChatBody, ChatAnswer)},
        "/embed": {"post": Operation("texts to vectors", EmbedAnswer, body=EmbedBody, more=_OPTIONS, errors=IN_ENGINE)},
        "/embeddings": {
            "post": Operation("one text to a vector", Embedding, body=EmbeddingsBody, more=_OPTIONS, errors=IN_ENGINE),
        },
        "/tags": {"get": Operation("the models of the store", ListedModels)},
        "/ps": {"get": Operation("the loaded models", LoadedModels)},
        "/show": {"post": Operation("all about one model", ShownModel, body=ShowBody, errors=BAD_NAME)},
        "/copy": {"post": Operation("one more name for a model", body=CopyBody, errors=BAD_NAME)},
        "/delete": {"delete": Operation("remove a model", body=DeleteBody, errors=(*BAD_NAME, *IN_USE))},
        "/pull": {"post": _working("bring a model from a registry", TransferBody)},
        "/push": {"post": _working("send a model to a registry", TransferBody)},
        "/create": {"post": _working("make a model of another one or of files", CreateBody, {"parameters": Options})},
        "/blobs/{digest}": {
            "head": Operation("whether a file is here"),
            "post": Operation(
                "upload a file of which a model can be made", upload=OCTETS, status=201, own_statuses={200: None}
            ),
        },
        "/version": {"get": Operation("the version of the API", Version)},
        "/status": {"get": Operation("whether models run elsewhere: they do not", ServerStatus)},
    },
    handling=HANDLING,
)
