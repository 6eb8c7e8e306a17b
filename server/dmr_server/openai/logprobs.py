"""Log probabilities in their two wire forms: by token for chat, in parallel lists for completions."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import Union

import msgspec

from dmr.types import Echo, TokenLogprob, TokenProbability

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
    token_logprobs: list[Union[float, None]]
    top_logprobs: list[Union[dict[str, float], None]]
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

    def skip(self, text: str) -> None:
        """Text whose tokens are not told."""
        self._offset += len(text)


def to_text_logprobs(logprobs: Iterable[TokenLogprob], offsets: TextOffsets, echo: Echo | None = None) -> TextLogprobs:
    """`choices[].logprobs` of completions, those of the echoed prompt first."""
    wire = TextLogprobs([], [], [], [])
    if echo is not None:
        _add_echo(wire, echo, offsets)
    for entry in logprobs:
        _add(wire, entry, offsets)
    return wire


def _add(wire: TextLogprobs, entry: TokenLogprob, offsets: TextOffsets) -> None:
    # The chosen token is always among the top ones.
    token, logprob = _unique(entry.chosen.data), _finite(entry.chosen)
    wire.tokens.append(token)
    wire.token_logprobs.append(logprob)
    wire.top_logprobs.append({**{_unique(each.data): _finite(each) for each in entry.top}, token: logprob})
    wire.text_offset.append(offsets.next(entry.chosen.data))


def _add_echo(wire: TextLogprobs, echo: Echo, offsets: TextOffsets) -> None:
    if not echo.logprobs:
        offsets.skip(echo.text)
    for position, entry in enumerate(echo.logprobs):
        if entry is not None:
            _add(wire, entry, offsets)
            continue
        data = _unscored(echo, position)
        wire.tokens.append(_unique(data))
        wire.token_logprobs.append(None)
        wire.top_logprobs.append(None)
        wire.text_offset.append(offsets.next(data))


def _unscored(echo: Echo, position: int) -> bytes:
    """The bytes of the first token, which has no log probability: what the others leave of the text."""
    rest = b"".join(entry.chosen.data for entry in echo.logprobs if entry is not None)
    text = echo.text.encode()
    return text[: max(0, len(text) - len(rest))] if position == 0 else b""


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
