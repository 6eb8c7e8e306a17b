"""Requests for text, on a lease: prepared, counted, sent, read."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import NamedTuple

import msgspec

from dmr.chat.prompt import RenderedPrompt
from dmr.client import EngineClient
from dmr.errors import Unsupported
from dmr.service.answer import Flow
from dmr.service.best_of import likeliest
from dmr.service.leasing import Granted, Waited, wait_for
from dmr.service.media import check_senses, named_in, shown, with_marks
from dmr.service.prompts import Prepared, Templates, prepare_chat, prepare_text
from dmr.service.reading import Check, Reading
from dmr.service.truncation import fit
from dmr.spare_connections import SpareConnections
from dmr.types import ChatInput, Event, GenerateRequest, Prompt, TextInput, Tick, TokenCount
from dmr.wire import EngineDetokenize, EngineInfo, EngineMedia, EngineText, EngineTokenize, EngineTokens

Media = tuple[EngineMedia, ...]


class _Ready(NamedTuple):
    prepared: Prepared
    num_dropped_messages: int = 0


def _check_generates(request: GenerateRequest, info: EngineInfo) -> None:
    if "generate" not in info.capabilities:
        made_for = "embeddings" if "embed" in info.capabilities else "reranking"
        raise Unsupported(f"The model '{request.model}' is for {made_for}; it cannot generate text.", param="model")


def _with_marks(request: GenerateRequest, info: EngineInfo) -> tuple[GenerateRequest, Media]:
    """Raises Unsupported: the model has no sense for what is in the conversation."""
    if not isinstance(request.input, ChatInput):
        return request, ()
    check_senses(request.input, info.capabilities, request.model)
    chat, media = with_marks(request.input)
    return (msgspec.structs.replace(request, input=chat), media) if media else (request, ())


class Answering:
    """Safe for any number of threads."""

    def __init__(self, spares: SpareConnections | None = None) -> None:
        self._spares = spares  # to engines
        self._templates = Templates()

    def answer(
        self, request: GenerateRequest, check: Check | None, lease: Granted, waited: Waited, flow: Flow
    ) -> Generator[Event, None, None]:
        """`waited`: for the lease. `flow` is told how to follow."""
        _check_generates(request, lease.info)
        engine = EngineClient(lease.socket, self._spares)
        request, media = _with_marks(request, lease.info)
        ready = yield from self._prepare(request, engine, lease.info, media)
        message = ready.prepared.message
        if not flow.in_pieces:
            message = msgspec.structs.replace(message, is_whole=True)
        reading = Reading(
            ready.prepared, request.stop, check, num_dropped_messages=ready.num_dropped_messages, waited=waited
        )
        events: Iterator[Event] = reading.events(engine.generate(message, flow.readiness))
        if message.num_choices > request.num_choices:
            events = likeliest(events, request, message.num_choices, reading.likelihood)
        else:
            flow.reader = reading
        yield from events

    def count(self, request: GenerateRequest, lease: Granted) -> Generator[Tick | TokenCount, None, None]:
        """What `answer` would be billed for the prompt. No step of the engine is needed."""
        engine, info = EngineClient(lease.socket), lease.info
        _check_generates(request, info)
        request, media = _with_marks(request, info)
        if isinstance(request.input, ChatInput):
            prompt, _ = yield from self._fitted(request, request.input, engine, info, media)
            num_tokens = yield from self._count_chat(request, prompt, engine, info, media)
        else:
            num_tokens = 0
            for each in request.input.prompts:
                num_tokens += yield from _count_text(request, request.input, each, engine, info)
        yield TokenCount(num_tokens, _context_size(request, info))

    def render(self, request: GenerateRequest, lease: Granted) -> Generator[Tick | str, None, None]:
        """The prompt as one text; several prompts one below the other."""
        engine = EngineClient(lease.socket)
        request, media = _with_marks(request, lease.info)
        if isinstance(request.input, ChatInput):
            prompt, _ = yield from self._fitted(request, request.input, engine, lease.info, media)
            yield shown(prompt.plain_text()) if media else prompt.plain_text()
            return
        texts: list[str] = []
        for each in request.input.prompts:
            if isinstance(each, str):
                texts.append(each)
            else:
                texts.append((yield from wait_for(engine.ask(EngineDetokenize(each), EngineText))).text)
        yield "\n".join(texts)

    def _prepare(
        self, request: GenerateRequest, engine: EngineClient, info: EngineInfo, media: Media
    ) -> Generator[Tick, None, _Ready]:
        if isinstance(request.input, TextInput):
            return _Ready(prepare_text(request, request.input))
        prompt, num_dropped = yield from self._fitted(request, request.input, engine, info, media)
        return _Ready(prepare_chat(request, prompt, media), num_dropped)

    def _fitted(
        self, request: GenerateRequest, chat: ChatInput, engine: EngineClient, info: EngineInfo, media: Media
    ) -> Generator[Tick, None, tuple[RenderedPrompt, int]]:
        def render(part: ChatInput) -> RenderedPrompt:
            return self._templates.render(info, part, request.response_format)

        if not chat.truncate:
            return render(chat), 0
        room = _context_size(request, info) - len(request.prefix_tokens)
        return (
            yield from fit(
                chat, room, request.max_tokens, render, lambda p: self._count_chat(request, p, engine, info, media)
            )
        )

    def _count_chat(
        self, request: GenerateRequest, prompt: RenderedPrompt, engine: EngineClient, info: EngineInfo, media: Media
    ) -> Generator[Tick, None, int]:
        text, named = named_in(prompt.text, media)
        tokens = yield from _tokenize(engine, EngineTokenize(text, prompt.literals, add_special=True, media=named))
        return _after_prefix(request, info, len(tokens.ids))


def _context_size(request: GenerateRequest, info: EngineInfo) -> int:
    """What this request may use of the engine's context."""
    return info.context_size if request.context_size is None else min(info.context_size, request.context_size)


def _tokenize(engine: EngineClient, question: EngineTokenize) -> Generator[Tick, None, EngineTokens]:
    return (yield from wait_for(engine.ask(question, EngineTokens)))


def _after_prefix(request: GenerateRequest, info: EngineInfo, num_tokens: int) -> int:
    """The earlier tokens have begun the text, so it is not begun again."""
    num_prefix = len(request.prefix_tokens)
    return num_prefix + num_tokens - (1 if num_prefix and info.adds_bos and num_tokens else 0)


def _count_text(
    request: GenerateRequest, raw: TextInput, prompt: Prompt, engine: EngineClient, info: EngineInfo
) -> Generator[Tick, None, int]:
    is_infill = raw.suffix is not None
    if isinstance(prompt, str):
        question = EngineTokenize(prompt, add_special=not is_infill, parse_special=not is_infill)
        num_tokens = len((yield from _tokenize(engine, question)).ids)
    else:
        num_tokens = len(prompt)
    if raw.suffix is not None:
        back = yield from _tokenize(engine, EngineTokenize(raw.suffix, add_special=False, parse_special=False))
        num_tokens += len(back.ids) + 3 + (1 if info.adds_bos else 0)  # before prefix, suffix and middle
    elif isinstance(prompt, str):
        num_tokens = _after_prefix(request, info, num_tokens)
    else:
        num_tokens += len(request.prefix_tokens)
    size = _context_size(request, info)
    if raw.truncate and num_tokens >= size:
        room = size // 4
        return size - max(1, room if request.max_tokens is None else min(room, request.max_tokens))
    return num_tokens
