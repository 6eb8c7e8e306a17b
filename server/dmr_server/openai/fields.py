"""The request fields that chat completions and completions share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, Union

import msgspec
from msgspec import UNSET, Meta, UnsetType

from dmr.errors import InvalidRequest, Unsupported
from dmr_server.fields import MAX_STOPS, StopString, checked

# Known wishes of other servers' clients that would change the answer: refused rather than overlooked.
_REFUSED: Mapping[str, str] = {
    "guided_json": "use 'response_format' with a JSON schema",
    "guided_regex": "regular expressions cannot constrain the answer",
    "guided_choice": "use 'response_format' with an enum",
    "guided_grammar": "use 'grammar'",
    "structured_outputs": "use 'response_format'",
    "use_beam_search": "beam search is not available",
    "prompt_logprobs": "log probabilities of the prompt are not available",
    "allowed_token_ids": "use 'logit_bias'",
    "bad_words": "use 'logit_bias'",
    "stop_token_ids": "use 'stop'",
    "min_tokens": "a minimum length is not available; 'ignore_eos' with 'max_tokens' gives an exact one",
    "lora": "adapters are not available",
}


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: Union[bool, None] = None


class CommonFields(msgspec.Struct, frozen=True, kw_only=True):
    """Fields of both endpoints, checked one by one. Sampling fields are read by `read_sampling`."""

    model: str
    stream: bool = False
    stream_options: Union[StreamOptions, UnsetType] = UNSET
    n: Annotated[int, Meta(ge=1, le=128)] = 1
    stop: Union[StopString, Annotated[tuple[StopString, ...], Meta(max_length=MAX_STOPS)]] = ()

    @property
    def given(self) -> frozenset[str]:
        """Which of "stop" and "max_tokens" the client has set."""
        return frozenset({"stop"} if self.stops else ())

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
    if fields.stream_options is not UNSET and not fields.stream:
        raise InvalidRequest("'stream_options' is only allowed when 'stream' is true.", param="stream_options")
    for name, reason in _REFUSED.items():
        if body.get(name):
            raise Unsupported(f"'{name}' is not supported: {reason}.", param=name)
    return fields
