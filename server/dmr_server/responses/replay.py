"""A kept response as the stream that it may once have been: the same events, each text in one delta."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec
from msgspec import UNSET

from dmr_server.custom_input import arguments_of
from dmr_server.responses.events import (
    Created,
    Failed,
    Incomplete,
    InProgress,
    ResponseCompleted,
    WireEvent,
    frame,
)
from dmr_server.responses.open_items import OpenCall, OpenCustomCall, OpenMessage, OpenThought
from dmr_server.responses.tools import Offered
from dmr_server.responses.wire import (
    CustomCallItem,
    FunctionCallItem,
    MessageItem,
    OutputItem,
    ReasoningItem,
    Response,
)

_ENDS: Mapping[str, type[Created]] = {"completed": ResponseCompleted, "failed": Failed}  # type: ignore[dict-item]


def replay(response: Response, starting_after: int = -1) -> bytes:
    """The events of a response that has ended, from the one after number `starting_after` on."""
    frames = []
    for number, event in enumerate(_events(response)):
        if number > starting_after:
            event.sequence_number = number
            frames.append(frame(event))
    return b"".join(frames)


def _events(response: Response) -> Iterator[WireEvent]:
    base = msgspec.structs.replace(
        response,
        status="in_progress",
        completed_at=None,
        error=None,
        incomplete_details=None,
        output=(),
        output_text=UNSET,
        usage=None,
        schema_violations=UNSET,
    )
    yield Created(0, base)
    yield InProgress(0, base)
    for index, item in enumerate(response.output):
        yield from _item(index, item)
    yield _ENDS.get(response.status, Incomplete)(0, response)


def _item(index: int, item: OutputItem) -> Iterator[WireEvent]:
    if isinstance(item, MessageItem):
        message = OpenMessage(item.id, index)
        yield from message.opening()
        for part in item.content:
            yield message.delta(part.text, part.logprobs)
        yield from message.closing(item.status)
    elif isinstance(item, ReasoningItem):
        yield from _thought(index, item)
    elif isinstance(item, FunctionCallItem):
        call = OpenCall(item.id, index, item.call_id, Offered(item.name, item.namespace or None))
        yield from call.opening()
        yield from call.delta(item.arguments)
        yield from call.closing(item.status)
    else:
        yield from _custom_call(index, item)


def _thought(index: int, item: ReasoningItem) -> Iterator[WireEvent]:
    parts = item.summary if item.content is UNSET else item.content
    thought = OpenThought(item.id, index, as_summary=item.content is UNSET, sealed=item.encrypted_content is not None)
    yield from thought.opening()
    for part in parts:
        yield thought.delta(part.text)
    yield from thought.closing(item.status or "completed")


def _custom_call(index: int, item: CustomCallItem) -> Iterator[WireEvent]:
    call = OpenCustomCall(item.id, index, item.call_id, Offered(item.name, item.namespace or None, custom=True))
    yield from call.opening()
    yield from call.delta(arguments_of(item.input))
    yield from call.closing(item.status)
