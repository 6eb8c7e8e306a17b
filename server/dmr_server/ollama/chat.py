"""POST /api/chat: the request and its answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Union

import msgspec
from msgspec import UNSET, UnsetType

from dmr.types import ChatInput, Completion, GenerateRequest
from dmr_server.dialect import Encoder
from dmr_server.fields import normalised
from dmr_server.ollama.answers import Call, End, LineEncoder, Piece, Truncated, to_whole
from dmr_server.ollama.fields import CommonFields, Need, read_common, required_model
from dmr_server.ollama.images import needs_of
from dmr_server.ollama.logprobs import Logprob
from dmr_server.ollama.messages import read_messages, read_tools
from dmr_server.ollama.wire import timestamp


class AnswerMessage(msgspec.Struct, frozen=True):
    role: str
    content: str
    thinking: Union[str, UnsetType] = UNSET
    tool_calls: Union[list[Call], UnsetType] = UNSET


class ChatAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One line, or the whole answer; most fields are only there when it is done."""

    model: str
    created_at: str
    message: AnswerMessage
    done: bool
    done_reason: Union[str, UnsetType] = UNSET
    total_duration: Union[int, UnsetType] = UNSET
    load_duration: Union[int, UnsetType] = UNSET
    prompt_eval_count: Union[int, UnsetType] = UNSET
    prompt_eval_cached_count: Union[int, UnsetType] = UNSET
    prompt_eval_duration: Union[int, UnsetType] = UNSET
    eval_count: Union[int, UnsetType] = UNSET
    eval_duration: Union[int, UnsetType] = UNSET
    logprobs: Union[list[Logprob], UnsetType] = UNSET
    truncated: Union[Truncated, UnsetType] = UNSET
    schema_violations: Union[tuple[str, ...], UnsetType] = UNSET


class ChatExchange:
    """One request and how to answer it. `created` is its arrival in Unix seconds."""

    def __init__(self, fields: CommonFields, request: GenerateRequest, chat: ChatInput, created: float) -> None:
        self.request = request
        self.stream = fields.stream
        self.render_only = fields.render_only
        self.is_empty = not chat.messages
        self.needs = fields.needs("chat") + needs_of(request)
        if chat.tools:
            self.needs += (Need("tools", f'"{fields.model}" does not support tools'),)
        self._model = fields.model
        self._created = created
        self._created_at = timestamp(created)
        self._with_logprobs = fields.num_logprobs is not None

    def encoder(self) -> Encoder:
        return LineEncoder(self._created, self._shape, self._with_logprobs)

    def to_result(self, completion: Completion) -> bytes:
        return to_whole(completion, self._created, self._shape, self._with_logprobs)

    def to_notice(self, reason: str) -> bytes:
        """The answer to a request that only loads or unloads the model."""
        return msgspec.json.encode(self._shape(Piece(), End(self._created, {"done_reason": reason})))

    def _shape(self, piece: Piece, end: End | None) -> ChatAnswer:
        return ChatAnswer(
            model=self._model,
            created_at=self._created_at if end is None else timestamp(end.ended_at),
            message=AnswerMessage("assistant", piece.text, piece.thinking, piece.calls),
            logprobs=piece.logprobs,
            done=end is not None,
            **({} if end is None else end.fields),
        )


def read_chat(body: Mapping[str, Any], created: float) -> ChatExchange:
    """Understand a request body; raises InvalidRequest and Unsupported, naming the field."""
    body = normalised(body)
    fields = read_common(body)
    required_model(body)
    chat = ChatInput(
        messages=read_messages(body.get("messages")),
        tools=read_tools(body.get("tools")),
        enable_thinking=fields.think is not False,
        reasoning_effort=fields.reasoning_effort,
        truncate=fields.truncate,
    )
    options = fields.options
    request = GenerateRequest(
        model=fields.model,
        input=chat,
        sampling=options.sampling,
        given=fields.given,
        max_tokens=options.max_tokens,
        stop=options.stop,
        num_logprobs=fields.num_logprobs,
        response_format=fields.format,
        shift=fields.shift,
        context_size=options.context_size,
        keep_alive=fields.keep_alive,
    )
    return ChatExchange(fields, request, chat, created)
