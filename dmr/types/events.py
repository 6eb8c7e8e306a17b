"""What comes back while a model answers: usage, log probabilities, and the events of a stream."""

from __future__ import annotations

import enum
from typing import Union

from dmr.types.value import Value


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
    """Seconds, seen from the engine; `load` is added by the service."""

    queued: float = 0.0  # from arrival to the first step that computed any of it
    prefill: float = 0.0  # from there to the first token
    decode: float = 0.0  # from the first token to the last
    load: float = 0.0  # before all of that: until the model was there


class Started(Value, frozen=True, tag="started"):
    """The request was accepted and queued. `num_prompt_tokens` is the sum over all prompts."""

    num_prompt_tokens: int
    num_cached_tokens: int = 0  # of them, as far as it is known now: `Completed` has the true number
    num_dropped_messages: int = 0  # left out so that the prompt fits (ChatInput.truncate)
    num_dropped_tokens: int = 0  # cut out so that the prompt fits (TextInput.truncate)


class Echo(Value, frozen=True, tag="echo"):
    """The prompt, given back (TextInput.echo), before the choice's first delta.

    With log probabilities there is one entry for each prompt token; the first token has none before it to come from.
    """

    index: int
    text: str
    logprobs: tuple[TokenLogprob | None, ...] = ()


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
    is_context_full: bool = False  # LENGTH, because the context has no room left
    schema_violations: tuple[str, ...] = ()  # where the answer breaks a schema that could not be enforced whole
    token_ids: tuple[int, ...] = ()  # prompt and answer, if GenerateRequest.return_token_ids


class Completed(Value, frozen=True, tag="completed"):
    """All choices have ended; the last event. Usage counts each prompt once, whatever the number of choices."""

    usage: Usage
    timings: Timings = Timings()


class Tick(Value, frozen=True, tag="tick"):
    """Nothing happened for a while: the moment to look whether the client is still there."""


Event = Union[Started, Echo, TextDelta, ReasoningDelta, ToolCallStart, ToolCallDelta, Finished, Completed, Tick]
