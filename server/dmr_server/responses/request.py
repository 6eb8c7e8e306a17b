"""POST /v1/responses: what a request means."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol, Union

import msgspec
from msgspec import UNSET, Meta, UnsetType

from dmr.errors import InvalidRequest, Unsupported
from dmr.types import ChatInput, Completion, GenerateRequest, Message, ResponseFormat, Role, TextPart
from dmr_server.fields import INT32_MAX, MAX_STOPS, StopString, checked, normalised, read_sampling
from dmr_server.generation import Stamp
from dmr_server.responses.items import Item, ItemReader, to_messages
from dmr_server.responses.stream import AnswerStyle, ResponseEncoder, to_response
from dmr_server.responses.tools import ToolSet, read_tools
from dmr_server.responses.wire import Response, encode

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Summary = Literal["auto", "concise", "detailed"]
Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=16)
]

REFUSED: Mapping[str, str] = {
    "context_management": "use 'truncation', or POST /v1/responses/compact",
    "conversation": "use 'previous_response_id'",
    "moderation": "nothing is moderated here",
    "prompt": "there are no prompt templates; use 'instructions' and 'input'",
}
_SCHEMA_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LOGPROBS = "message.output_text.logprobs"
_SEALED = "reasoning.encrypted_content"
INCLUDABLE = (
    _LOGPROBS,
    _SEALED,
    # Of tools that nobody runs here, so that there is never anything to include.
    "web_search_call.action.sources",
    "web_search_call.results",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
)


class Kept(Protocol):
    """The answers that are kept. Both raise ResponseNotFound or one of its kind."""

    def history(self, id: str) -> list[Item]:
        """All items of the conversation that ended with this answer, oldest first."""

    def find_item(self, id: str) -> Item: ...


class ReasoningOptions(msgspec.Struct, frozen=True):
    effort: Union[Effort, None] = None
    summary: Union[Summary, None] = None
    generate_summary: Union[Summary, None] = None  # the deprecated name


class StreamOptions(msgspec.Struct, frozen=True):
    include_obfuscation: Union[bool, None] = None


class TextOptions(msgspec.Struct, frozen=True):
    format: Union[dict[str, Any], None] = None
    verbosity: Union[Literal["low", "medium", "high"], None] = None


class ResponseFields(msgspec.Struct, frozen=True, kw_only=True):
    """Fields that are checked one by one; tools, input and sampling are read elsewhere."""

    model: str
    instructions: Union[str, None] = None
    previous_response_id: Union[str, None] = None
    include: tuple[str, ...] = ()
    max_output_tokens: Union[Annotated[int, Meta(ge=1, le=INT32_MAX)], None] = None
    max_tool_calls: Union[Annotated[int, Meta(ge=1, le=INT32_MAX)], None] = None
    metadata: Metadata = {}
    parallel_tool_calls: bool = True
    reasoning: ReasoningOptions = ReasoningOptions()
    service_tier: Union[str, UnsetType] = UNSET
    stop: Union[StopString, Annotated[tuple[StopString, ...], Meta(max_length=MAX_STOPS)]] = ()
    store: bool = True
    background: bool = False
    stream: bool = False
    stream_options: Union[StreamOptions, None] = None
    text: TextOptions = TextOptions()
    top_logprobs: Union[Annotated[int, Meta(ge=0, le=20)], None] = None
    truncation: Literal["auto", "disabled"] = "disabled"

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else self.stop

    @property
    def num_logprobs(self) -> int | None:
        return self.top_logprobs or 0 if self.top_logprobs or _LOGPROBS in self.include else None


class ResponseExchange:
    """One request and how to answer it. `items` are its own, without the history's."""

    def __init__(self, request: GenerateRequest, fields: ResponseFields, style: AnswerStyle, items: list[Item]) -> None:
        self.request = request
        self.stream = fields.stream
        self.style = style
        self.items = items

    def encoder(self) -> ResponseEncoder:
        return ResponseEncoder(self.style)

    def to_response(self, completion: Completion) -> Response:
        return to_response(completion, self.style)

    def to_result(self, completion: Completion) -> bytes:
        return encode(self.to_response(completion))


def read_response(body: Mapping[str, Any], stamp: Stamp, kept: Kept, *, can_store: bool = True) -> ResponseExchange:
    """Understand a request body.

    Raises:
        InvalidRequest, Unsupported: naming the field.
        PreviousResponseNotFound, ResponseNotFound: the body refers to an answer that is not kept.
    """
    body = normalised(body)
    fields = checked(body, ResponseFields)
    _check_supported(body, fields, can_store)
    tools = read_tools(body)
    sampling, given = read_sampling(body)
    history = kept.history(fields.previous_response_id) if fields.previous_response_id else []
    items = _read_items(body, stamp, kept)
    request = GenerateRequest(
        model=fields.model,
        input=_chat_input(fields, tools, [*history, *items]),
        sampling=sampling,
        given=given | _given_names(fields),
        max_tokens=fields.max_output_tokens,
        stop=fields.stops,
        num_logprobs=fields.num_logprobs,
        response_format=_read_format(fields.text.format),
    )
    store = fields.store and can_store
    style = AnswerStyle(
        base=_base(body, fields, tools, stamp, store),
        offered=tools.offered,
        with_logprobs=fields.num_logprobs is not None,
        as_summary=_summary_of(fields.reasoning) is not None,
        sealed=_SEALED in fields.include or not store,
    )
    return ResponseExchange(request, fields, style, items)


