"""POST /api/embed and the older /api/embeddings: the requests and their answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Union

import msgspec
from msgspec import UNSET, UnsetType

from dmr.errors import InvalidRequest
from dmr.types import Embeddings, EmbedRequest
from dmr_server.fields import Count, checked, normalised
from dmr_server.ollama.fields import flag, read_keep_alive, required_model, text_of
from dmr_server.ollama.options import read_options
from dmr_server.ollama.wire import nanoseconds
from dmr_server.vectors import JsonArray, NotFinite, json_array

MAX_INPUTS = 100_000


class EmbedAnswer(msgspec.Struct, frozen=True):
    model: str
    embeddings: list[JsonArray]
    total_duration: Union[int, UnsetType] = UNSET  # these three only if anything was embedded
    load_duration: Union[int, UnsetType] = UNSET
    prompt_eval_count: Union[int, UnsetType] = UNSET


def read_embed(body: Mapping[str, Any]) -> EmbedRequest:
    """Understand a body of /api/embed; without any input the model is only loaded. Raises InvalidRequest."""
    body = normalised(body)
    dimensions = checked(body.get("dimensions", 0), Count, "dimensions")
    return EmbedRequest(
        model=required_model(body),
        inputs=_read_inputs(body.get("input", [])),
        dimensions=dimensions or None,
        truncate=flag(body, "truncate", True),
        context_size=read_options(body.get("options")).context_size,
        keep_alive=read_keep_alive(body.get("keep_alive")),
    )


def read_embeddings(body: Mapping[str, Any]) -> EmbedRequest:
    """Understand a body of /api/embeddings; without a prompt the model is only loaded. Raises InvalidRequest."""
    body = normalised(body)
    prompt = text_of(body, "prompt")
    return EmbedRequest(
        model=required_model(body),
        inputs=(prompt,) if prompt else (),
        normalize=False,
        context_size=read_options(body.get("options")).context_size,
        keep_alive=read_keep_alive(body.get("keep_alive")),
    )


def _read_inputs(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,) if value else ()
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise InvalidRequest("invalid input type: 'input' is a text or a list of texts", param="input")
    if len(value) > MAX_INPUTS:
        raise InvalidRequest(f"'input' holds more than {MAX_INPUTS} texts", param="input")
    return tuple(value)


def to_embed(model: str, embeddings: Embeddings, total: float) -> bytes:
    """The answer of /api/embed; `total` is the seconds since the request arrived."""
    return msgspec.json.encode(
        EmbedAnswer(
            model=model,
            embeddings=[_floats(vector) for vector in embeddings.vectors],
            total_duration=nanoseconds(total),
            load_duration=nanoseconds(embeddings.timings.load),
            prompt_eval_count=sum(embeddings.num_tokens),
        )
    )


def to_embeddings(embeddings: Embeddings) -> bytes:
    """The answer of /api/embeddings: one vector."""
    return msgspec.json.encode({"embedding": _floats(embeddings.vectors[0])})


def _floats(vector: bytes) -> JsonArray:
    try:
        return json_array(vector)
    except NotFinite as error:
        raise InvalidRequest("embedding contains NaN or Inf values", param="input") from error
