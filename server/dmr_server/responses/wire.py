"""What the Responses API sends: the response, its items, its errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Union

import msgspec
from msgspec import UNSET, UnsetType

from dmr.errors import Conflict, ContextLengthExceeded, DmrError, InvalidRequest, Overloaded, TooManyRequests
from dmr.types import TokenLogprob, TokenProbability, Usage
from dmr_server.errors import RouteNotFound, row_of

ROLES = ("user", "system", "developer", "assistant")
LOWEST = -9999.0  # JSON has no infinity; this is OpenAI's own stand-in

encode = msgspec.json.encode


class ResponseNotFound(RouteNotFound):
    """No answer is kept under this id."""

    code = "response_not_found"


class PreviousResponseNotFound(ResponseNotFound):
    """`previous_response_id`, or an answer before it, is not kept."""

    code = "previous_response_not_found"


class Cancelled(Conflict):
    """Somebody asked for the end of this answer, or deleted it."""

    code = "cancelled"


_OWN_CODES: Mapping[type[DmrError], str] = {PreviousResponseNotFound: "previous_response_not_found"}


class TopLogprob(msgspec.Struct, frozen=True):
    token: str
    bytes: list[int]
    logprob: float


class Logprob(msgspec.Struct, frozen=True):
    token: str
    bytes: list[int]
    logprob: float
    top_logprobs: list[TopLogprob]


class OutputText(msgspec.Struct, frozen=True, tag="output_text"):
    text: str
    annotations: tuple[()] = ()
    logprobs: Sequence[Logprob] = ()


class ReasoningText(msgspec.Struct, frozen=True, tag="reasoning_text"):
    text: str


class SummaryText(msgspec.Struct, frozen=True, tag="summary_text"):
    text: str


class MessageItem(msgspec.Struct, frozen=True, tag="message"):
    id: str
    status: str
    content: tuple[OutputText, ...]
    role: str = "assistant"


class ReasoningItem(msgspec.Struct, frozen=True, tag="reasoning"):
    """A thought: as `content`, or as `summary` for clients that asked for one. `encrypted_content` brings it back."""

    id: str
    summary: tuple[SummaryText, ...] = ()
    content: Union[tuple[ReasoningText, ...], UnsetType] = UNSET
    encrypted_content: Union[str, None] = None
    status: Union[str, None] = None


class FunctionCallItem(msgspec.Struct, frozen=True, tag="function_call"):
    id: str
    call_id: str
    name: str
    arguments: str
    status: str
    namespace: Union[str, UnsetType] = UNSET


class CustomCallItem(msgspec.Struct, frozen=True, tag="custom_tool_call"):
    id: str
    call_id: str
    name: str
    input: str
    status: str
    namespace: Union[str, UnsetType] = UNSET


class CompactionItem(msgspec.Struct, frozen=True, tag="compaction"):
    id: str
    encrypted_content: str


OutputItem = Union[MessageItem, ReasoningItem, FunctionCallItem, CustomCallItem]


class InputTokensDetails(msgspec.Struct, frozen=True):
    cached_tokens: int
    cache_write_tokens: int = 0


class OutputTokensDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int


class WireUsage(msgspec.Struct, frozen=True):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class IncompleteDetails(msgspec.Struct, frozen=True):
    reason: str


class Failure(msgspec.Struct, frozen=True):
    """Why a response failed. `code` is one of the few that the official type knows."""

    code: str
    message: str


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """The response object, from `in_progress` to its end. What was not asked for is null."""

    id: str
    object: str = "response"
    created_at: int
    status: str = "in_progress"
    background: bool = False
    completed_at: Union[int, None] = None
    error: Union[Failure, None] = None
    incomplete_details: Union[IncompleteDetails, None] = None
    instructions: Union[str, None] = None
    max_output_tokens: Union[int, None] = None
    max_tool_calls: Union[int, None] = None
    model: str
    output: tuple[OutputItem, ...] = ()
    output_text: Union[str, UnsetType] = UNSET  # Docker Model Runner's: the texts of `output`, once it has ended
    parallel_tool_calls: bool = True
    previous_response_id: Union[str, None] = None
    reasoning: dict[str, Any] = {}
    service_tier: Union[str, UnsetType] = UNSET
    store: bool = True
    temperature: Union[float, None] = None
    text: dict[str, Any] = {}
    tool_choice: Any = "auto"
    tools: Sequence[dict[str, Any]] = ()
    top_logprobs: int = 0
    top_p: Union[float, None] = None
    truncation: str = "disabled"
    usage: Union[WireUsage, None] = None
    metadata: dict[str, str] = {}
    schema_violations: Union[tuple[str, ...], UnsetType] = UNSET  # our own addition


class CompactedResponse(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: str = "response.compaction"
    created_at: int
    output: tuple[CompactionItem, ...]
    usage: WireUsage


class ItemList(msgspec.Struct, frozen=True, kw_only=True):
    object: str = "list"
    data: Sequence[dict[str, Any]]
    first_id: Union[str, None]
    last_id: Union[str, None]
    has_more: bool


class Deleted(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: str = "response.deleted"
    deleted: bool = True


class InputTokens(msgspec.Struct, frozen=True, kw_only=True):
    object: str = "response.input_tokens"
    input_tokens: int


def to_usage(usage: Usage) -> WireUsage:
    """Neutral usage as `ResponseUsage`."""
    return WireUsage(
        input_tokens=usage.num_prompt_tokens,
        input_tokens_details=InputTokensDetails(usage.num_cached_tokens),
        output_tokens=usage.num_completion_tokens,
        output_tokens_details=OutputTokensDetails(usage.num_reasoning_tokens),
        total_tokens=usage.num_prompt_tokens + usage.num_completion_tokens,
    )


def to_logprobs(logprobs: Sequence[TokenLogprob]) -> list[Logprob]:
    """`logprobs` of a text and of its deltas."""
    return [Logprob(*_told(entry.chosen), [TopLogprob(*_told(each)) for each in entry.top]) for entry in logprobs]


def _told(probability: TokenProbability) -> tuple[str, list[int], float]:
    data = probability.data
    return data.decode("utf-8", "replace"), list(data), max(probability.logprob, LOWEST)


def to_failure(error: DmrError) -> Failure:
    """Why a stored or streamed response failed."""
    if isinstance(error, (Overloaded, TooManyRequests)):
        return Failure("rate_limit_exceeded", error.message)
    return Failure("invalid_prompt" if isinstance(error, InvalidRequest) else "server_error", error.message)


class ErrorBody(msgspec.Struct, frozen=True):
    """The first four keys are always there. The others are llama-server's."""

    message: str
    type: str
    param: Union[str, None]
    code: Union[str, None]
    n_prompt_tokens: Union[int, UnsetType] = UNSET
    n_ctx: Union[int, UnsetType] = UNSET


class ErrorAnswer(msgspec.Struct, frozen=True):
    error: ErrorBody


def code_of(error: DmrError) -> str | None:
    """The machine-readable name of an error in this API."""
    return _OWN_CODES.get(type(error)) or row_of(error).code


class ResponsesDialect:
    """Errors as JSON, in OpenAI's shape."""

    media_type = "application/json"

    def error(self, error: DmrError, request_id: str) -> tuple[int, bytes]:
        row = row_of(error)
        body = ErrorBody(error.message, row.type, error.param, code_of(error))
        if isinstance(error, ContextLengthExceeded):
            body = msgspec.structs.replace(
                body,
                param="input",
                n_prompt_tokens=getattr(error, "num_prompt_tokens", UNSET),
                n_ctx=getattr(error, "context_size", UNSET),
            )
        return row.status, encode(ErrorAnswer(body))
