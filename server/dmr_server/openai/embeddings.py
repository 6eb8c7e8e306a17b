"""POST /v1/embeddings: texts to vectors."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

import msgspec
from msgspec import UNSET, Meta, UnsetType

from dmr.errors import InternalError, InvalidRequest, Unsupported
from dmr.types import Embeddings, EmbedRequest, Tick
from dmr_server.fields import INT32_MAX, checked, normalised
from dmr_server.generation import Stamp
from dmr_server.openai.prompts import read_prompts
from dmr_server.openai.wire import InputUsage, encode
from dmr_server.vectors import JsonArray, NotFinite, json_array

if TYPE_CHECKING:
    from dmr.service import Service

_REFUSED: Mapping[str, str] = {
    "pooling": "vectors are pooled as the model wants it",
    "task": "adapters for tasks are not available",
    "input_type": "put the model's own prefix before the text",
    "truncate_prompt_tokens": "use 'truncate'",
    "late_chunking": "each input is embedded on its own",
}


class EmbeddingFields(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    input: Union[str, list[Any]]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Union[Annotated[int, Meta(ge=1, le=INT32_MAX)], UnsetType] = UNSET
    normalize: bool = True  # vLLM's and Ollama's name
    embd_normalize: Union[int, UnsetType] = UNSET  # llama-server's: 2 = length 1, -1 = as they are
    truncate: bool = False


class WireEmbedding(msgspec.Struct, frozen=True):
    object: str
    index: int
    embedding: Union[str, JsonArray]


class EmbeddingList(msgspec.Struct, frozen=True):
    object: str
    data: list[WireEmbedding]
    model: str
    usage: InputUsage


class EmbeddingExchange:
    """One embeddings request and how to answer it."""

    def __init__(self, request: EmbedRequest, encoding: str) -> None:
        self.request = request
        self._encoding = encoding

    def ask(self, service: Service, client: str) -> Iterator[Tick | Embeddings]:
        return service.embed(msgspec.structs.replace(self.request, client=client))

    def to_result(self, reply: Embeddings) -> bytes:
        to_wire = to_base64 if self._encoding == "base64" else to_floats
        num_tokens = sum(reply.num_tokens)
        data = [WireEmbedding("embedding", index, to_wire(vector)) for index, vector in enumerate(reply.vectors)]
        return encode(EmbeddingList("list", data, self.request.model, InputUsage(num_tokens, num_tokens)))


def to_base64(vector: bytes) -> str:
    return base64.b64encode(vector).decode("ascii")


def to_floats(vector: bytes) -> JsonArray:
    try:
        return json_array(vector)
    except NotFinite as error:
        raise InternalError("The model gave a vector with numbers that are not finite.") from error


def read_embeddings(body: Mapping[str, Any], stamp: Stamp) -> EmbeddingExchange:
    """Understand a request body; raises InvalidRequest and Unsupported, naming the field."""
    body = normalised(body)
    fields = checked(body, EmbeddingFields)
    for name, reason in _REFUSED.items():
        if body.get(name):
            raise Unsupported(f"'{name}' is not supported: {reason}.", param=name)
    inputs = read_prompts(fields.input, "input")
    if "" in inputs:
        raise InvalidRequest("Invalid value for 'input': an empty text cannot be embedded.", param="input")
    request = EmbedRequest(
        model=fields.model,
        inputs=inputs,
        dimensions=None if fields.dimensions is UNSET else fields.dimensions,
        normalize=_normalize(fields),
        truncate=fields.truncate,
    )
    return EmbeddingExchange(request, fields.encoding_format)


def _normalize(fields: EmbeddingFields) -> bool:
    if fields.embd_normalize is UNSET:
        return fields.normalize
    if fields.embd_normalize not in (-1, 2):
        raise Unsupported("'embd_normalize' other than 2 and -1 is not supported.", param="embd_normalize")
    return fields.embd_normalize == 2
