"""Log probabilities in their two wire forms: by token for chat, in parallel lists for completions."""

from __future__ import annotations

import codecs
from collections.abc import Iterable

import msgspec

from dmr.types import TokenLogprob, TokenProbability

LOWEST = -9999.0  # JSON has no infinity; this is OpenAI's own stand-in


class TopLogprob(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True):
    content: list[ChatLogprob]
    refusal: None = None


class TextLogprobs(msgspec.Struct, frozen=True):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]  # characters


def to_chat_logprobs(logprobs: Iterable[TokenLogprob]) -> ChatLogprobs:
    """`choices[].logprobs` of chat completions."""
    return ChatLogprobs([_chat_logprob(entry) for entry in logprobs])


def _chat_logprob(entry: TokenLogprob) -> ChatLogprob:
    chosen = entry.chosen
    top = [TopLogprob(_readable(each.data), _finite(each), list(each.data)) for each in entry.top]
    return ChatLogprob(_readable(chosen.data), _finite(chosen), list(chosen.data), top)


class TextOffsets:
    """Where each token begins in the text of one choice, across chunks; a token that ends a character counts it."""

    def __init__(self, start: int = 0) -> None:
        self._offset = start
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def next(self, data: bytes) -> int:
        begin = self._offset
        self._offset += len(self._decoder.decode(data))
        return begin


def to_text_logprobs(logprobs: Iterable[TokenLogprob], offsets: TextOffsets) -> TextLogprobs:
    """`choices[].logprobs` of completions. The chosen token is always among the top ones."""
    wire = TextLogprobs([], [], [], [])
    for entry in logprobs:
        token, logprob = _unique(entry.chosen.data), _finite(entry.chosen)
        wire.tokens.append(token)
        wire.token_logprobs.append(logprob)
        wire.top_logprobs.append({**{_unique(each.data): _finite(each) for each in entry.top}, token: logprob})
        wire.text_offset.append(offsets.next(entry.chosen.data))
    return wire


def _finite(probability: TokenProbability) -> float:
    return max(probability.logprob, LOWEST)


def _readable(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _unique(data: bytes) -> str:
    # Parts of characters would all read the same and fall together as keys; "bytes:" is OpenAI's own spelling.
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
