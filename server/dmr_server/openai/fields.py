"""The request fields that chat completions, completions and infill share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, Union

import msgspec
from msgspec import UNSET, Meta, UnsetType

from dmr.errors import InvalidRequest, Unsupported
from dmr_server.fields import INT32_MAX, MAX_STOPS, StopString, checked

# Wishes of other servers' clients that would change the answer: refused rather than overlooked.
REFUSED: Mapping[str, str] = {
    "allowed_token_ids": "use 'logit_bias'",
    "bad_words": "use 'logit_bias'",
    "grammar_lazy": "a grammar holds from the first token",
    "include_stop_str_in_output": "a stop string is never a part of the answer",
    "length_penalty": "beam search is not available",
    "lora": "adapters are not available",
    "min_tokens": "a minimum length is not available; 'ignore_eos' with 'max_tokens' gives an exact one",
    "n_cmpl": "use 'n'",
    "n_indent": "a minimum indentation is not available",
    "post_sampling_probs": "log probabilities are those of the model itself, before any sampler",
    "prompt_logprobs": "use 'echo' with 'logprobs' at /v1/completions",
    "response_fields": "answers come whole",
    "return_token_ids": "answers come as text; see /tokenize",
    "return_tokens": "answers come as text; see /tokenize",
    "stop_token_ids": "use 'stop'",
    "t_max_predict_ms": "a time limit is not available; use 'max_tokens'",
    "truncate_prompt_tokens": "prompts are never cut",
    "use_beam_search": "beam search is not available",
}
REFUSED_IF_FALSE: Mapping[str, str] = {
    "add_special_tokens": "begin and end tokens are those that the model wants",
    "detokenize": "answers come as text",
    "parse_tool_calls": "tool calls are always told apart from the text",
    "skip_special_tokens": "special tokens are never a part of the text",
}

TokenLimit = Annotated[int, Meta(ge=-1, le=INT32_MAX)]  # -1 = as many as the context holds


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: Union[bool, None] = None
    continuous_usage_stats: Union[bool, None] = None


class CommonFields(msgspec.Struct, frozen=True, kw_only=True):
    """Fields of all three endpoints, checked one by one. Sampling fields are read by `read_sampling`."""

    model: str
    stream: bool = False
    stream_options: Union[StreamOptions, UnsetType] = UNSET
    n: Annotated[int, Meta(ge=1, le=128)] = 1
    stop: Union[StopString, Annotated[tuple[StopString, ...], Meta(max_length=MAX_STOPS)]] = ()
    n_predict: Union[TokenLimit, UnsetType] = UNSET  # llama-server's name of max_tokens

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else self.stop

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not UNSET and bool(self.stream_options.include_usage)


Fields = TypeVar("Fields", bound=CommonFields)


def read_fields(body: Mapping[str, Any], kind: type[Fields]) -> Fields:
    """Check a whole request body against its struct and across its common fields; raises InvalidRequest."""
    fields = checked(body, kind)
    if fields.stream_options is not UNSET:
        if not fields.stream:
            raise InvalidRequest("'stream_options' is only allowed when 'stream' is true.", param="stream_options")
        if fields.stream_options.continuous_usage_stats:
            name = "stream_options.continuous_usage_stats"
            raise Unsupported(f"'{name}' is not supported: use 'include_usage'.", param=name)
    for name, reason in REFUSED.items():
        if body.get(name):
            raise Unsupported(f"'{name}' is not supported: {reason}.", param=name)
    for name, reason in REFUSED_IF_FALSE.items():
        if body.get(name) is False:
            raise Unsupported(f"'{name}' cannot be false: {reason}.", param=name)
    return fields


def given_names(body: Mapping[str, Any]) -> frozenset[str]:
    """Which of "stop" and "max_tokens" a (normalised) body sets."""
    limits = {"max_tokens", "max_completion_tokens", "n_predict"} & body.keys()
    return frozenset({*({"max_tokens"} if limits else ()), *({"stop"} if body.get("stop") else ())})


def limit_of(*limits: int | UnsetType) -> int | None:
    """The first limit that is given; -1 and none at all both mean None, as many as the context holds."""
    given = next((limit for limit in limits if limit is not UNSET), -1)
    return None if given == -1 else given
