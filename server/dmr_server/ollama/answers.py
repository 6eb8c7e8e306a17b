"""How an answer is told, whole or line by line: the same for generate and chat but for where the text stands.

A line has a piece of text, a piece of thought, or one whole tool call; the last has `done`, why it ended, and every
counter. Fields of our own, only there when there is something to tell: `truncated` (what was left out of the prompt)
and `schema_violations` (what an answer breaks of a `format` that could not be enforced whole).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Union

import msgspec
from msgspec import UNSET, Meta, UnsetType

from dmr.errors import DmrError
from dmr.types import (
    Completed,
    Completion,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    Timings,
    ToolCall,
    ToolCallDelta,
    ToolCallStart,
    Usage,
)
from dmr_server.dialect import COMMENT_INTERVAL
from dmr_server.ollama.logprobs import Logprob, to_logprobs
from dmr_server.ollama.wire import NDJSON, message_of, nanoseconds

encode = msgspec.json.encode


class CalledFunction(msgspec.Struct, frozen=True):
    index: int
    name: str
    arguments: Annotated[msgspec.Raw, Meta(extra_json_schema={"type": "object"})]


class Call(msgspec.Struct, frozen=True):
    id: str
    function: CalledFunction


class Piece(msgspec.Struct, frozen=True):
    """What one line, or the whole answer, says."""

    text: str = ""
    thinking: Union[str, UnsetType] = UNSET
    calls: Union[list[Call], UnsetType] = UNSET
    logprobs: Union[list[Logprob], UnsetType] = UNSET


class Truncated(msgspec.Struct, frozen=True, omit_defaults=True):
    """How much of the prompt was left out so that it fits."""

    messages: int = 0
    tokens: int = 0


class End(msgspec.Struct, frozen=True):
    """The end of an answer: Unix seconds, the fields that only a last line has, and all tokens, if they were wanted."""

    ended_at: float
    fields: dict[str, Any]
    token_ids: tuple[int, ...] = ()


# Puts a piece into the endpoint's own object; `end` is None as long as more comes.
Shape = Callable[[Piece, "End | None"], msgspec.Struct]


def to_call(call: ToolCall, index: int) -> Call | None:
    """A call as it is sent; None for one that was cut off before its arguments were a JSON object."""
    arguments = call.arguments.strip() or "{}"
    try:
        msgspec.json.decode(arguments, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError):
        return None
    return Call(call.id, CalledFunction(index, call.name, msgspec.Raw(arguments.encode())))


def to_end(created: float, started: Started, finished: Finished, usage: Usage, timings: Timings) -> End:
    """Everything that the last line tells."""
    total = timings.load + timings.queued + timings.prefill + timings.decode
    truncated = Truncated(started.num_dropped_messages, started.num_dropped_tokens)
    fields = {
        "done_reason": "length" if finished.reason is FinishReason.LENGTH else "stop",
        "total_duration": nanoseconds(total),
        "load_duration": nanoseconds(timings.load),
        "prompt_eval_count": usage.num_prompt_tokens,
        "prompt_eval_cached_count": usage.num_cached_tokens,
        "prompt_eval_duration": nanoseconds(timings.prefill),
        "eval_count": usage.num_completion_tokens,
        "eval_duration": nanoseconds(timings.decode),
        "truncated": UNSET if truncated == Truncated() else truncated,
        "schema_violations": finished.schema_violations or UNSET,
    }
    return End(created + total, fields, finished.token_ids)


def to_whole(completion: Completion, created: float, shape: Shape, with_logprobs: bool) -> bytes:
    """The answer as one object."""
    choice = completion.choices[0]
    calls = [to_call(call, index) for index, call in enumerate(choice.tool_calls)]
    piece = Piece(
        text=choice.text,
        thinking=choice.reasoning or UNSET,
        calls=[call for call in calls if call is not None] or UNSET,
        logprobs=to_logprobs(choice.logprobs) if with_logprobs else UNSET,
    )
    finished = Finished(0, choice.finish_reason, schema_violations=choice.schema_violations, token_ids=choice.token_ids)
    return encode(shape(piece, to_end(created, completion.started, finished, completion.usage, completion.timings)))


class LineEncoder:
    """Encodes the events of one answer, a line each."""

    media_type = NDJSON
    comment_interval = COMMENT_INTERVAL

    def __init__(self, created: float, shape: Shape, with_logprobs: bool) -> None:
        self._created = created
        self._shape = shape
        self._with_logprobs = with_logprobs
        self._started = Started(0)
        self._finished = Finished(0, FinishReason.STOP)
        self._call: ToolCallStart | None = None  # the one that is being written
        self._arguments: list[str] = []

    def encode(self, event: Event) -> bytes:
        if isinstance(event, TextDelta):
            return self._text(event)
        if isinstance(event, ReasoningDelta):
            return self._line(Piece(thinking=event.text)) if event.text else b""
        if isinstance(event, ToolCallStart):
            line = self._end_call()
            self._call = event
            return line
        if isinstance(event, ToolCallDelta):
            self._arguments.append(event.arguments)
        elif isinstance(event, Finished):
            self._finished = event
            return self._end_call()
        elif isinstance(event, Completed):
            end = to_end(self._created, self._started, self._finished, event.usage, event.timings)
            return self._line(Piece(), end)
        elif isinstance(event, Started):
            self._started = event
        return b""

    def error(self, error: DmrError) -> bytes:
        return encode({"error": message_of(error)}) + b"\n"

    def comment(self) -> bytes:
        """Lines of JSON know no comments, and clients parse empty lines too: a line that adds nothing."""
        return self._line(Piece())

    def _text(self, event: TextDelta) -> bytes:
        logprobs = to_logprobs(event.logprobs) if self._with_logprobs and event.logprobs else UNSET
        if not event.text and logprobs is UNSET:
            return b""
        # What comes with no text are the probabilities of a call that is being written.
        done = self._end_call() if event.text else b""
        return done + self._line(Piece(event.text, logprobs=logprobs))

    def _end_call(self) -> bytes:
        """The line of the call that is complete now, if there is one."""
        if self._call is None:
            return b""
        start, arguments = self._call, "".join(self._arguments)
        self._call = None
        self._arguments.clear()
        call = to_call(ToolCall(start.id, start.name, arguments), start.call_index)
        return b"" if call is None else self._line(Piece(calls=[call]))

    def _line(self, piece: Piece, end: End | None = None) -> bytes:
        return encode(self._shape(piece, end)) + b"\n"
