"""What a row of the table is: servers with these settings, this work, these figures, these targets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from dmr.bench.load import Outcome

from .figures import Figures

DEFAULTS, STREAMS, UNIFIED = "defaults", "streams", "unified"
BEST = "best"  # of streams and unified, whichever is better in the metric at hand


class Load(Protocol):
    """What a row may do to the servers under test: one, or two with a model each."""

    async def complete(
        self,
        prompt: str,
        num_tokens: int,
        *,
        model: int = 0,
        key: str | None = None,
        cancel_after: float | None = None,
    ) -> Outcome:
        """Temperature 0, and exactly `num_tokens`. `model`: which of them. `key`: an API key, as clients have."""

    async def embed(self, texts: list[str]) -> Outcome: ...

    async def tokenize(self, text: str) -> list[int]: ...

    async def choices(self, prompt: str, num_tokens: int) -> list[tuple[str, float]]:
        """Of llama-server only: each token of the answer at temperature 0, and by how many nats it led."""


class Setup(NamedTuple):
    """How both sides are started. Tokens."""

    num_sequences: int  # what the peer's best flags are made for
    context_per_sequence: int = 512  # for the peer's best flags
    context: int | None = None  # where KV memory is scarce: as much for everybody; None: each side's own default
    num_models: int = 1
    embeds: bool = False


class Metric(NamedTuple):
    name: str  # in the figures
    label: str
    unit: str
    higher_is_better: bool
    digits: int = 1


class Target(NamedTuple):
    """dmr's figure, divided by the peer's, is at least or at most `bound`, as the metric's direction has it."""

    metric: str
    against: str | None  # a setting of the peer, or BEST; None: the bound is for dmr's figure itself
    bound: float


class Row(NamedTuple):
    name: str
    title: str
    setup: Setup
    # The second argument is a seed, another for each pair of rounds. None: measured in a way of its own (text_check).
    run: Callable[[Load, str], Awaitable[Figures]] | None
    metrics: tuple[Metric, ...]
    targets: tuple[Target, ...] = ()
    short_pairs: int = 3  # of rounds in the short set, which has to fit into a quarter of an hour; 0: not in it
    has_neighbour: bool = False  # a process that wants a whole core

    def metric(self, name: str) -> Metric:
        return next(metric for metric in self.metrics if metric.name == name)
