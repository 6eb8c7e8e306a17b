"""More choices are computed than given: the likeliest ones go out."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from dmr.errors import InvalidRequest
from dmr.types import Completed, Echo, Event, GenerateRequest, Started, TextDelta, Tick


def num_computed(request: GenerateRequest) -> int:
    """Choices to compute for each prompt. Raises InvalidRequest: fewer than are to be given."""
    if request.best_of is None:
        return request.num_choices
    if request.best_of < request.num_choices:
        raise InvalidRequest(
            f"best_of is {request.best_of}, but must be at least the number of choices, {request.num_choices}.",
            param="best_of",
        )
    return request.best_of


def likeliest(
    events: Iterator[Event], request: GenerateRequest, num_computed: int, likelihood: Callable[[int], float]
) -> Iterator[Event]:
    """The events of each prompt's likeliest choices, numbered anew, all at the end: only then it is known which.

    `likelihood`: the mean log probability of a choice's tokens, by its index; asked when all are done.
    """
    held: dict[int, list[Event]] = {}
    for event in events:
        if isinstance(event, (Started, Tick)):
            yield event
        elif isinstance(event, Completed):
            yield from _chosen(held, request, num_computed, likelihood)
            yield event
        else:
            held.setdefault(event.index, []).append(event)
            yield Tick()  # the moment to see that the client has left


def _chosen(
    held: dict[int, list[Event]], request: GenerateRequest, num_computed: int, likelihood: Callable[[int], float]
) -> Iterator[Event]:
    by_prompt: dict[int, list[int]] = {}
    for index in sorted(held):
        by_prompt.setdefault(index // num_computed, []).append(index)
    for prompt, indices in by_prompt.items():
        best = sorted(indices, key=likelihood, reverse=True)[: request.num_choices]
        for rank, index in enumerate(best):
            for event in held[index]:
                yield from _renumbered(event, prompt * request.num_choices + rank, request.num_logprobs is not None)


def _renumbered(event: Event, index: int, with_logprobs: bool) -> Iterator[Event]:
    if isinstance(event, (TextDelta, Echo)) and not with_logprobs:  # they were only computed to compare
        event = msgspec.structs.replace(event, logprobs=())
        if not event.text:
            return
    yield msgspec.structs.replace(event, index=index)
