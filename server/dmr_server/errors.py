"""What an error means in HTTP: one table from exception type to status, and the headers that steer retries."""

from __future__ import annotations

import math

import msgspec

from dmr.errors import (
    Conflict,
    ContextLengthExceeded,
    DeadlineExceeded,
    DmrError,
    EngineCrashed,
    InternalError,
    InvalidModelFile,
    InvalidReference,
    InvalidRequest,
    ModelLoadFailed,
    ModelNotFound,
    Overloaded,
    PayloadTooLarge,
    RegistryError,
    RegistryNotAllowed,
    RemoteModelNotFound,
    ShuttingDown,
    StoreError,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    Unsupported,
    UpstreamFailed,
)

# The official clients do not retry at all when they are told to wait for more than 120 s.
MAX_RETRY_AFTER = 30  # seconds


class InvalidBody(InvalidRequest):
    """The request body is not what it says it is: not JSON, not UTF-8, too deep."""

    code = "invalid_json"


class UnsupportedMediaType(InvalidRequest):
    """A content type or content encoding that is not read here."""

    code = "unsupported_media_type"


class RequestTimeout(DmrError):
    """The client did not send the rest of its request in time."""

    code = "request_timeout"


class RouteNotFound(DmrError):
    """No such address."""

    code = "not_found"


class MethodNotAllowed(DmrError):
    """The address exists, but not for this method."""

    code = "method_not_allowed"


class NotConfigured(DmrError):
    """Something that the server's settings leave out."""

    code = "not_configured"


class OriginNotAllowed(DmrError):
    """A browser asks for a page of another site."""

    code = "origin_not_allowed"


class HostNotAllowed(DmrError):
    """The server is asked by a name that is not its own."""

    code = "host_not_allowed"


class KeyRefused(DmrError):
    """No API key, or none that is known here."""

    code = "invalid_api_key"


class ScopeMissing(DmrError):
    """An API key that is known, but not for this."""

    code = "missing_scope"


class ClientGone(Exception):
    """Nobody is left to read the answer. Never shown to anyone."""


class ErrorRow(msgspec.Struct, frozen=True):
    """How one error type looks from outside. `type` and `code` are the OpenAI names (its OpenAPI document, `Error`)."""

    status: int
    type: str
    code: str | None


_BAD_REQUEST = "invalid_request_error"
_SERVER_ERROR = "server_error"

# The most specific type along the inheritance wins.
_TABLE: dict[type[DmrError], ErrorRow] = {
    InvalidRequest: ErrorRow(400, _BAD_REQUEST, None),
    InvalidBody: ErrorRow(400, _BAD_REQUEST, "invalid_json"),
    ContextLengthExceeded: ErrorRow(400, _BAD_REQUEST, "context_length_exceeded"),
    InvalidReference: ErrorRow(400, _BAD_REQUEST, "invalid_reference"),
    InvalidModelFile: ErrorRow(400, _BAD_REQUEST, "invalid_model_file"),
    Unsupported: ErrorRow(400, _BAD_REQUEST, "unsupported_value"),
    Unauthorized: ErrorRow(401, _BAD_REQUEST, "registry_unauthorized"),
    KeyRefused: ErrorRow(401, _BAD_REQUEST, "invalid_api_key"),
    ScopeMissing: ErrorRow(403, "permission_error", "missing_scope"),
    OriginNotAllowed: ErrorRow(403, "permission_error", "origin_not_allowed"),
    HostNotAllowed: ErrorRow(403, "permission_error", "host_not_allowed"),
    RegistryNotAllowed: ErrorRow(403, "permission_error", "registry_not_allowed"),
    RemoteModelNotFound: ErrorRow(404, _BAD_REQUEST, "model_not_found"),
    ModelNotFound: ErrorRow(404, _BAD_REQUEST, "model_not_found"),
    RouteNotFound: ErrorRow(404, _BAD_REQUEST, "not_found"),
    MethodNotAllowed: ErrorRow(405, _BAD_REQUEST, "method_not_allowed"),
    RequestTimeout: ErrorRow(408, _BAD_REQUEST, "request_timeout"),
    Conflict: ErrorRow(409, _BAD_REQUEST, "conflict"),
    PayloadTooLarge: ErrorRow(413, _BAD_REQUEST, "request_too_large"),
    UnsupportedMediaType: ErrorRow(415, _BAD_REQUEST, "unsupported_media_type"),
    TooManyRequests: ErrorRow(429, "requests", "rate_limit_exceeded"),
    DmrError: ErrorRow(500, _SERVER_ERROR, "internal_error"),
    InternalError: ErrorRow(500, _SERVER_ERROR, "internal_error"),
    NotConfigured: ErrorRow(501, _SERVER_ERROR, "not_configured"),
    RegistryError: ErrorRow(502, _SERVER_ERROR, "registry_error"),
    UpstreamFailed: ErrorRow(502, _SERVER_ERROR, "upstream_failed"),
    StoreError: ErrorRow(500, _SERVER_ERROR, "store_error"),
    ModelLoadFailed: ErrorRow(500, _SERVER_ERROR, "model_load_failed"),
    Unavailable: ErrorRow(503, _SERVER_ERROR, "unavailable"),
    Overloaded: ErrorRow(503, _SERVER_ERROR, "overloaded"),
    EngineCrashed: ErrorRow(503, _SERVER_ERROR, "engine_restarting"),
    ShuttingDown: ErrorRow(503, _SERVER_ERROR, "shutting_down"),
    DeadlineExceeded: ErrorRow(504, _SERVER_ERROR, "timeout"),
}


def row_of(error: DmrError) -> ErrorRow:
    """The row of the table for this error's type, or for its nearest ancestor."""
    return next(_TABLE[kind] for kind in type(error).__mro__ if kind in _TABLE)


def retry_headers(error: DmrError) -> dict[str, str]:
    """`Retry-After` where waiting helps, `x-should-retry: false` where clients would repeat in vain.

    The official clients repeat 408, 409, 429 and every 5xx on their own unless they are told not to.
    """
    if error.retry_after is not None:
        return {"Retry-After": str(min(MAX_RETRY_AFTER, max(1, math.ceil(error.retry_after))))}
    status = row_of(error).status
    return {"x-should-retry": "false"} if status in (409, 429) or status >= 500 else {}
