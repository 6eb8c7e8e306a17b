"""POST /infill: what belongs between two pieces of code, asked and answered as llama-server does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Union

import msgspec
from msgspec import UNSET, Meta, UnsetType

from dmr.errors import DmrError, InvalidRequest, Unsupported
from dmr.types import (
    Completed,
    Completion,
    Event,
    Finished,
    FinishReason,
    GenerateRequest,
    Started,
    TextDelta,
    TextInput,
    Timings,
    TokenLogprob,
    Usage,
)
from dmr_server.dialect import COMMENT_INTERVAL, EVENT_STREAM, Encoder
from dmr_server.fields import INT32_MAX, normalised, read_sampling
from dmr_server.generation import Stamp
from dmr_server.openai.constraints import read_response_format
from dmr_server.openai.fields import CommonFields, given_names, limit_of, read_fields
from dmr_server.openai.logprobs import ChatLogprob, to_chat_logprobs
from dmr_server.openai.wire import COMMENT, WireTimings, encode, frame, to_error, to_timings

MAX_EXTRA = 1024


class Extra(msgspec.Struct, frozen=True):
    """A piece of another file."""

    text: str
    filename: str = ""


class InfillFields(CommonFields, frozen=True, kw_only=True):
    input_prefix: str = ""
    input_suffix: str = ""
    input_extra: Annotated[tuple[Extra, ...], Meta(max_length=MAX_EXTRA)] = ()
    prompt: str = ""
    max_tokens: Union[Annotated[int, Meta(ge=1, le=INT32_MAX)], UnsetType] = UNSET
    n_probs: Annotated[int, Meta(ge=0, le=20)] = 0

    @property
    def text(self) -> str:
        """All that stands before the gap; other files come first, as text."""
        extra = "".join(f"{extra.filename}\n{extra.text}\n\n".lstrip("\n") for extra in self.input_extra)
        return extra + self.input_prefix + self.prompt


class InfillChunk(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of the answer, and the whole of it but for the end."""

    index: int = 0
    content: str
    stop: bool = False
    tokens_evaluated: int = 0
    completion_probabilities: Union[list[ChatLogprob], UnsetType] = UNSET


class InfillEnd(msgspec.Struct, frozen=True, kw_only=True):
    """The last chunk, and with `content` the whole answer."""

    index: int = 0
    content: str = ""
    stop: bool = True
    model: str
    prompt: str
    stop_type: str  # "eos", "word" or "limit"
    stopping_word: str
    has_new_line: bool
    truncated: bool
    tokens_predicted: int
    tokens_evaluated: int
    tokens_cached: int
    timings: WireTimings
    completion_probabilities: Union[list[ChatLogprob], UnsetType] = UNSET


class InfillExchange:
    """One infill request and how to answer it."""

    def __init__(self, fields: InfillFields, request: GenerateRequest) -> None:
        self.request = request
        self.stream = fields.stream
        self._model = fields.model
        self._prompt = fields.text
        self._with_logprobs = fields.n_probs > 0

    def encoder(self) -> Encoder:
        return InfillEncoder(self)

    def to_result(self, completion: Completion) -> bytes:
        choice = completion.choices[0]
        end = self.end(
            Finished(0, choice.finish_reason, choice.stop_sequence, choice.is_context_full),
            completion.usage,
            completion.timings,
            "\n" in choice.text,
        )
        logprobs = self.logprobs(choice.logprobs)
        return encode(msgspec.structs.replace(end, content=choice.text, completion_probabilities=logprobs))

    def logprobs(self, logprobs: tuple[TokenLogprob, ...]) -> list[ChatLogprob] | UnsetType:
        return to_chat_logprobs(logprobs).content if self._with_logprobs else UNSET

    def end(self, finished: Finished, usage: Usage, timings: Timings, has_new_line: bool) -> InfillEnd:
        stop_type = "word" if finished.stop_sequence is not None else "eos"
        return InfillEnd(
            model=self._model,
            prompt=self._prompt,
            stop_type="limit" if finished.reason is FinishReason.LENGTH else stop_type,
            stopping_word=finished.stop_sequence or "",
            has_new_line=has_new_line,
            truncated=finished.is_context_full,
            tokens_predicted=usage.num_completion_tokens,
            tokens_evaluated=usage.num_prompt_tokens,
            tokens_cached=usage.num_cached_tokens,
            timings=to_timings(usage, timings),
        )


class InfillEncoder:
    """Encodes the events of one infill answer. As with llama-server there is no `[DONE]`: the last chunk has `stop`."""

    media_type = EVENT_STREAM
    comment_interval = COMMENT_INTERVAL

    def __init__(self, exchange: InfillExchange) -> None:
        self._exchange = exchange
        self._num_prompt_tokens = 0
        self._has_new_line = False
        self._finished = Finished(0, FinishReason.STOP)

    def encode(self, event: Event) -> bytes:
        if isinstance(event, TextDelta):
            return self._text(event)
        if isinstance(event, Started):
            self._num_prompt_tokens = event.num_prompt_tokens
        if isinstance(event, Finished):
            self._finished = event
        if isinstance(event, Completed):
            return frame(self._exchange.end(self._finished, event.usage, event.timings, self._has_new_line))
        return b""

    def error(self, error: DmrError) -> bytes:
        return frame(to_error(error))

    def comment(self) -> bytes:
        return COMMENT

    def _text(self, event: TextDelta) -> bytes:
        if not event.text and not event.logprobs:
            return b""
        self._has_new_line = self._has_new_line or "\n" in event.text
        return frame(
            InfillChunk(
                content=event.text,
                tokens_evaluated=self._num_prompt_tokens,
                completion_probabilities=self._exchange.logprobs(event.logprobs),
            )
        )


def read_infill(body: Mapping[str, Any], stamp: Stamp) -> InfillExchange:
    """Understand a request body; raises InvalidRequest and Unsupported, naming the field."""
    body = normalised(body)
    fields = read_fields(body, InfillFields)
    if fields.n != 1:
        raise Unsupported("'n' other than 1 is not supported here: use /v1/completions with 'suffix'.", param="n")
    limit = limit_of(fields.max_tokens, fields.n_predict)
    if limit == 0:
        raise InvalidRequest("Invalid value for 'n_predict': expected int >= 1, or -1.", param="n_predict")
    sampling, given = read_sampling(body)
    request = GenerateRequest(
        model=fields.model,
        input=TextInput((fields.text,), suffix=fields.input_suffix),
        sampling=sampling,
        given=given | given_names(body),
        max_tokens=limit,
        stop=fields.stops,
        num_logprobs=fields.n_probs or None,
        response_format=read_response_format(body),
    )
    return InfillExchange(fields, request)
