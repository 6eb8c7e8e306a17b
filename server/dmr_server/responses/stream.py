"""The answer: one event in, the bytes of its server-sent events out, and the response object as it is by then."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec
from msgspec import UNSET

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
    ToolCallDelta,
    ToolCallStart,
)
from dmr_server.dialect import COMMENT_INTERVAL, EVENT_STREAM
from dmr_server.responses.events import (
    Created,
    ErrorEvent,
    Failed,
    Incomplete,
    InProgress,
    Queued,
    ResponseCompleted,
    WireEvent,
    frame,
)
from dmr_server.responses.open_items import OpenCall, OpenCustomCall, OpenItem, OpenMessage, OpenThought
from dmr_server.responses.tools import Offered
from dmr_server.responses.wire import (
    Cancelled,
    IncompleteDetails,
    MessageItem,
    OutputItem,
    Response,
    code_of,
    to_failure,
    to_logprobs,
    to_usage,
)

COMMENT = b": still here\n\n"


class AnswerStyle(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer takes from its request: `base` is the response before anything was said."""

    base: Response
    offered: Mapping[str, Offered] = {}
    with_logprobs: bool = False
    as_summary: bool = False  # thoughts are told as their own summary
    sealed: bool = False  # thoughts come with encrypted_content, for clients that keep the history themselves


