"""What each address takes and gives, told in types: /openapi.json is made from these tables.

Every dialect has a module `operations` with a `SURFACE`. A test compares it with the routes and sends what it allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from dmr.errors import (
    Conflict,
    ContextLengthExceeded,
    DeadlineExceeded,
    DmrError,
    EngineCrashed,
    InternalError,
    InvalidReference,
    InvalidRequest,
    ModelLoadFailed,
    ModelNotFound,
    Overloaded,
    PayloadTooLarge,
    StoreError,
    TooManyRequests,
    Unavailable,
)
from dmr_server.dialect import Dialect
from dmr_server.errors import InvalidBody, KeyRefused, RequestTimeout, ScopeMissing, UnsupportedMediaType
from dmr_server.handling import Route

JSON = "application/json"
TEXT = "text/plain"
OCTETS = "application/octet-stream"

# What can go wrong, by examples: a dialect's status codes are found by asking it for each.
ANYWHERE: tuple[DmrError, ...] = (
    KeyRefused(""),
    ScopeMissing(""),
    InternalError(""),
    StoreError(""),
    Unavailable(""),
)
IN_BODY: tuple[DmrError, ...] = (
    InvalidBody(""),
    InvalidRequest(""),
    RequestTimeout(""),
    PayloadTooLarge(""),
    UnsupportedMediaType(""),
)
BAD_QUERY: tuple[DmrError, ...] = (InvalidRequest(""),)
BAD_NAME: tuple[DmrError, ...] = (ModelNotFound(""), InvalidReference(""))
IN_USE: tuple[DmrError, ...] = (Conflict(""),)
IN_ENGINE: tuple[DmrError, ...] = (
    *BAD_NAME,
    ContextLengthExceeded(1, 1),
    ModelLoadFailed(""),
    EngineCrashed(""),
    Overloaded(""),
    TooManyRequests(""),
    DeadlineExceeded(""),
)


class Parameter(NamedTuple):
    """One of a query, or of a path."""

    name: str
    description: str
    type: Any = str
    required: bool = False


class Operation(NamedTuple):
    """One method of one address.

    `body` is the type of a JSON body and `more` are fields that the type does not have, or not as well; `upload` is the
    media type of a body that is no JSON. `answer` is the type of the JSON answer, None if there is nothing in it;
    `stream` is the type of one event or line of a streamed one; both may be a tuple of types, of which it is one.
    `errors` are examples of what can go wrong beside `ANYWHERE`. `like` is a path whose tables of fields hold here too.
    """

    summary: str
    answer: Any = None
    body: Any = None
    more: Mapping[str, Any] = {}
    upload: str = ""
    stream: Any = None
    stream_type: str = ""
    status: int = 200
    answer_type: str = JSON
    query: tuple[Parameter, ...] = ()
    errors: tuple[DmrError, ...] = ()
    like: str = ""
    own_statuses: Mapping[int, Any] = {}  # other statuses that are no errors: types of their answers


class Surface(NamedTuple):
    """All of one dialect. `operations` are by path below any of `roots` and by method; the first root is the usual one.

    `error` is the type of an error's body, None where errors are text; `last_event` is one that is no JSON. `actions`
    are operations on addresses that have no route of their own: that of another one takes them.
    """

    name: str
    description: str
    dialect: Dialect
    error: Any
    roots: tuple[str, ...]
    operations: Mapping[str, Mapping[str, Operation]]
    handling: tuple[Route, ...] = ()
    actions: Mapping[str, Mapping[str, Operation]] = {}
    last_event: str = ""
