"""What the server's HTTP API answers, as far as the command line reads it. Missing fields have defaults."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import msgspec

from dmr.types import ModelConfig


class Model(msgspec.Struct, frozen=True):
    """One element of `GET /models`."""

    id: str
    tags: tuple[str, ...] = ()
    created: int = 0  # Unix seconds
    config: ModelConfig = ModelConfig()
    capabilities: tuple[str, ...] = ()  # of one that is looked at


class ServedModel(msgspec.Struct, frozen=True):
    id: str
    created: int = 0  # Unix seconds


class ServedModels(msgspec.Struct, frozen=True):
    """`GET /v1/models`."""

    data: tuple[ServedModel, ...] = ()


class Runner(msgspec.Struct, frozen=True):
    """One element of `GET /engines/ps`. `keep_alive` is a duration as text, empty when unset."""

    backend_name: str
    model_name: str
    mode: str
    last_used: datetime = datetime.min.replace(tzinfo=timezone.utc)  # means: in use, or never
    in_use: bool = False
    loading: bool = False
    keep_alive: str = ""
    loading_progress: float = 0.0  # 0..1, while it loads


class Unloaded(msgspec.Struct, frozen=True):
    """`POST /engines/unload`."""

    unloaded_runners: int


class TokenList(msgspec.Struct, frozen=True):
    """`POST /v1/tokenize`."""

    tokens: tuple[int, ...]


class Delta(msgspec.Struct, frozen=True):
    content: str | None = None
    reasoning_content: str | None = None


class ChunkChoice(msgspec.Struct, frozen=True):
    delta: Delta = Delta()
    finish_reason: str | None = None


class PromptDetails(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None


class ChunkUsage(msgspec.Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: PromptDetails | None = None


class Chunk(msgspec.Struct, frozen=True):
    """One event of a streamed chat answer. An event that reports an error has `error` and nothing else."""

    choices: tuple[ChunkChoice, ...] = ()
    usage: ChunkUsage | None = None
    error: Any = None


class StepLayer(msgspec.Struct, frozen=True):
    """`size` and `current` in bytes."""

    id: str = ""
    size: int = 0
    current: int = 0


class Step(msgspec.Struct, frozen=True):
    """One line of a pull or a push. `type` is progress, warning, error or success."""

    type: str = ""
    message: str = ""
    layer: StepLayer = StepLayer()
