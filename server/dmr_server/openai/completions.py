"""POST /v1/completions: what a request means. Its answers are in `completion_answer`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Union

from msgspec import UNSET, Meta, UnsetType

from dmr.errors import InvalidRequest
from dmr.types import Completion, GenerateRequest, Prompt, TextInput
from dmr_server.dialect import Encoder
from dmr_server.fields import INT32_MAX, normalised, read_sampling
from dmr_server.generation import Stamp
from dmr_server.openai.completion_answer import CompletionEncoder, TextStyle, to_text_completion
from dmr_server.openai.constraints import read_response_format
from dmr_server.openai.fields import CommonFields, given_names, limit_of, read_fields
from dmr_server.openai.prompts import read_prompts

DEFAULT_MAX_TOKENS = 16  # OpenAI's own default for this endpoint


class CompletionFields(CommonFields, frozen=True, kw_only=True):
    prompt: Union[str, list[Any]] = ""
    max_tokens: Union[Annotated[int, Meta(ge=0, le=INT32_MAX)], UnsetType] = UNSET
    echo: bool = False
    logprobs: Union[Annotated[int, Meta(ge=0, le=5)], UnsetType] = UNSET
    best_of: Union[Annotated[int, Meta(ge=1, le=128)], UnsetType] = UNSET
    suffix: str = ""

    @property
    def num_computed(self) -> int | None:
        """`best_of`, where it says more than `n`."""
        return self.best_of if self.best_of is not UNSET and self.best_of > self.n else None


class CompletionExchange:
    """One completions request and how to answer it."""

    def __init__(self, request: GenerateRequest, stream: bool, style: TextStyle) -> None:
        self.request = request
        self.stream = stream
        self._style = style

    def encoder(self) -> Encoder:
        return CompletionEncoder(self._style)

    def to_result(self, completion: Completion) -> bytes:
        return to_text_completion(completion, self._style)


def read_completion(body: Mapping[str, Any], stamp: Stamp) -> CompletionExchange:
    """Understand a request body; raises InvalidRequest and Unsupported, naming the field."""
    body = normalised(body)
    fields = read_fields(body, CompletionFields)
    _check(fields)
    sampling, given = read_sampling(body)
    prompts: tuple[Prompt, ...] = ("",) if fields.prompt == "" else read_prompts(fields.prompt, "prompt")
    request = GenerateRequest(
        model=fields.model,
        input=TextInput(prompts, suffix=fields.suffix or None, echo=fields.echo),
        sampling=sampling,
        given=given | given_names(body),
        num_choices=fields.n,
        best_of=fields.num_computed,
        max_tokens=_max_tokens(fields),
        stop=fields.stops,
        num_logprobs=None if fields.logprobs is UNSET else fields.logprobs,
        response_format=read_response_format(body),
    )
    style = TextStyle(
        stamp=stamp,
        model=fields.model,
        include_usage=fields.include_usage,
        with_logprobs=fields.logprobs is not UNSET,
    )
    return CompletionExchange(request, fields.stream, style)


def _max_tokens(fields: CompletionFields) -> int | None:
    if fields.max_tokens is UNSET and fields.n_predict is UNSET:
        return DEFAULT_MAX_TOKENS
    return limit_of(fields.max_tokens, fields.n_predict)


def _check(fields: CompletionFields) -> None:
    if fields.best_of is not UNSET and fields.best_of < fields.n:
        raise InvalidRequest("'best_of' must not be smaller than 'n'.", param="best_of")
    if fields.num_computed and fields.stream:
        raise InvalidRequest("The best of several answers cannot be streamed.", param="best_of")
    if _max_tokens(fields) == 0 and not fields.echo:
        raise InvalidRequest(
            "Invalid value for 'max_tokens': expected int >= 1, or 0 together with 'echo'.", param="max_tokens"
        )
