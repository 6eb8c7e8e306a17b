"""The Responses API's routes, in types."""

from __future__ import annotations

from typing import Any, Literal, Union

from dmr_server.dialect import EVENT_STREAM
from dmr_server.fields import SAMPLING_FIELDS
from dmr_server.operation import BAD_QUERY, IN_ENGINE, Operation, Parameter, Surface
from dmr_server.responses import events
from dmr_server.responses.handling import HANDLING
from dmr_server.responses.request import ResponseFields
from dmr_server.responses.resources import MAX_LISTED, ROOTS
from dmr_server.responses.wire import (
    CompactedResponse,
    Deleted,
    ErrorAnswer,
    InputTokens,
    ItemList,
    Response,
    ResponsesDialect,
)

_READ = {
    "input": Union[str, list[dict[str, Any]]],
    "tools": list[dict[str, Any]],
    "tool_choice": Union[Literal["none", "auto", "required"], dict[str, Any]],
}
_EVENT = Union[
    events.Created,
    events.Queued,
    events.InProgress,
    events.ResponseCompleted,
    events.Incomplete,
    events.Failed,
    events.ErrorEvent,
    events.ItemAdded,
    events.ItemDone,
    events.PartAdded,
    events.PartDone,
    events.TextDeltaEvent,
    events.TextDone,
    events.ThoughtDelta,
    events.ThoughtDone,
    events.SummaryPartAdded,
    events.SummaryPartDone,
    events.SummaryDelta,
    events.SummaryDone,
    events.ArgumentsDelta,
    events.ArgumentsDone,
    events.InputDelta,
    events.InputDone,
]


def _asking(summary: str, answer: Any) -> Operation:
    return Operation(summary, answer, body=ResponseFields, more=_READ, errors=IN_ENGINE)


SURFACE = Surface(
    name="responses",
    description="OpenAI's Responses API.",
    dialect=ResponsesDialect(),
    error=ErrorAnswer,
    roots=tuple(sorted(ROOTS, key=lambda root: root != "/v1/responses")),
    operations={
        "": {
            "post": Operation(
                "answer a conversation, and keep the answer",
                Response,
                body=ResponseFields,
                more={**_READ, **SAMPLING_FIELDS},
                stream=_EVENT,
                stream_type=EVENT_STREAM,
                errors=IN_ENGINE,
            )
        },
        "/input_tokens": {"post": _asking("how many tokens a request has", InputTokens)},
        "/compact": {"post": _asking("a history in one item", CompactedResponse)},
        "/{response_id}": {
            "get": Operation(
                "an answer that is kept",
                Response,
                stream=_EVENT,
                stream_type=EVENT_STREAM,
                query=(
                    Parameter("stream", "its events again, or as they come", bool),
                    Parameter("starting_after", "only the events after this one", int),
                ),
                errors=BAD_QUERY,
            ),
            "delete": Operation("forget an answer", Deleted),
        },
        "/{response_id}/input_items": {
            "get": Operation(
                "all that was read for an answer",
                ItemList,
                query=(
                    Parameter("order", "asc or desc", Literal["asc", "desc"]),
                    Parameter("limit", f"how many at most, 1 to {MAX_LISTED}", int),
                    Parameter("after", "those that follow this item"),
                ),
                errors=BAD_QUERY,
            )
        },
        "/{response_id}/cancel": {"post": Operation("end an answer in progress", Response, errors=BAD_QUERY)},
    },
    handling=HANDLING,
)
