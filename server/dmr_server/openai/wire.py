"""What chat completions and completions answers have in common: identity, usage, finish reasons, frames, errors."""

from __future__ import annotations

from typing import Any, Union

import msgspec

from dmr.errors import DmrError
from dmr.types import Usage
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


class ErrorBody(msgspec.Struct, frozen=True):
    """All four keys are always there: the OpenAPI document requires them."""

    message: str
    type: str
    param: Union[str, None]
    code: Union[str, None]


def to_usage(usage: Usage) -> WireUsage:
    """Neutral usage as `CompletionUsage`."""
    return WireUsage(
        prompt_tokens=usage.num_prompt_tokens,
        completion_tokens=usage.num_completion_tokens,
        total_tokens=usage.num_prompt_tokens + usage.num_completion_tokens,
        prompt_tokens_details=PromptTokensDetails(usage.num_cached_tokens),
        completion_tokens_details=CompletionTokensDetails(usage.num_reasoning_tokens),
    )


def to_error(error: DmrError) -> bytes:
    """The `{"error": {...}}` object, as a body and as the last frame of a broken stream."""
    row = row_of(error)
    body = ErrorBody(error.message, row.type, error.param, row.code)
    return msgspec.json.encode({"error": body})


encode = msgspec.json.encode


def frame(value: Any) -> bytes:
    """One server-sent event without a name."""
    return b"data: " + (value if isinstance(value, bytes) else encode(value)) + b"\n\n"


class OpenAIDialect:
    """Errors as JSON, in OpenAI's shape."""

    media_type = "application/json"

    def error(self, error: DmrError, request_id: str) -> tuple[int, bytes]:
        return row_of(error).status, to_error(error)
