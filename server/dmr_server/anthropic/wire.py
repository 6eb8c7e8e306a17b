"""What all Anthropic answers have in common: content blocks, usage, stop reasons, frames, errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Union

import msgspec
from msgspec import UNSET, UnsetType

from dmr.errors import ContextLengthExceeded, DmrError, EngineCrashed, Unavailable, Unsupported
from dmr.types import Choice, Finished, FinishReason, Usage
from dmr_server.errors import row_of

encode = msgspec.json.encode


class TextBlock(msgspec.Struct, frozen=True, tag="text"):
    text: str
    citations: None = None


class ThinkingBlock(msgspec.Struct, frozen=True, tag="thinking"):
    thinking: str
    signature: str


class ToolUseBlock(msgspec.Struct, frozen=True, tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]


Block = Union[TextBlock, ThinkingBlock, ToolUseBlock]


class OutputTokensDetails(msgspec.Struct, frozen=True):
    thinking_tokens: int


class WireUsage(msgspec.Struct, frozen=True):
    """The whole prompt is the sum of the first three: `input_tokens` are those that were computed."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: OutputTokensDetails


class WireMessage(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    type: str = "message"
    role: str = "assistant"
    model: str
    content: list[Block]
    stop_reason: Union[str, None]
    stop_sequence: Union[str, None]
    stop_details: None = None
    usage: WireUsage


def to_usage(usage: Usage) -> WireUsage:
    """Neutral usage, with the cached tokens taken out of the input."""
    return WireUsage(
        input_tokens=usage.num_prompt_tokens - usage.num_cached_tokens,
        cache_creation_input_tokens=0,  # keeping them costs nothing here, so nothing is billed for it
        cache_read_input_tokens=usage.num_cached_tokens,
        output_tokens=usage.num_completion_tokens,
        output_tokens_details=OutputTokensDetails(usage.num_reasoning_tokens),
    )


def to_stop_reason(reason: FinishReason, end: Finished | Choice) -> str:
    """`end` tells what the reason alone does not."""
    if reason is FinishReason.LENGTH:
        return "model_context_window_exceeded" if end.is_context_full else "max_tokens"
    if reason is FinishReason.TOOL_CALLS:
        return "tool_use"
    return "end_turn" if end.stop_sequence is None else "stop_sequence"


# Tool calls have ids of one kind inside and of another outside. What a client sends back is turned round again, so that
# a template that shows ids to the model shows the same ones as when it made the call.
_INSIDE, _OUTSIDE = "call_", "toolu_"


def to_wire_id(call_id: str) -> str:
    return _OUTSIDE + call_id[len(_INSIDE) :] if call_id.startswith(_INSIDE) else call_id


def from_wire_id(call_id: str) -> str:
    return _INSIDE + call_id[len(_OUTSIDE) :] if call_id.startswith(_OUTSIDE) else call_id


def frame(name: str, data: Any) -> bytes:
    """One server-sent event; the official client overlooks those without a name."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), encode(data))


# --- errors ----------------------------------------------------------------------------------------------------------

INVALID = "invalid_request_error"
_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    502: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_OVERLOADED = 529


# The official client's tool runner asks for a thread; only when it reads this does it go on without one.
_NO_THREADS: Mapping[str, Any] = {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}


class ErrorDetail(msgspec.Struct, frozen=True):
    type: str
    message: str
    details: Union[Mapping[str, Any], UnsetType] = UNSET


class ErrorBody(msgspec.Struct, frozen=True, tag="error"):
    error: ErrorDetail
    request_id: Union[str, UnsetType] = UNSET


def status_of(error: DmrError) -> int:
    """Anthropic's API knows no 503: what is only busy is 529, what broke is 500."""
    if isinstance(error, EngineCrashed):
        return 500
    return _OVERLOADED if isinstance(error, Unavailable) else row_of(error).status


def to_error(error: DmrError, request_id: str | UnsetType = UNSET) -> bytes:
    """The error object, as a body and as the data of a stream's `error` event."""
    kind = _TYPES.get(status_of(error), INVALID)
    details = _NO_THREADS if isinstance(error, Unsupported) and error.param == "thread" else UNSET
    return encode(ErrorBody(ErrorDetail(kind, _message(error), details), request_id))


def _message(error: DmrError) -> str:
    if not isinstance(error, ContextLengthExceeded):
        return error.message
    if len(error.details) < 2:
        return f"prompt is too long: {error.message}"
    # Agents look for these words and numbers, and shorten their conversation then.
    num_tokens = error.num_prompt_tokens
    # A prompt that just fills the context leaves no room for an answer.
    maximum = min(error.context_size, num_tokens - 1)
    return f"prompt is too long: {num_tokens} tokens > {maximum} maximum"


class AnthropicDialect:
    """Errors as JSON, in Anthropic's shape."""

    media_type = "application/json"

    def error(self, error: DmrError, request_id: str) -> tuple[int, bytes]:
        return status_of(error), to_error(error, request_id)
