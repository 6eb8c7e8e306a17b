"""How a user wants one model to run."""

from __future__ import annotations

import enum
from typing import Union

from msgspec import UNSET, UnsetType

from dmr.types.value import Value

AS_TRAINED = -1  # a context size: as many tokens as the model was trained for
UNLIMITED = -1  # a reasoning budget
BACKEND = "llama.cpp"  # the only engine there is


class Mode(str, enum.Enum):
    """What a model is asked for. All modes of a model share one engine."""

    COMPLETION = "completion"
    EMBEDDING = "embedding"
    RERANKING = "reranking"


class ModelConfiguration(Value, frozen=True):
    """None and empty are the server's and the model's own defaults."""

    context_size: int | None = None  # tokens; `AS_TRAINED`
    runtime_flags: tuple[str, ...] = ()  # of llama-server, checked
    draft_model: str | None = None  # reference of a smaller model that guesses
    max_draft_tokens: int | None = None
    least_draft_probability: float | None = None  # below it a guess is not made
    keep_alive: float | None = None  # seconds; negative = for ever
    reasoning_budget: int | None = None  # tokens of thought; 0 = none, `UNLIMITED`


class ConfigurationChange(Value, frozen=True):
    """Fields that are UNSET stay as they are; None goes back to the default."""

    context_size: Union[int, UnsetType, None] = UNSET
    runtime_flags: Union[tuple[str, ...], UnsetType, None] = UNSET  # each replaces the same flag, others stay
    drops_flags: bool = False  # the flags that were set before go first
    draft_model: Union[str, UnsetType, None] = UNSET
    max_draft_tokens: Union[int, UnsetType, None] = UNSET
    least_draft_probability: Union[float, UnsetType, None] = UNSET
    keep_alive: Union[float, UnsetType, None] = UNSET
    reasoning_budget: Union[int, UnsetType, None] = UNSET


class ConfiguredModel(Value, frozen=True):
    """A configuration, and of what."""

    reference: str  # fully qualified, as it was when the configuration was set
    model_id: str
    mode: Mode
    configuration: ModelConfiguration
    backend: str = BACKEND
