"""How large a context may be: as wished, or as trained, but never more than fits into the memory that is free."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from dmr.errors import ModelLoadFailed
from dmr.memory.free_memory import Free
from dmr.memory.memory_costs import PADDING, ModelCosts

LEAST_CONTEXT = 512  # tokens; an engine that chooses for itself goes no lower
LARGEST_CONTEXT = 1 << 24  # tokens
MARGIN = 128 << 20  # bytes that stay free at least
MARGIN_SHARE = 10  # and at least this part of what is free: 1/10
SLACK_SHARE = 32  # what is said to fit leaves 1/32 of what could be had
STATES_SHARE = 2  # recurrent states may take 1/2 of what there is

logger = logging.getLogger(__name__)


class ContextPlan(NamedTuple):
    context_size: int  # tokens
    max_sequences: int
    full_size: int  # tokens that it would have with more memory; the same if it has them


def usable_memory(
    host: Free | None, devices: Iterable[Mapping[str, str | int]], offloaded: float, limit: int
) -> Free | None:
    """What a context may take; None = nobody knows of a bound.

    `devices`: as the native side lists them. `offloaded`: the part of the layers that is on a GPU, 0..1. `limit`: bytes
    that somebody has set; then nothing else counts. 0 = none.
    """
    if limit > 0:
        return Free(limit, "what DMR_CONTEXT_BYTES allows")
    bounds = []
    listed = list(devices)
    graphics = [device for device in listed if device["kind"] == "gpu"]
    graphics = graphics or [device for device in listed if device["kind"] == "igpu"]
    on_device = sum(int(device["free_bytes"]) for device in graphics)
    share = offloaded if graphics else 0.0
    if host is not None and share < 1:
        bounds.append(Free(int(without_margin(host.num_bytes) / (1 - share)), host.of))
    if on_device and share > 0:  # a back end that says 0 does not know
        bounds.append(Free(int(without_margin(on_device) / share), "the GPU's memory"))
    return min(bounds, default=None)


def without_margin(num_bytes: int) -> int:
    """What may be taken of so many free bytes."""
    return max(0, num_bytes - max(MARGIN, num_bytes // MARGIN_SHARE))


class ContextPlanner:
    """Fits contexts of one model into what is free."""

    def __init__(
        self,
        costs: ModelCosts,
        free: Free | None,
        max_batch: int,
        max_sequences: int,
        beside_weights: Free | None = None,
    ) -> None:
        """`max_batch`, `max_sequences`: at most; a context that is smaller has less.

        `beside_weights`: what is free as long as the weights stay in memory (None = the same as `free`). The kernel
        would drop pages of theirs rather than fail, but then each token is read from the disk.
        """
        self._costs = costs
        self._free = free
        self._beside_weights = free if beside_weights is None else beside_weights
        self._max_batch = max_batch
        self._max_sequences = max_sequences
        if self._beside_weights is not None and costs.state:
            affordable = self._beside_weights.num_bytes // STATES_SHARE // costs.state
            self._max_sequences = max(1, min(max_sequences, affordable))

    def wished(self, context_size: int) -> ContextPlan:
        """Raises ModelLoadFailed: it does not fit."""
        if not self._fits(context_size, self._free):
            raise self._failure(context_size)
        if not self._fits(context_size, self._beside_weights):
            logger.warning(
                "a context of %d tokens leaves too little memory for the weights: they may be read from the disk anew",
                context_size,
            )
        return self._plan(context_size, context_size)

    def lack_for(self, context_size: int) -> str:
        """What is to be said of a context that does not fit; empty: it does."""
        return "" if self._fits(context_size, self._free) else self._failure(context_size).message

    def chosen(self, full_size: int) -> ContextPlan:
        """As many tokens of `full_size` as fit. Raises ModelLoadFailed: not even the fewest do."""
        if self._fits(full_size, self._beside_weights):
            return self._plan(full_size, full_size)
        least = min(full_size, LEAST_CONTEXT)
        context_size = max(least, self._largest(full_size, self._beside_weights))
        if not self._fits(context_size, self._free):
            raise self._failure(least)
        logger.warning("the context has %d tokens instead of %d: no more fit into memory", context_size, full_size)
        return self._plan(context_size, full_size)

    def _plan(self, context_size: int, full_size: int) -> ContextPlan:
        return ContextPlan(context_size, min(self._max_sequences, self._max_batch, context_size), full_size)

    def _largest(self, limit: int, free: Free | None) -> int:
        """The most tokens that fit, up to `limit`."""
        return PADDING * largest_fitting(lambda count: self._fits(count * PADDING, free), limit // PADDING)

    def _fits(self, context_size: int, free: Free | None) -> bool:
        return free is None or self.needed(context_size) <= free.num_bytes

    def needed(self, context_size: int) -> int:
        max_sequences = self._plan(context_size, context_size).max_sequences
        return self._costs.context(context_size, min(self._max_batch, context_size), max_sequences, max_sequences)

    def _failure(self, context_size: int) -> ModelLoadFailed:
        assert self._free is not None
        needed, free = self.needed(context_size), self._free
        # Who tries again with less finds the memory a little fuller or emptier.
        fitting = self._largest(
            LARGEST_CONTEXT, free._replace(num_bytes=free.num_bytes - free.num_bytes // SLACK_SHARE)
        )
        more = f"{fitting} tokens would fit" if fitting else "no context would fit, so memory must be freed first"
        return ModelLoadFailed.for_want_of_memory(
            f"A context of {context_size} tokens needs {describe_bytes(needed)}, and {describe_bytes(free.num_bytes)} "
            f"of {free.of} can be had; {more}.",
            needed,
            free.num_bytes,
            fitting,
        )


def largest_fitting(fits: Callable[[int], bool], limit: int) -> int:
    """The largest number of 1..limit for which `fits`, which is true up to some number; 0 = for none."""
    low, high = 0, limit + 1
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low


def describe_bytes(num_bytes: int) -> str:
    """ "12.3 GiB", "456 MiB"."""
    if num_bytes >= 1 << 30:
        return f"{num_bytes / (1 << 30):.1f} GiB"
    return f"{-(-num_bytes >> 20)} MiB" if num_bytes >= 1 << 20 else f"{num_bytes} bytes"
