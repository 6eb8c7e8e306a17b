"""Log probabilities as Ollama writes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Union

import msgspec
from msgspec import UNSET, UnsetType

from dmr.types import TokenLogprob, TokenProbability

LOWEST = -9999.0  # JSON has no infinity


class TopLogprob(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int]


class Logprob(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: Union[list[TopLogprob], UnsetType] = UNSET


def to_logprobs(entries: Iterable[TokenLogprob]) -> list[Logprob]:
    """One entry for each token. A token that is a part of a character has its true bytes, its text is a stand-in."""
    return [_logprob(entry) for entry in entries]


def _logprob(entry: TokenLogprob) -> Logprob:
    token, value, data = _parts(entry.chosen)
    return Logprob(token, value, data, [TopLogprob(*_parts(each)) for each in entry.top] if entry.top else UNSET)


def _parts(probability: TokenProbability) -> tuple[str, float, list[int]]:
    text = probability.data.decode("utf-8", "replace")
    return text, max(LOWEST, probability.logprob), list(probability.data)
