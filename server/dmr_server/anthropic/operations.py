"""Anthropic's routes, in types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Union

import msgspec

from dmr_server.anthropic.fields import MessageFields
from dmr_server.anthropic.handling import HANDLING
from dmr_server.anthropic.models import MAX_PAGE, Model, ModelPage
from dmr_server.anthropic.resources import TokensCount
from dmr_server.anthropic.stream import BlockDelta, BlockStart, BlockStop, MessageDelta, MessageStart, MessageStop
from dmr_server.anthropic.wire import AnthropicDialect, ErrorBody, WireMessage
from dmr_server.dialect import EVENT_STREAM
from dmr_server.fields import SAMPLING_FIELDS, Unit
from dmr_server.operation import BAD_QUERY, IN_ENGINE, Operation, Parameter, Surface


class ClientMessage(msgspec.Struct, frozen=True):
    role: Literal["user", "assistant", "system"]
    content: Union[str, list[dict[str, Any]]]


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    """Nothing happened for a while."""


_PROMPT: Mapping[str, Any] = {
    "messages": list[ClientMessage],
    "tools": list[dict[str, Any]],
    "tool_choice": dict[str, Any],
}
_EVENT = Union[MessageStart, BlockStart, BlockDelta, BlockStop, MessageDelta, MessageStop, Ping, ErrorBody]

SURFACE = Surface(
    name="anthropic",
    description="Anthropic's API.",
    dialect=AnthropicDialect(),
    error=ErrorBody,
    roots=("/v1", "/anthropic/v1", "/engines/v1", "/engines/{backend}/v1", ""),
    operations={
        "/messages": {
            "post": Operation(
                "answer a conversation",
                WireMessage,
                body=MessageFields,
                more={**_PROMPT, **SAMPLING_FIELDS, "temperature": Unit},
                stream=_EVENT,
                stream_type=EVENT_STREAM,
                errors=IN_ENGINE,
            )
        },
        "/messages/count_tokens": {
            "post": Operation(
                "how many tokens a conversation has",
                TokensCount,
                body=MessageFields,
                more=_PROMPT,
                errors=IN_ENGINE,
            )
        },
        "/models": {
            "get": Operation(
                "the models of the store",
                ModelPage,
                query=(
                    Parameter("limit", f"how many at most, 1 to {MAX_PAGE}", int),
                    Parameter("after_id", "those that follow this one"),
                    Parameter("before_id", "those that go before this one"),
                ),
                errors=BAD_QUERY,
            )
        },
        "/models/{name:model}": {"get": Operation("one model", Model)},
    },
    handling=HANDLING,
)
