"""Prompt texts with pictures and sounds to tokens, and to the spans that these take."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from dmr.engine.media_reader import Medium
from dmr.engine.media_spans import MediaSpan, place_ids
from dmr.engine.prompt_text import Vocabulary, tokenize_prompt
from dmr.errors import InvalidRequest
from dmr.wire import MEDIA_CLOSE, MEDIA_OPEN

_MEDIUM = re.compile(f"{MEDIA_OPEN}([0-9]{{1,9}}){MEDIA_CLOSE}")
_MARK = re.compile(f"[{MEDIA_OPEN}{MEDIA_CLOSE}]")


class MediaPrompt(NamedTuple):
    token_ids: list[int]  # negative for the places of a piece, the same for the same piece of the same file
    spans: list[MediaSpan]


def tokenize_media_prompt(
    vocabulary: Vocabulary,
    text: str,
    media: Sequence[Medium],
    literals: Sequence[str] = (),
    *,
    add_special: bool = True,
    parse_special: bool = True,
) -> MediaPrompt:
    """Text between two pictures is tokenized for itself.

    Raises:
        InvalidRequest: a place in the text names no literal or medium, or no text follows the last medium.
    """
    parts = _MEDIUM.split(text)
    if any(_MARK.search(part) for part in parts[::2]):
        raise InvalidRequest("The prompt holds U+FDD2 or U+FDD3, which are no characters.", param="prompt")
    # Begin and end tokens are what an empty text has.
    around = vocabulary.tokenize("", add_special=True, parse_special=True) if add_special else []
    num_begin = 1 if vocabulary.begin_token >= 0 and around[:1] == [vocabulary.begin_token] else 0
    prompt = MediaPrompt(around[:num_begin], [])
    for part, number in zip(parts[::2], [*parts[1::2], None], strict=True):
        if part:
            more = tokenize_prompt(vocabulary, part, literals, add_special=False, parse_special=parse_special)
            prompt.token_ids.extend(more)
        if number is not None:
            if int(number) >= len(media):
                raise InvalidRequest(f"The prompt names medium {number} of {len(media)}.", param="prompt")
            _append(prompt, media[int(number)])
    prompt.token_ids.extend(around[num_begin:])
    if prompt.token_ids and prompt.token_ids[-1] < 0:
        raise InvalidRequest("Text has to follow the last image or sound.", param="prompt")
    return prompt


def _append(prompt: MediaPrompt, medium: Medium) -> None:
    for number, piece in enumerate(medium.pieces):
        if not piece.num_places:
            prompt.token_ids.extend(piece.tokens)
            continue
        vectors = medium.vectors[number] if medium.vectors else None
        span = MediaSpan(len(prompt.token_ids), piece.num_places, piece.num_positions, piece.is_causal, piece, vectors)
        prompt.spans.append(span)
        name = _name_of(medium.digest, number)
        prompt.token_ids.extend(place_ids(name, piece.num_places, piece.num_positions))


def _name_of(digest: bytes, number: int) -> int:
    """Which no other piece has, for all that can be told."""
    return int.from_bytes(hashlib.blake2b(digest + number.to_bytes(4, "big"), digest_size=12).digest(), "big")
