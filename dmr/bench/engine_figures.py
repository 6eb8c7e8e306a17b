"""What the engine's own bench is told, what it tells while it runs, and its figures. Lines of JSON between processes.

The names of the figures' fields are those of `dmr bench --engine --json`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Union

import msgspec

from dmr.bench.figures import Percentiles, percentiles
from dmr.config import EngineSettings


class EngineOrder(msgspec.Struct, frozen=True, kw_only=True):
    weights: tuple[str, ...]  # paths
    settings: EngineSettings
    concurrency: tuple[int, ...]
    prompt_tokens: int
    output_tokens: int
    seed: int


class MeasuredStep(NamedTuple):
    num_tokens: int  # of prompts, or new ones
    seconds: float
    native_seconds: float  # of these, those in native code


class StepFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Steps of one kind."""

    steps: int
    tokens: int
    seconds: float
    tokens_per_second: float
    step_seconds: Percentiles
    host_seconds_per_step: float  # outside of native code
    host_share: float  # of the seconds, 0 .. 1


class EngineLevel(msgspec.Struct, frozen=True, kw_only=True):
    concurrency: int
    prefill: StepFigures  # of prompts alone
    decode: StepFigures  # every sequence generates; a step gives each one token, or more where guesses prove right


class Loading(msgspec.Struct, frozen=True, tag="loading"):
    fraction: float


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    description: str
    context_size: int  # tokens of KV memory


class Measured(msgspec.Struct, frozen=True, tag="measured"):
    level: EngineLevel


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    message: str


EngineNews = Union[Loading, Loaded, Measured, Failed]


def step_figures(steps: Sequence[MeasuredStep]) -> StepFigures:
    """`steps`: at least one."""
    seconds = sum(step.seconds for step in steps)
    host = seconds - sum(step.native_seconds for step in steps)
    num_tokens = sum(step.num_tokens for step in steps)
    return StepFigures(
        steps=len(steps),
        tokens=num_tokens,
        seconds=seconds,
        tokens_per_second=num_tokens / seconds,
        step_seconds=percentiles([step.seconds for step in steps]),
        host_seconds_per_step=host / len(steps),
        host_share=host / seconds,
    )
