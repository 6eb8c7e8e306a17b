"""POST /v1/completions: the request, the whole answer and the streamed one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Union

import msgspec
from msgspec import UNSET, Meta, UnsetType

from dmr.errors import DmrError, InvalidRequest, Unsupported
from dmr.types import (
    Choice,
    Completed,
    Completion,
    Event,
    Finished,
    FinishReason,
    GenerateRequest,
    Started,
    TextDelta,
    TextInput,
)
from dmr_server.dialect import COMMENT_INTERVAL, EVENT_STREAM, Encoder
from dmr_server.fields import INT32_MAX, Count, checked, normalised, read_sampling
from dmr_server.generation import Stamp
from dmr_server.openai.constraints import read_response_format
from dmr_server.openai.fields import CommonFields, read_fields
from dmr_server.openai.logprobs import TextLogprobs, TextOffsets, to_text_logprobs
from dmr_server.openai.wire import COMMENT, DONE, WireUsage, frame, to_error, to_usage

DEFAULT_MAX_TOKENS = 16  # OpenAI's own default for this endpoint
MAX_PROMPTS = 2048

TokenIds = Annotated[tuple[Count, ...], Meta(min_length=1)]
Prompts = tuple[Union[str, tuple[int, ...]], ...]


class CompletionFields(CommonFields, frozen=True, kw_only=True):
    prompt: Union[str, list[Any]] = ""
    max_tokens: Annotated[int, Meta(ge=0, le=INT32_MAX)] = DEFAULT_MAX_TOKENS
    echo: bool = False
    logprobs: Union[Annotated[int, Meta(ge=0, le=5)], UnsetType] = UNSET
    best_of: Union[Annotated[int, Meta(ge=1, le=128)], UnsetType] = UNSET
    suffix: str = ""


class TextChoice(msgspec.Struct, frozen=True):
    text: str
    index: int
    logprobs: Union[TextLogprobs, None] = None
    finish_reason: Union[str, None] = None


class TextCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """Both the whole answer and one chunk of the streamed one."""

    id: str
    object: str = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: Union[WireUsage, UnsetType, None] = UNSET


class CompletionExchange:
    """One completions request and how to answer it. `echoes` holds the prompts that are given back, if any."""

    def __init__(
        self, fields: CompletionFields, request: GenerateRequest, echoes: tuple[str, ...], stamp: Stamp
    ) -> None:
        self.request = request
        self.stream = fields.stream
        self._fields = fields
        self._echoes = echoes
        self._stamp = stamp

    @property
    def with_logprobs(self) -> bool:
        return self._fields.logprobs is not UNSET

    @property
    def include_usage(self) -> bool:
        return self._fields.include_usage

    def encoder(self) -> Encoder:
        return CompletionEncoder(self)

    def to_result(self, completion: Completion) -> bytes:
        choices = [self._choice(choice) for choice in completion.choices]
        return msgspec.json.encode(self.envelope(choices, to_usage(completion.usage)))

    def echo(self, index: int) -> str:
        return self._echoes[index // self._fields.n] if self._echoes else ""

    def envelope(self, choices: list[TextChoice], usage: WireUsage | UnsetType | None) -> TextCompletion:
        return TextCompletion(
            id=self._stamp.id,
            created=self._stamp.created,
            model=self._fields.model,
            choices=choices,
            usage=usage,
        )

    def _choice(self, choice: Choice) -> TextChoice:
        return TextChoice(
            text=self.echo(choice.index) + choice.text,
            index=choice.index,
            logprobs=to_text_logprobs(choice.logprobs, TextOffsets()) if self.with_logprobs else None,
            finish_reason=to_reason(choice.finish_reason),
        )


class CompletionEncoder:
    """Encodes the events of one completions answer."""

    media_type = EVENT_STREAM
    comment_interval = COMMENT_INTERVAL

    def __init__(self, exchange: CompletionExchange) -> None:
        self._exchange = exchange
        self._offsets: dict[int, TextOffsets] = {}
        request = exchange.request
        num_prompts = len(request.input.prompts) if isinstance(request.input, TextInput) else 1
        self._num_choices = num_prompts * request.num_choices

    def encode(self, event: Event) -> bytes:
        if isinstance(event, TextDelta):
            return self._text(event)
        if isinstance(event, Started):
            return self._echo()
        if isinstance(event, Finished):
            return self._chunk([TextChoice("", event.index, finish_reason=to_reason(event.reason))])
        if isinstance(event, Completed):
            usage = self._chunk([], to_usage(event.usage)) if self._exchange.include_usage else b""
            return usage + DONE
        return b""

    def error(self, error: DmrError) -> bytes:
        return frame(to_error(error))

    def comment(self) -> bytes:
        return COMMENT

    def _echo(self) -> bytes:
        echoes = [(index, self._exchange.echo(index)) for index in range(self._num_choices)]
        return b"".join(self._chunk([TextChoice(text, index)]) for index, text in echoes if text)

    def _text(self, event: TextDelta) -> bytes:
        if not event.text and not event.logprobs:
            return b""
        logprobs = None
        if self._exchange.with_logprobs:
            offsets = self._offsets.setdefault(event.index, TextOffsets())
            logprobs = to_text_logprobs(event.logprobs, offsets)
        return self._chunk([TextChoice(event.text, event.index, logprobs)])

    def _chunk(self, choices: list[TextChoice], usage: WireUsage | None = None) -> bytes:
        return frame(self._exchange.envelope(choices, usage if self._exchange.include_usage else UNSET))


def to_reason(reason: FinishReason) -> str:
    """This endpoint knows no tool calls."""
    return "length" if reason is FinishReason.LENGTH else "stop"


def read_completion(body: Mapping[str, Any], stamp: Stamp) -> CompletionExchange:
    """Understand a request body; raises InvalidRequest and Unsupported, naming the field."""
    body = normalised(body)
    fields = read_fields(body, CompletionFields)
    prompts = _prompts(fields.prompt)
    _check_supported(fields)
    sampling, given = read_sampling(body)
    request = GenerateRequest(
        model=fields.model,
        input=TextInput(prompts),
        sampling=sampling,
        given=given | fields.given,
        num_choices=fields.n,
        max_tokens=fields.max_tokens,
        stop=fields.stops,
        num_logprobs=None if fields.logprobs is UNSET else fields.logprobs,
        response_format=read_response_format(body),
    )
    return CompletionExchange(fields, request, _echoes(prompts) if fields.echo else (), stamp)


def _check_supported(fields: CompletionFields) -> None:
    if fields.best_of is not UNSET and fields.best_of < fields.n:
        raise InvalidRequest("'best_of' must not be smaller than 'n'.", param="best_of")
    if fields.best_of is not UNSET and fields.best_of > fields.n:
        raise Unsupported("'best_of' larger than 'n' is not supported.", param="best_of")
    if fields.suffix:
        raise Unsupported("Filling in before a 'suffix' is not supported.", param="suffix")
    if fields.echo and fields.logprobs is not UNSET:
        raise Unsupported("Log probabilities of the prompt ('echo' with 'logprobs') are not supported.", param="echo")
    if fields.max_tokens == 0 and fields.echo:
        raise Unsupported("'max_tokens' 0 with 'echo' (nothing but the prompt) is not supported.", param="max_tokens")
    if fields.max_tokens == 0:
        raise InvalidRequest("Invalid value for 'max_tokens': expected int >= 1.", param="max_tokens")


def _prompts(prompt: str | list[Any]) -> Prompts:
    if isinstance(prompt, str):
        return (prompt,)
    if not prompt or (len(prompt) > MAX_PROMPTS and not isinstance(prompt[0], int)):
        raise InvalidRequest(f"Invalid value for 'prompt': expected 1 to {MAX_PROMPTS} prompts.", param="prompt")
    if isinstance(prompt[0], str):
        return checked(prompt, tuple[str, ...], "prompt")
    if isinstance(prompt[0], list):
        return checked(prompt, tuple[TokenIds, ...], "prompt")
    return (checked(prompt, TokenIds, "prompt"),)


def _echoes(prompts: Prompts) -> tuple[str, ...]:
    echoes = tuple(prompt for prompt in prompts if isinstance(prompt, str))
    if len(echoes) != len(prompts):
        raise Unsupported("'echo' is not supported for prompts of token ids.", param="echo")
    return echoes
