"""What OpenAI's answers have in common: usage, timings, frames, errors."""

from __future__ import annotations

from typing import Any, Union

import msgspec
from msgspec import UNSET, UnsetType

from dmr.errors import ContextLengthExceeded, DmrError
from dmr.types import Timings, Usage
from dmr_server.errors import row_of

DONE = b"data: [DONE]\n\n"
COMMENT = b": still here\n\n"


class PromptTokensDetails(msgspec.Struct, frozen=True):
    cached_tokens: int


class CompletionTokensDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int


class WireUsage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class InputUsage(msgspec.Struct, frozen=True):
    """Usage of calls that generate nothing."""

    prompt_tokens: int
    total_tokens: int


class WireTimings(msgspec.Struct, frozen=True):
    """llama-server's own addition; upstream passes it on."""

    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_token_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: float
    predicted_per_second: float


class ErrorBody(msgspec.Struct, frozen=True):
    """The first four keys are always there: the OpenAPI document requires them. The others are llama-server's."""

    message: str
    type: str
    param: Union[str, None]
    code: Union[str, None]
    n_prompt_tokens: Union[int, UnsetType] = UNSET
    n_ctx: Union[int, UnsetType] = UNSET


class ErrorAnswer(msgspec.Struct, frozen=True):
    error: ErrorBody


encode = msgspec.json.encode


def to_usage(usage: Usage) -> WireUsage:
    """Neutral usage as `CompletionUsage`."""
    return WireUsage(
        prompt_tokens=usage.num_prompt_tokens,
        completion_tokens=usage.num_completion_tokens,
        total_tokens=usage.num_prompt_tokens + usage.num_completion_tokens,
        prompt_tokens_details=PromptTokensDetails(usage.num_cached_tokens),
        completion_tokens_details=CompletionTokensDetails(usage.num_reasoning_tokens),
    )


def to_timings(usage: Usage, timings: Timings) -> WireTimings:
    """Seconds as llama-server's milliseconds and rates; `prompt_n` counts what was computed only."""
    num_computed = usage.num_prompt_tokens - usage.num_cached_tokens
    num_predicted = usage.num_completion_tokens
    return WireTimings(
        cache_n=usage.num_cached_tokens,
        prompt_n=num_computed,
        prompt_ms=_rounded(timings.prefill * 1000),
        prompt_per_token_ms=_ratio(timings.prefill * 1000, num_computed),
        prompt_per_second=_ratio(num_computed, timings.prefill),
        predicted_n=num_predicted,
        predicted_ms=_rounded(timings.decode * 1000),
        predicted_per_token_ms=_ratio(timings.decode * 1000, num_predicted),
        predicted_per_second=_ratio(num_predicted, timings.decode),
    )


def _ratio(amount: float, per: float) -> float:
    return _rounded(amount / per) if per > 0 else 0.0


def _rounded(value: float) -> float:
    return round(value, 3)


def to_error(error: DmrError, prompt_param: str = "") -> bytes:
    """The `{"error": {...}}` object, as a body and as the last frame of a broken stream.

    `prompt_param` names the field that a prompt that is too long came in.
    """
    row = row_of(error)
    if not isinstance(error, ContextLengthExceeded):
        return encode(ErrorAnswer(ErrorBody(error.message, row.type, error.param, row.code)))
    return encode(
        ErrorAnswer(
            ErrorBody(
                error.message,
                row.type,
                prompt_param or error.param,
                row.code,
                getattr(error, "num_prompt_tokens", UNSET),
                getattr(error, "context_size", UNSET),
            )
        )
    )


def frame(value: Any) -> bytes:
    """One server-sent event without a name."""
    return b"data: " + (value if isinstance(value, bytes) else encode(value)) + b"\n\n"


class OpenAIDialect:
    """Errors as JSON, in OpenAI's shape. `prompt_param` is the field of an endpoint that holds what the model reads."""

    media_type = "application/json"

    def __init__(self, prompt_param: str = "") -> None:
        self._prompt_param = prompt_param

    def error(self, error: DmrError, request_id: str) -> tuple[int, bytes]:
        return row_of(error).status, to_error(error, self._prompt_param)
