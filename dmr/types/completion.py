"""Whole answers, collected from their events."""

from __future__ import annotations

from collections.abc import Iterable

from dmr.types.chat import ToolCall
from dmr.types.events import (
    Completed,
    Echo,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    Tick,
    Timings,
    TokenLogprob,
    ToolCallDelta,
    ToolCallStart,
    Usage,
)
from dmr.types.value import Value


class Choice(Value, frozen=True):
    """A whole answer, collected from its events."""

    index: int
    text: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    logprobs: tuple[TokenLogprob, ...]
    finish_reason: FinishReason
    stop_sequence: str | None
    echo: Echo | None = None
    is_context_full: bool = False
    schema_violations: tuple[str, ...] = ()
    token_ids: tuple[int, ...] = ()


class Completion(Value, frozen=True):
    choices: tuple[Choice, ...]
    usage: Usage
    timings: Timings
    started: Started = Started(0)


class _ChoiceBuilder:
    def __init__(self) -> None:
        self.text: list[str] = []
        self.reasoning: list[str] = []
        self.calls: list[tuple[str, str, list[str]]] = []
        self.logprobs: list[TokenLogprob] = []
        self.echo: Echo | None = None
        self.finished: Finished | None = None

    def build(self, index: int) -> Choice:
        assert self.finished is not None, "Completed came before Finished"
        return Choice(
            index=index,
            text="".join(self.text),
            reasoning="".join(self.reasoning),
            tool_calls=tuple(ToolCall(id, name, "".join(arguments)) for id, name, arguments in self.calls),
            logprobs=tuple(self.logprobs),
            finish_reason=self.finished.reason,
            stop_sequence=self.finished.stop_sequence,
            echo=self.echo,
            is_context_full=self.finished.is_context_full,
            schema_violations=self.finished.schema_violations,
            token_ids=self.finished.token_ids,
        )


def collect(events: Iterable[Event]) -> Completion:
    """Fold a stream of events into the whole answer. The only way a non-streamed answer is made."""
    builders: dict[int, _ChoiceBuilder] = {}
    started, end = Started(0), Completed(Usage())
    for event in events:
        if isinstance(event, Tick):
            continue
        if isinstance(event, Started):
            started = event
            continue
        if isinstance(event, Completed):
            end = event
            continue
        builder = builders.setdefault(event.index, _ChoiceBuilder())
        if isinstance(event, TextDelta):
            builder.text.append(event.text)
            builder.logprobs.extend(event.logprobs)
        elif isinstance(event, ReasoningDelta):
            builder.reasoning.append(event.text)
        elif isinstance(event, ToolCallStart):
            builder.calls.append((event.id, event.name, []))
        elif isinstance(event, ToolCallDelta):
            builder.calls[event.call_index][2].append(event.arguments)
        elif isinstance(event, Echo):
            builder.echo = event
        else:
            builder.finished = event
    choices = tuple(builder.build(index) for index, builder in sorted(builders.items()))
    return Completion(choices, end.usage, end.timings, started)


class Embeddings(Value, frozen=True):
    """One vector for each input: 32-bit floats, little-endian."""

    vectors: tuple[bytes, ...]
    num_tokens: tuple[int, ...]  # of each input, begin and end tokens included
    timings: Timings = Timings()


class Scores(Value, frozen=True):
    """One relevance for each pair; higher is better. Only scores of one model can be compared."""

    scores: tuple[float, ...]
    num_tokens: int


class Tokens(Value, frozen=True):
    ids: tuple[int, ...]
    pieces: tuple[bytes, ...] = ()  # the bytes of each, if they were asked for


class TokenCount(Value, frozen=True):
    """What a request would be billed for its prompt, and what the model's context holds."""

    num_prompt_tokens: int
    context_size: int