class ResponseEncoder:
    """Encodes the events of one answer; `response` is what has become of it."""

    media_type = EVENT_STREAM
    comment_interval = COMMENT_INTERVAL

    def __init__(self, style: AnswerStyle) -> None:
        self.response = style.base
        self._style = style
        self._suffix = style.base.id.removeprefix("resp_")
        self._sequence = 0
        self._output: list[OutputItem] = []
        self._open: OpenItem | None = None
        self._finished: Finished | None = None

    def encode(self, event: Event) -> bytes:
        if isinstance(event, TextDelta):
            return self._text(event)
        if isinstance(event, ReasoningDelta):
            return self._thought(event)
        if isinstance(event, ToolCallDelta):
            return self._arguments(event)
        if isinstance(event, ToolCallStart):
            return self._call(event)
        if isinstance(event, Started):
            return self._begin()
        if isinstance(event, Finished):
            return self._finish(event)
        if isinstance(event, Completed):
            return self._complete(event)
        return b""

    def error(self, error: DmrError) -> bytes:
        """The end of a broken answer. An answer that was cancelled ends without an error."""
        begun = b"" if self._sequence else self._begin()  # in the background there is nobody else to tell it to
        if isinstance(error, Cancelled):
            return begun + self._send(Incomplete(0, self.cancelled()))
        self.response = msgspec.structs.replace(self._so_far(), status="failed", error=to_failure(error))
        told = ErrorEvent(0, code_of(error), error.message, error.param)
        return begun + self._send(told, Failed(0, self.response))

    def comment(self) -> bytes:
        return COMMENT

    def cancelled(self) -> Response:
        """The response, ended where it is."""
        self.response = msgspec.structs.replace(self._so_far(), status="cancelled")
        return self.response

    @property
    def num_sent(self) -> int:
        """Events so far."""
        return self._sequence

    def _begin(self) -> bytes:
        base = self._style.base
        if not base.background:
            return self._send(Created(0, base), InProgress(0, base))
        queued = msgspec.structs.replace(base, status="queued")
        return self._send(Created(0, queued), Queued(0, queued), InProgress(0, base))

    def _text(self, event: TextDelta) -> bytes:
        logprobs = to_logprobs(event.logprobs) if self._style.with_logprobs else ()
        if not event.text and not logprobs:
            return b""
        opened = b""
        message = self._open
        if not isinstance(message, OpenMessage):
            opened = self._close() + self._begin_item(message := OpenMessage(self._next_id("msg"), len(self._output)))
        return opened + self._send(message.delta(event.text, logprobs))

    def _thought(self, event: ReasoningDelta) -> bytes:
        if not event.text:
            return b""
        opened = b""
        thought = self._open
        if not isinstance(thought, OpenThought):
            opened = self._close()
            thought = OpenThought(
                self._next_id("rs"),
                len(self._output),
                as_summary=self._style.as_summary,
                sealed=self._style.sealed,
            )
            opened += self._begin_item(thought)
        return opened + self._send(thought.delta(event.text))

    def _call(self, event: ToolCallStart) -> bytes:
        closed = self._close()
        tool = self._style.offered.get(event.name) or Offered(event.name)
        kind, prefix = (OpenCustomCall, "ctc") if tool.custom else (OpenCall, "fc")
        return closed + self._begin_item(kind(self._next_id(prefix), len(self._output), event.id, tool))

    def _arguments(self, event: ToolCallDelta) -> bytes:
        assert isinstance(self._open, (OpenCall, OpenCustomCall)), "a call's delta came outside of it"
        return self._send(*self._open.delta(event.arguments))

    def _finish(self, event: Finished) -> bytes:
        self._finished = event
        if event.reason is FinishReason.LENGTH:
            return self._close("incomplete")
        closed = self._close()
        if all(item.__struct_config__.tag == "reasoning" for item in self._output):
            # A model that has nothing to say says so: clients look for a message.
            closed += self._begin_item(OpenMessage(self._next_id("msg"), len(self._output))) + self._close()
        return closed

    def _complete(self, event: Completed) -> bytes:
        finished = self._finished or Finished(0, FinishReason.STOP)
        is_cut = finished.reason is FinishReason.LENGTH
        timings = event.timings
        seconds = timings.load + timings.queued + timings.prefill + timings.decode
        self.response = msgspec.structs.replace(
            self._style.base,
            status="incomplete" if is_cut else "completed",
            incomplete_details=IncompleteDetails("max_output_tokens") if is_cut else None,
            completed_at=None if is_cut else self._style.base.created_at + round(seconds),
            output=tuple(self._output),
            output_text="".join(
                part.text for item in self._output if isinstance(item, MessageItem) for part in item.content
            ),
            usage=to_usage(event.usage),
            schema_violations=finished.schema_violations or UNSET,
        )
        kind = Incomplete if is_cut else ResponseCompleted
        return self._send(kind(0, self.response))

    def _so_far(self) -> Response:
        output = [*self._output, *([self._open.item("incomplete")] if self._open else [])]
        return msgspec.structs.replace(self._style.base, output=tuple(output))

    def _next_id(self, prefix: str) -> str:
        return f"{prefix}_{self._suffix}_{len(self._output)}"

    def _begin_item(self, item: OpenItem) -> bytes:
        self._open = item
        return self._send(*item.opening())

    def _close(self, status: str = "completed") -> bytes:
        item, self._open = self._open, None
        if item is None:
            return b""
        closed = self._send(*item.closing(status))
        self._output.append(item.item(status))
        return closed

    def _send(self, *events: WireEvent) -> bytes:
        frames = []
        for event in events:
            event.sequence_number = self._sequence
            self._sequence += 1
            frames.append(frame(event))
        return b"".join(frames)


def to_response(completion: Completion, style: AnswerStyle) -> Response:
    """The whole answer: the same that a stream of it would have ended with."""
    encoder = ResponseEncoder(style)
    for event in _events_of(completion):
        encoder.encode(event)
    return encoder.response


def _events_of(completion: Completion) -> Iterator[Event]:
    choice = completion.choices[0]
    yield completion.started
    yield ReasoningDelta(0, choice.reasoning)
    yield TextDelta(0, choice.text, choice.logprobs)
    for index, call in enumerate(choice.tool_calls):
        yield ToolCallStart(0, index, call.id, call.name)
        yield ToolCallDelta(0, index, call.arguments)
    yield Finished(0, choice.finish_reason, choice.stop_sequence, choice.is_context_full, choice.schema_violations)
    yield Completed(completion.usage, completion.timings)
