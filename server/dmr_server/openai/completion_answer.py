"""The completions answer, whole and streamed."""

from __future__ import annotations

from typing import Union

import msgspec
from msgspec import UNSET, UnsetType

from dmr.errors import DmrError
from dmr.types import Choice, Completed, Completion, Echo, Event, Finished, FinishReason, TextDelta
from dmr_server.dialect import COMMENT_INTERVAL, EVENT_STREAM
from dmr_server.generation import Stamp
from dmr_server.openai.logprobs import TextLogprobs, TextOffsets, to_text_logprobs
from dmr_server.openai.wire import (
    COMMENT,
    DONE,
    WireTimings,
    WireUsage,
    encode,
    frame,
    to_error,
    to_timings,
    to_usage,
)


class TextStyle(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer takes from its request."""

    stamp: Stamp
    model: str
    include_usage: bool
    with_logprobs: bool


class TextChoice(msgspec.Struct, frozen=True):
    text: str
    index: int
    logprobs: Union[TextLogprobs, None] = None
    finish_reason: Union[str, None] = None
    schema_violations: Union[tuple[str, ...], UnsetType] = UNSET  # our own addition


class TextCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """Both the whole answer and one chunk of the streamed one."""

    id: str
    object: str = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: Union[WireUsage, UnsetType, None] = UNSET
    timings: Union[WireTimings, UnsetType] = UNSET


def to_text_completion(completion: Completion, style: TextStyle) -> bytes:
    """The body of the whole answer."""
    return encode(
        TextCompletion(
            id=style.stamp.id,
            created=style.stamp.created,
            model=style.model,
            choices=[_choice(choice, style) for choice in completion.choices],
            usage=to_usage(completion.usage),
            timings=to_timings(completion.usage, completion.timings),
        )
    )


def _choice(choice: Choice, style: TextStyle) -> TextChoice:
    echo = choice.echo.text if choice.echo else ""
    logprobs = to_text_logprobs(choice.logprobs, TextOffsets(), choice.echo) if style.with_logprobs else None
    return TextChoice(
        text=echo + choice.text,
        index=choice.index,
        logprobs=logprobs,
        finish_reason=to_reason(choice.finish_reason),
        schema_violations=choice.schema_violations or UNSET,
    )


def to_reason(reason: FinishReason) -> str:
    """This endpoint knows no tool calls."""
    return "length" if reason is FinishReason.LENGTH else "stop"


class CompletionEncoder:
    """Encodes the events of one completions answer."""

    media_type = EVENT_STREAM
    comment_interval = COMMENT_INTERVAL

    def __init__(self, style: TextStyle) -> None:
        self._style = style
        self._offsets: dict[int, TextOffsets] = {}  # by choice

    def encode(self, event: Event) -> bytes:
        if isinstance(event, TextDelta):
            return self._text(event)
        if isinstance(event, Echo):
            return self._echo(event)
        if isinstance(event, Finished):
            violations = event.schema_violations or UNSET
            choice = TextChoice("", event.index, None, to_reason(event.reason), violations)
            return self._chunk([choice])
        if isinstance(event, Completed):
            return self._usage(event) + DONE
        return b""

    def error(self, error: DmrError) -> bytes:
        return frame(to_error(error))

    def comment(self) -> bytes:
        return COMMENT

    def _echo(self, event: Echo) -> bytes:
        if not event.text and not event.logprobs:
            return b""
        offsets = self._offsets_of(event.index)
        logprobs = to_text_logprobs((), offsets, event) if self._style.with_logprobs else None
        return self._chunk([TextChoice(event.text, event.index, logprobs)])

    def _text(self, event: TextDelta) -> bytes:
        if not event.text and not event.logprobs:
            return b""
        logprobs = None
        if self._style.with_logprobs:
            logprobs = to_text_logprobs(event.logprobs, self._offsets_of(event.index))
        return self._chunk([TextChoice(event.text, event.index, logprobs)])

    def _offsets_of(self, index: int) -> TextOffsets:
        return self._offsets.setdefault(index, TextOffsets())

    def _usage(self, event: Completed) -> bytes:
        if not self._style.include_usage:
            return b""
        return self._chunk([], to_usage(event.usage), to_timings(event.usage, event.timings))

    def _chunk(
        self,
        choices: list[TextChoice],
        usage: WireUsage | None = None,
        timings: WireTimings | UnsetType = UNSET,
    ) -> bytes:
        style = self._style
        return frame(
            TextCompletion(
                id=style.stamp.id,
                created=style.stamp.created,
                model=style.model,
                choices=choices,
                usage=usage if style.include_usage else UNSET,
                timings=timings,
            )
        )