def _given_names(fields: ResponseFields) -> frozenset[str]:
    limit = {"max_tokens"} if fields.max_output_tokens is not None else set()
    return frozenset(limit | ({"stop"} if fields.stops else set()))


def _check_supported(body: Mapping[str, Any], fields: ResponseFields, can_store: bool) -> None:
    for name, reason in REFUSED.items():
        if body.get(name):
            raise Unsupported(f"'{name}' is not supported: {reason}.", param=name)
    for index, name in enumerate(fields.include):
        if name not in INCLUDABLE:
            path = f"include[{index}]"
            raise InvalidRequest(f"Invalid value for '{path}': expected one of {', '.join(INCLUDABLE)}.", param=path)
    if fields.stream_options is not None and not fields.stream:
        raise InvalidRequest("'stream_options' is only allowed when 'stream' is true.", param="stream_options")
    if fields.background and not fields.store:
        raise InvalidRequest("'background' needs 'store': the answer could not be fetched.", param="background")
    if fields.background and not can_store:
        raise Unsupported("'background' is not supported: no answers can be kept here.", param="background")


def _read_items(body: Mapping[str, Any], stamp: Stamp, kept: Kept) -> list[Item]:
    if "input" not in body:
        raise InvalidRequest("Missing required parameter: 'input'.", param="input")
    items = ItemReader(suffix_of(stamp.id), kept.find_item).read(body["input"])
    if not items:
        raise InvalidRequest("Invalid value for 'input': expected at least one item to answer.", param="input")
    return items


def suffix_of(id: str) -> str:
    """The part of a response's id that its items' ids share."""
    return id.partition("_")[2]


def _chat_input(fields: ResponseFields, tools: ToolSet, items: Sequence[Item]) -> ChatInput:
    messages = to_messages(items)
    if fields.instructions:
        messages = (Message(Role.SYSTEM, (TextPart(fields.instructions),)), *messages)
    effort = fields.reasoning.effort
    return ChatInput(
        messages=messages,
        tools=tools.tools,
        tool_choice=tools.choice,
        allowed_tools=tools.allowed,
        parallel_tool_calls=fields.parallel_tool_calls,
        enable_thinking=effort != "none",
        reasoning_effort=None if effort == "none" else effort,
        truncate=fields.truncation == "auto",
    )


def _read_format(wanted: dict[str, Any] | None) -> ResponseFormat | None:
    kind = (wanted or {}).get("type", "text")
    if wanted is None or kind == "text":
        return None
    if kind == "json_object":
        return ResponseFormat(json_schema='{"type":"object"}')
    if kind != "json_schema":
        raise InvalidRequest(
            "Invalid value for 'text.format.type': expected 'text', 'json_object' or 'json_schema'.",
            param="text.format.type",
        )
    inner = wanted.get("json_schema")  # as chat completions has it
    path = "text.format"
    if isinstance(inner, dict):
        wanted, path = inner, "text.format.json_schema"
    name = checked(wanted.get("name"), str, f"{path}.name")
    if not _SCHEMA_NAME.fullmatch(name):
        raise InvalidRequest(
            f"Invalid value for '{path}.name': expected 1 to 64 letters, digits, '_' and '-'.", param=f"{path}.name"
        )
    schema = checked(wanted.get("schema"), dict[str, Any], f"{path}.schema")
    strict = wanted.get("strict")
    return ResponseFormat(
        json_schema=msgspec.json.encode(schema).decode(),
        strict=False if strict is None else checked(strict, bool, f"{path}.strict"),
    )


def _summary_of(options: ReasoningOptions) -> str | None:
    return options.summary or options.generate_summary


def _base(body: Mapping[str, Any], fields: ResponseFields, tools: ToolSet, stamp: Stamp, store: bool) -> Response:
    return Response(
        id=stamp.id,
        created_at=stamp.created,
        background=fields.background,
        instructions=fields.instructions,
        max_output_tokens=fields.max_output_tokens,
        max_tool_calls=fields.max_tool_calls,
        model=fields.model,
        parallel_tool_calls=fields.parallel_tool_calls,
        previous_response_id=fields.previous_response_id,
        reasoning={"effort": fields.reasoning.effort, "summary": _summary_of(fields.reasoning)},
        service_tier=UNSET if fields.service_tier is UNSET else "default",
        store=store,
        # What the model's own defaults make of it is not known here: only what was asked for is told.
        temperature=body.get("temperature"),
        text={"format": fields.text.format or {"type": "text"}},
        tool_choice=body.get("tool_choice", "auto"),
        tools=tools.told,
        top_logprobs=fields.top_logprobs or 0,
        top_p=body.get("top_p"),
        truncation=fields.truncation,
        metadata=fields.metadata,
    )
