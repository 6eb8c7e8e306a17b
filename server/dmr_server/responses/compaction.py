"""POST /v1/responses/compact: a long history summed up by the model itself, in one item that stands for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from dmr.errors import InvalidRequest
from dmr.types import ChatInput, Completion, Message, Role, TextPart, ToolChoice
from dmr_server.dialect import Encoder
from dmr_server.generation import Stamp
from dmr_server.responses.request import Kept, ResponseExchange, read_response, suffix_of
from dmr_server.responses.sealed import seal
from dmr_server.responses.wire import CompactedResponse, CompactionItem, encode, to_usage

_TAKEN = ("model", "input", "instructions", "previous_response_id")
WISH = (
    "Sum up our conversation so far for somebody who will carry it on without having seen it. Keep what was asked "
    "for, what was decided and why, names, numbers, file paths and results that are still needed, and what remains "
    "to be done. Write only the summary."
)


class CompactionExchange:
    """Asks for a summary and answers with an item that holds it."""

    stream = False

    def __init__(self, exchange: ResponseExchange, stamp: Stamp) -> None:
        conversation = exchange.request.input
        assert isinstance(conversation, ChatInput)
        wish = Message(Role.USER, (TextPart(WISH),))
        asked = msgspec.structs.replace(
            conversation, messages=(*conversation.messages, wish), tool_choice=ToolChoice.NONE
        )
        self.request = msgspec.structs.replace(exchange.request, input=asked)
        self._stamp = stamp

    def encoder(self) -> Encoder:
        raise InvalidRequest("'stream' is not supported here.", param="stream")

    def to_result(self, completion: Completion) -> bytes:
        choice = completion.choices[0]
        item = CompactionItem(f"cmp_{suffix_of(self._stamp.id)}_0", seal(choice.text or choice.reasoning))
        return encode(
            CompactedResponse(
                id=self._stamp.id,
                created_at=self._stamp.created,
                output=(item,),
                usage=to_usage(completion.usage),
            )
        )


def read_compaction(body: Mapping[str, Any], stamp: Stamp, kept: Kept) -> CompactionExchange:
    """Understand a request body; raises what `read_response` raises."""
    taken = {name: body[name] for name in _TAKEN if name in body}
    if taken.get("input") is None and taken.get("previous_response_id") is not None:
        taken["input"] = WISH
        exchange = read_response({**taken, "store": False}, stamp, kept)
        conversation = exchange.request.input
        assert isinstance(conversation, ChatInput)
        history = msgspec.structs.replace(conversation, messages=conversation.messages[:-1])
        exchange.request = msgspec.structs.replace(exchange.request, input=history)
        return CompactionExchange(exchange, stamp)
    return CompactionExchange(read_response({**taken, "store": False}, stamp, kept), stamp)
