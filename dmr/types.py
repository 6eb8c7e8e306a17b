"""The neutral vocabulary: what a request is and what comes back, in no vendor's words.

All are frozen values; equal content is equal. Dialects translate to and from these, the engine knows nothing else.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import Any, Union

import msgspec


class Value(msgspec.Struct, frozen=True, omit_defaults=True):
    """Base of every value type."""


# --- what is asked ---------------------------------------------------------------------------------------------------


class Role(str, enum.Enum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class TextPart(Value, frozen=True, tag="text"):
    text: str


Part = TextPart  # media parts join here


class ToolCall(Value, frozen=True):
    """A call that the model made. `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


class Message(Value, frozen=True):
    role: Role
    parts: tuple[Part, ...] = ()
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts)


class Tool(Value, frozen=True):
    """A function that is offered to the model. `parameters` is a JSON Schema as text."""

    name: str
    description: str = ""
    parameters: str = '{"type":"object","properties":{}}'


class ToolChoice(str, enum.Enum):
    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"


class ChatInput(Value, frozen=True, tag="chat"):
    """A conversation; the model's own template turns it into a prompt.

    To force one tool, offer only that one and ask for `ToolChoice.REQUIRED`.
    """

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice.AUTO
    parallel_tool_calls: bool = True
    enable_thinking: bool = True
    template_kwargs: Mapping[str, Any] = {}


class TextInput(Value, frozen=True, tag="text"):
    """Raw prompts, each as text or as token ids. Choice `i` of prompt `p` has index `p * num_choices + i`."""

    prompts: tuple[Union[str, tuple[int, ...]], ...]


class SamplingParams(Value, frozen=True):
    """How the next token is chosen. Defaults and order are those of llama.cpp's common sampler."""

    order: tuple[str, ...] = (  # stages, by llama.cpp's names; "adaptive_p" and "infill" may be added
        "penalties",
        "dry",
        "top_n_sigma",
        "top_k",
        "typ_p",
        "top_p",
        "min_p",
        "xtc",
        "temperature",
    )
    temperature: float = 0.8  # 0 = always the likeliest token
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    top_k: int = 40  # 0 = off
    top_p: float = 0.95  # 1 = off
    min_p: float = 0.05  # 0 = off
    typical_p: float = 1.0  # 1 = off
    top_n_sigma: float = -1.0  # negative = off
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    repeat_last_n: int = 64  # tokens looked back at by the three penalties; -1 = the whole context
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = 64
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    mirostat: int = 0  # 0, 1 or 2
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    adaptive_target: float = -1.0  # negative = off
    adaptive_decay: float = 0.9
    min_keep: int = 0
    seed: int | None = None  # None = a fresh one for each request
    logit_bias: tuple[tuple[int, float], ...] = ()
    ignore_eos: bool = False


class ResponseFormat(Value, frozen=True):
    """A constraint on the answer: a JSON Schema as text, or a GBNF grammar. One of the two is empty."""

    json_schema: str = ""
    grammar: str = ""


class GenerateRequest(Value, frozen=True):
    """All that the engine needs to know to answer. Whether the answer is streamed is not its business."""

    model: str
    input: Union[ChatInput, TextInput]
    sampling: SamplingParams = SamplingParams()
    num_choices: int = 1
    max_tokens: int | None = None  # None = as many as the context holds
    stop: tuple[str, ...] = ()
    num_logprobs: int | None = None  # None = none; k = the chosen token's and those of the k likeliest
    response_format: ResponseFormat | None = None
    keep_alive: float | None = None  # seconds the model stays loaded afterwards; negative = for ever
    client: str = ""  # who asks, for fairness between clients


# --- what comes back -------------------------------------------------------------------------------------------------


class FinishReason(str, enum.Enum):
    STOP = "stop"  # end of turn, or a stop sequence
    LENGTH = "length"  # max_tokens, or the context is full
    TOOL_CALLS = "tool_calls"


class TokenProbability(Value, frozen=True):
    """One token and its natural-log probability under the model's own distribution (before any sampler)."""

    token: int
    data: bytes  # the token's bytes; may be part of a character
    logprob: float


class TokenLogprob(Value, frozen=True):
    """The token that was chosen, and the likeliest ones at that place, likeliest first."""

    chosen: TokenProbability
    top: tuple[TokenProbability, ...] = ()


class Usage(Value, frozen=True):
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0  # of the prompt: taken from the KV cache, not computed
    num_completion_tokens: int = 0
    num_reasoning_tokens: int = 0


class Timings(Value, frozen=True):
    """Seconds, seen from the engine."""

    queued: float = 0.0  # from arrival to the first step that computed any of it
    prefill: float = 0.0  # from there to the first token
    decode: float = 0.0  # from the first token to the last


class Started(Value, frozen=True, tag="started"):
    """The request was accepted and queued. `num_prompt_tokens` is the sum over all prompts."""

    num_prompt_tokens: int


class TextDelta(Value, frozen=True, tag="text"):
    index: int
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


class ReasoningDelta(Value, frozen=True, tag="reasoning"):
    index: int
    text: str


class ToolCallStart(Value, frozen=True, tag="tool_call_start"):
    """A tool call begins. `call_index` counts the calls of this choice from 0."""

    index: int
    call_index: int
    id: str
    name: str


class ToolCallDelta(Value, frozen=True, tag="tool_call_delta"):
    index: int
    call_index: int
    arguments: str


class Finished(Value, frozen=True, tag="finished"):
    """One choice has ended. `stop_sequence` names the stop string that ended it, if one did."""

    index: int
    reason: FinishReason
    stop_sequence: str | None = None


class Completed(Value, frozen=True, tag="completed"):
    """All choices have ended; the last event. Usage counts each prompt once, whatever the number of choices."""

    usage: Usage
    timings: Timings = Timings()


class Tick(Value, frozen=True, tag="tick"):
    """Nothing happened for a while: the moment to look whether the client is still there."""


Event = Union[Started, TextDelta, ReasoningDelta, ToolCallStart, ToolCallDelta, Finished, Completed, Tick]


class Choice(Value, frozen=True):
    """A whole answer, collected from its events."""

    index: int
    text: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    logprobs: tuple[TokenLogprob, ...]
    finish_reason: FinishReason
    stop_sequence: str | None


class Completion(Value, frozen=True):
    choices: tuple[Choice, ...]
    usage: Usage
    timings: Timings


class _ChoiceBuilder:
    def __init__(self) -> None:
        self.text: list[str] = []
        self.reasoning: list[str] = []
        self.calls: list[tuple[str, str, list[str]]] = []
        self.logprobs: list[TokenLogprob] = []
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
        )


def collect(events: Iterable[Event]) -> Completion:
    """Fold a stream of events into the whole answer. The only way a non-streamed answer is made."""
    builders: dict[int, _ChoiceBuilder] = {}
    end = Completed(Usage())
    for event in events:
        if isinstance(event, (Started, Tick)):
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
        else:
            builder.finished = event
    return Completion(tuple(b.build(i) for i, b in sorted(builders.items())), end.usage, end.timings)


# --- models ----------------------------------------------------------------------------------------------------------


class ModelConfig(Value, frozen=True):
    """What a model's config blob says about it, in the flat shape of the Docker config v0.1."""

    format: str = ""
    quantization: str = ""
    parameters: str = ""  # "134.52M"
    architecture: str = ""
    size: str = ""  # "91.73MiB"
    gguf: Mapping[str, str] = {}
    context_size: int | None = None


class ModelRecord(Value, frozen=True):
    """One model of the store. `id` is the manifest's digest, `tags` are fully qualified references."""

    id: str
    tags: tuple[str, ...]
    created: int  # Unix seconds
    config: ModelConfig


class RunningModel(Value, frozen=True):
    """One loaded model, as `ps` shows it."""

    id: str
    reference: str  # as typed by whoever loaded it
    state: str  # "loading" | "ready"
    num_active: int  # requests that hold it now
    loaded_at: float  # Unix seconds
    last_used: float  # Unix seconds
    keep_alive: float  # seconds; negative = for ever
    pid: int


class Removal(Value, frozen=True):
    """What `remove` did, in order."""

    untagged: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
