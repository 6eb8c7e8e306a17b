"""Prompt texts to tokens. What a user typed is never read as a control token, wherever it stands in the prompt."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from dmr.errors import InvalidRequest
from dmr.wire import LITERAL_CLOSE, LITERAL_OPEN

_LITERAL = re.compile(f"{LITERAL_OPEN}([0-9]{{1,9}}){LITERAL_CLOSE}")
_MARK = re.compile(f"[{LITERAL_OPEN}{LITERAL_CLOSE}]")
_NATIVE_SPACE = " \t\n\v\f\r"  # what a control token that strips its surroundings takes away


class Vocabulary(Protocol):
    """What is needed of a model's tokenizer."""

    @property
    def begin_token(self) -> int: ...
    @property
    def control_tokens(self) -> tuple[str, ...]: ...
    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]: ...


class Span(NamedTuple):
    """Characters [start, end) of a text."""

    start: int
    end: int

    def overlaps(self, other: Span) -> bool:
        return self.start < other.end and other.start < self.end


class Expanded(NamedTuple):
    """A prompt's whole text, and where in it the literals stand."""

    text: str
    literals: list[Span]


def expand(text: str, literals: Sequence[str]) -> Expanded:
    """Put the literals into their places. Raises InvalidRequest for a place that names none of them."""
    if not _MARK.search(text):
        return Expanded(text, [])
    parts: list[str] = []
    spans: list[Span] = []
    length, done = 0, 0
    for place in _LITERAL.finditer(text):
        before, number = text[done : place.start()], int(place[1])
        if number >= len(literals):
            raise InvalidRequest(f"The prompt names literal {number} of {len(literals)}.", param="prompt")
        parts += [before, literals[number]]
        start = length + len(before)
        length = start + len(literals[number])
        done = place.end()
        if length > start:
            spans.append(Span(start, length))
    parts.append(text[done:])
    if any(_MARK.search(part) for part in parts[::2]):
        raise InvalidRequest("The prompt holds U+FDD0 or U+FDD1, which are no characters.", param="prompt")
    return Expanded("".join(parts), spans)


def tokenize_prompt(
    vocabulary: Vocabulary,
    text: str,
    literals: Sequence[str] = (),
    add_special: bool = True,
    parse_special: bool = True,
) -> list[int]:
    """Token ids of a text with literals.

    As long as no control token's text touches a literal, that is what the tokenizer makes of the whole text. Where one
    does, the plain text around that literal is tokenized without control tokens. Plain text ends at the control tokens
    around it, where the tokenizer cuts anyway, so that nothing else changes.

    Raises:
        InvalidRequest
    """
    whole, spans = expand(text, literals)
    if not parse_special or not spans or not _touches_literal(vocabulary, whole, spans):
        return vocabulary.tokenize(whole, add_special=add_special, parse_special=parse_special)
    # Begin and end tokens are what an empty text has.
    around = vocabulary.tokenize("", add_special=True, parse_special=True) if add_special else []
    num_begin = 1 if vocabulary.begin_token >= 0 and around[:1] == [vocabulary.begin_token] else 0
    tokens = around[:num_begin]
    for part, is_plain in _parts(vocabulary, whole, spans):
        tokens += vocabulary.tokenize(part, add_special=False, parse_special=not is_plain)
    return tokens + around[num_begin:]


def _touches_literal(vocabulary: Vocabulary, text: str, spans: list[Span]) -> bool:
    """Whether a control token's text stands in a literal, or begins or ends in one."""
    present = [token for token in vocabulary.control_tokens if token in text]
    if not present:
        return False
    longest = max(map(len, present))
    for span in spans:
        nearby = text[max(0, span.start - longest + 1) : span.end + longest - 1]
        offset = span.start - max(0, span.start - longest + 1)
        within = Span(offset, offset + span.end - span.start)
        if any(found.overlaps(within) for token in present for found in _occurrences(nearby, token)):
            return True
    return False


def _occurrences(text: str, token: str) -> list[Span]:
    """All of them, also those that overlap each other."""
    found, at = [], text.find(token)
    while at >= 0:
        found.append(Span(at, at + len(token)))
        at = text.find(token, at + 1)
    return found


def _control_spans(vocabulary: Vocabulary, text: str, literals: list[Span]) -> list[Span]:
    """The control tokens beside the literals, in order. As the tokenizer does: longer ones first."""
    present = sorted((token for token in vocabulary.control_tokens if token in text), key=len, reverse=True)
    # Once for each character: whether it is a literal's or a control token's already.
    taken = bytearray(len(text))
    for span in literals:
        taken[span.start : span.end] = b"\x01" * (span.end - span.start)
    spans: list[Span] = []
    for token in present:
        for span in _occurrences(text, token):
            if not any(taken[span.start : span.end]):
                taken[span.start : span.end] = b"\x01" * len(token)
                spans.append(span)
    return sorted(spans)


def _parts(vocabulary: Vocabulary, text: str, literals: list[Span]) -> list[tuple[str, bool]]:
    """The text cut at control tokens: (part, whether it is plain text around a literal)."""
    controls = _control_spans(vocabulary, text, literals)
    edges = [Span(0, 0), *controls, Span(len(text), len(text))]
    parts: list[tuple[str, bool]] = []
    start = 0  # of what is not in `parts` yet
    remaining = list(reversed(literals))
    for before, after in itertools.pairwise(edges):
        gap = Span(before.end, after.start)
        is_plain = False
        while remaining and remaining[-1].start < gap.end:
            remaining.pop()
            is_plain = True
        if is_plain:
            plain = text[gap.start : gap.end]
            # A part of its own does not feel the control tokens beside it.
            if _strips(vocabulary, text[before.start : before.end] + "\n"):
                plain = plain.lstrip(_NATIVE_SPACE)
            if _strips(vocabulary, "\n" + text[after.start : after.end]):
                plain = plain.rstrip(_NATIVE_SPACE)
            parts += [(text[start : gap.start], False), (plain, True)]
            start = gap.end
    return [(part, is_plain) for part, is_plain in [*parts, (text[start:], False)] if part]


def _strips(vocabulary: Vocabulary, text: str) -> bool:
    """Whether a control token takes the line break at its side away."""
    return len(text) > 1 and len(vocabulary.tokenize(text, add_special=False, parse_special=True)) == 1
