"""POST /api/generate: the request and its answers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Union

import msgspec
from msgspec import UNSET, Meta, UnsetType

from dmr.errors import InvalidRequest, Unsupported
from dmr.go_template import GoTemplate
from dmr.types import ChatInput, Completion, GenerateRequest, Message, Role, TextInput, TextPart
from dmr_server.dialect import Encoder
from dmr_server.fields import Count, checked, normalised
from dmr_server.media import Media
from dmr_server.ollama.answers import End, LineEncoder, Piece, Truncated, to_whole
from dmr_server.ollama.fields import CommonFields, Need, found_model, read_common, text_of
from dmr_server.ollama.images import needs_of, place_images, read_images
from dmr_server.ollama.logprobs import Logprob
from dmr_server.ollama.wire import timestamp

TokenIds = Annotated[tuple[Count, ...], Meta(max_length=1 << 20)]


class PromptFields(msgspec.Struct, frozen=True):
    """What the prompt is made of."""

    prompt: str
    suffix: str
    system: str
    template: str
    raw: bool
    context: tuple[int, ...]
    images: tuple[Media, ...]


class GenerateAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One line, or the whole answer; most fields are only there when it is done."""

    model: str
    created_at: str
    response: str
    thinking: Union[str, UnsetType] = UNSET
    done: bool
    done_reason: Union[str, UnsetType] = UNSET
    context: Union[tuple[int, ...], UnsetType] = UNSET
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


class GenerateExchange:
    """One request and how to answer it. `created` is its arrival in Unix seconds."""

    def __init__(self, fields: CommonFields, prompt: PromptFields, request: GenerateRequest, created: float) -> None:
        self.request = request
        self.stream = fields.stream
        self.render_only = fields.render_only
        self.is_empty = not prompt.prompt and not prompt.images
        self.needs = fields.needs("generate") + needs_of(request)
        if prompt.suffix and not prompt.template:
            self.needs += (Need("insert", f'"{fields.model}" does not support insert'),)
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

    def _shape(self, piece: Piece, end: End | None) -> GenerateAnswer:
        return GenerateAnswer(
            model=self._model,
            created_at=self._created_at if end is None else timestamp(end.ended_at),
            response=piece.text,
            thinking=piece.thinking,
            logprobs=piece.logprobs,
            done=end is not None,
            context=UNSET if end is None else end.token_ids or UNSET,
            **({} if end is None else end.fields),
        )


def read_generate(body: Mapping[str, Any], created: float) -> GenerateExchange:
    """Understand a request body; raises InvalidRequest and Unsupported, naming the field."""
    body = normalised(body)
    fields = read_common(body)
    found_model(body)
    prompt = _read_prompt(body)
    if prompt.raw and (prompt.template or prompt.system or prompt.context):
        raise InvalidRequest("raw mode does not support template, system, or context", param="raw")
    if fields.think and (prompt.raw or (prompt.suffix and not prompt.template)):
        raise InvalidRequest("raw mode and suffix do not support think", param="think")
    if prompt.images and (prompt.raw or prompt.suffix or (prompt.template and not _is_jinja(prompt.template))):
        raise Unsupported("images need the model's own template: leave out raw, suffix and template", param="images")
    if prompt.suffix and _is_jinja(prompt.template):
        raise InvalidRequest("a Jinja template does not support suffix", param="suffix")
    options = fields.options
    request = GenerateRequest(
        model=fields.model,
        input=_input(fields, prompt),
        sampling=options.sampling,
        given=fields.given,
        max_tokens=options.max_tokens,
        stop=options.stop,
        num_logprobs=fields.num_logprobs,
        response_format=fields.format,
        prefix_tokens=prompt.context,
        return_token_ids=not prompt.raw,
        shift=fields.shift,
        context_size=options.context_size,
        keep_alive=fields.keep_alive,
    )
    return GenerateExchange(fields, prompt, request, created)


def _read_prompt(body: Mapping[str, Any]) -> PromptFields:
    return PromptFields(
        prompt=text_of(body, "prompt"),
        suffix=text_of(body, "suffix"),
        system=text_of(body, "system"),
        template=text_of(body, "template"),
        raw=checked(body.get("raw", False), bool, "raw"),
        context=checked(body.get("context", []), TokenIds, "context"),
        images=read_images(body.get("images"), "images"),
    )


def _input(fields: CommonFields, prompt: PromptFields) -> ChatInput | TextInput:
    if prompt.template and not _is_jinja(prompt.template):
        return TextInput((_rendered(fields, prompt),), truncate=fields.truncate)
    if prompt.raw or prompt.suffix:
        return TextInput((prompt.prompt,), suffix=prompt.suffix or None, truncate=fields.truncate)
    return ChatInput(
        messages=_messages(prompt),
        template=prompt.template,  # Jinja
        enable_thinking=fields.think is not False,
        reasoning_effort=fields.reasoning_effort,
        truncate=fields.truncate,
    )


def _is_jinja(template: str) -> bool:
    return "{%" in template


def _messages(prompt: PromptFields) -> tuple[Message, ...]:
    *before, (role, text) = _turns(prompt)
    told = tuple(Message(each, (TextPart(words),)) for each, words in before)
    return (*told, Message(role, place_images(text, prompt.images) or (TextPart(text),)))


def _turns(prompt: PromptFields) -> list[tuple[Role, str]]:
    system = [(Role.SYSTEM, prompt.system)] if prompt.system else []
    return [*system, (Role.USER, prompt.prompt)]


def _rendered(fields: CommonFields, prompt: PromptFields) -> str:
    """The prompt that the request's own Go template makes."""
    messages = [] if prompt.suffix else [{"role": role.value, "content": text} for role, text in _turns(prompt)]
    values = {
        "System": prompt.system,
        "Prompt": prompt.prompt,
        "Suffix": prompt.suffix,
        "Response": "",
        "Messages": messages,
        "Tools": [],
        "Think": bool(fields.think),
        "ThinkLevel": fields.reasoning_effort or "",
        "IsThinkSet": fields.think is not None,
    }
    return GoTemplate(prompt.template).render(values, date.today())
