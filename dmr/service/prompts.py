"""From a request to what the engine is asked, and how its answer is read."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple, Protocol

import msgspec

from dmr.chat.prompt import RenderedPrompt
from dmr.chat.template import PromptTemplate, grammar_of_format
from dmr.errors import InvalidRequest
from dmr.service import go_prompt
from dmr.service.best_of import num_computed
from dmr.service.media import named_in
from dmr.types import ChatInput, Event, GenerateRequest, ResponseFormat, TextDelta, TextInput, TokenLogprob
from dmr.wire import EngineInfo, EngineMedia, EngineRequest

MAX_TEMPLATES = 64  # that are kept parsed


class Parser(Protocol):
    """Reads one choice."""

    has_tool_calls: bool
    num_reasoning_tokens: int

    @property
    def text(self) -> str: ...
    def feed(self, text: str, logprobs: tuple[TokenLogprob, ...] = (), num_tokens: int = 1) -> list[Event]: ...
    def finish(self) -> list[Event]: ...


class TextParser:
    """Reads a completion, whose text is not looked into."""

    has_tool_calls = False
    num_reasoning_tokens = 0

    def __init__(self, index: int) -> None:
        self._index = index
        self._texts: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._texts)

    def feed(self, text: str, logprobs: tuple[TokenLogprob, ...] = (), num_tokens: int = 1) -> list[Event]:
        self._texts.append(text)
        return [TextDelta(self._index, text, logprobs)] if text or logprobs else []

    def finish(self) -> list[Event]:
        return []


class Prepared(NamedTuple):
    """A request in the engine's words, and what reads each choice of its answer, by index."""

    message: EngineRequest
    make_parser: Callable[[int], Parser]


class _Place:
    """Where one template is kept once it is read."""

    def __init__(self) -> None:
        self.lock = threading.Lock()  # of the reading, which may take long
        self.template: PromptTemplate | None = None


class Templates:
    """The templates of loaded models, each read once. Any thread; no model waits for another's."""

    def __init__(self) -> None:
        self._places: dict[EngineInfo, _Place] = {}
        self._lock = threading.Lock()

    def render(self, info: EngineInfo, chat: ChatInput, response_format: ResponseFormat | None) -> RenderedPrompt:
        """Raises InvalidRequest, Unsupported."""
        try:
            if go_prompt.is_go(chat.template):
                return go_prompt.render(self._of(info), info, chat, response_format)
            return self._of(info).render(chat, response_format)
        except UnicodeEncodeError as error:
            raise InvalidRequest(f"The text is not valid Unicode: {error.reason}.", param="messages") from error

    def _of(self, info: EngineInfo) -> PromptTemplate:
        with self._lock:
            place = self._places.pop(info, None) or _Place()
            self._places[info] = place  # as the latest that was used
            if len(self._places) > MAX_TEMPLATES:
                del self._places[next(iter(self._places))]
        with place.lock:
            if place.template is None:
                place.template = PromptTemplate(info)
            return place.template


def prepare_chat(request: GenerateRequest, prompt: RenderedPrompt, media: tuple[EngineMedia, ...] = ()) -> Prepared:
    """The engine's part of a chat. `media`: those that the prompt may name."""
    text, named = named_in(prompt.text, media)
    # What the template adds comes last, so that a request's own stop strings keep their place.
    stop = request.stop + tuple(text for text in prompt.stop if text not in request.stop)
    message = msgspec.structs.replace(
        _plain_message(request),
        prompts=(text,),
        media=named,
        literals=prompt.literals,
        stop=stop,
        grammar=prompt.grammar,
        preserved_tokens=prompt.preserved_tokens,
        thought_limit=prompt.thought_limit,
        # Who wants both gets the middle cut out, as far as leaving out turns was not enough.
        truncate=isinstance(request.input, ChatInput) and request.input.truncate and request.shift is not None,
    )
    return Prepared(message, prompt.parser)


def prepare_text(request: GenerateRequest, raw: TextInput) -> Prepared:
    """The engine's part of a completion. Raises InvalidRequest."""
    message = msgspec.structs.replace(
        _plain_message(request),
        prompts=raw.prompts,
        grammar=grammar_of_format(request.response_format) if request.response_format else None,
        suffix=raw.suffix,
        echo=raw.echo,
        truncate=raw.truncate,
    )
    return Prepared(message, TextParser)


def _plain_message(request: GenerateRequest) -> EngineRequest:
    num_choices = num_computed(request)
    num_logprobs = request.num_logprobs
    if num_choices > request.num_choices and num_logprobs is None:
        num_logprobs = 0  # how likely a choice is must be known to compare
    return EngineRequest(
        prompts=(),
        sampling=request.sampling,
        num_choices=num_choices,
        max_tokens=request.max_tokens,
        stop=request.stop,
        num_logprobs=num_logprobs,
        client=request.client,
        weight=request.weight,
        prefix_tokens=request.prefix_tokens,
        shift=request.shift,
        return_token_ids=request.return_token_ids,
        context_size=request.context_size,
    )
