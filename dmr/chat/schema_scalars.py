"""Schemas of texts, numbers, booleans and null, as llama.cpp's converter enforces them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from dmr.chat.formats import FORMATS
from dmr.chat.pattern_rewrite import for_grammar
from dmr.chat.schema_document import NUMBER_WORDS

MAX_CHARACTERS = 2000  # of a text whose length is bound
LARGEST = 10**16 - 1  # the grammar's integers have 16 digits at most

_ENFORCED_FORMATS = re.compile(r"date|time|date-time|uuid[1-5]?")

Written = tuple[dict[str, Any], list[str]]  # a schema, and the keywords that it does not enforce


def written_scalar(node: Mapping[str, Any]) -> Written:
    """`node` has one of the four types, and neither alternatives nor references."""
    if node["type"] == "string":
        return _text(node)
    if node["type"] == "integer":
        return _integer(node)
    beyond = [word for word in node if word in NUMBER_WORDS] if node["type"] == "number" else []
    return {"type": node["type"]}, beyond


def _text(node: Mapping[str, Any]) -> Written:
    """Of pattern, format and length the converter takes the first that there is."""
    written: dict[str, Any] = {"type": "string"}
    beyond: list[str] = []
    pattern = for_grammar(node["pattern"]) if "pattern" in node else None
    if pattern is not None:
        written["pattern"] = pattern
    elif "pattern" in node:
        beyond.append("pattern")
    is_enforced = pattern is None and _ENFORCED_FORMATS.fullmatch(node.get("format", "")) is not None
    if "format" in node:
        written["format"] = node["format"]
        if node["format"] in FORMATS and not is_enforced:
            beyond.append("format")
    lengths = {keyword: node[keyword] for keyword in ("minLength", "maxLength") if keyword in node}
    if pattern is not None or is_enforced:
        return written, [*beyond, *lengths]
    is_empty = lengths.get("minLength", 0) > lengths.get("maxLength", math.inf)
    for keyword, bound in lengths.items():
        if bound > MAX_CHARACTERS or is_empty:
            beyond.append(keyword)
        else:
            written[keyword] = bound
    return written, beyond


def _integer(node: Mapping[str, Any]) -> Written:
    given = {word: node[word] for word in node if word in NUMBER_WORDS - {"multipleOf"}}
    beyond = ["multipleOf"] if node.get("multipleOf", 1) != 1 else []
    lows, highs = _bounds_of(node)
    low, high = max(lows, default=-math.inf), min(highs, default=math.inf)
    if low > high or low > LARGEST or high < -LARGEST:
        return {"type": "integer"}, [*beyond, *given]
    if _is_plain(given, lows, highs):
        return {"type": "integer", **given}, beyond
    written: dict[str, Any] = {"type": "integer"}
    if high < 0 and low < -LARGEST:
        low = -LARGEST  # the converter's grammar of negative numbers without a lower bound is no JSON
    if low >= -LARGEST:
        written["minimum"] = int(low)
    if high <= LARGEST:
        written["maximum"] = int(high)
    return written, beyond


def _is_plain(given: Mapping[str, Any], lows: list[float], highs: list[float]) -> bool:
    """Whether the converter understands these bounds as they are."""
    if len(lows) > 1 or len(highs) > 1 or (highs and highs[0] < 0 and not lows):
        return False
    return all(isinstance(bound, int) and abs(bound) < LARGEST for bound in given.values())


def _bounds_of(node: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Lower and upper bounds of integers, both included."""
    lows: list[float] = [math.ceil(node["minimum"])] if "minimum" in node else []
    lows += [math.floor(node["exclusiveMinimum"]) + 1] if "exclusiveMinimum" in node else []
    highs: list[float] = [math.floor(node["maximum"])] if "maximum" in node else []
    highs += [math.ceil(node["exclusiveMaximum"]) - 1] if "exclusiveMaximum" in node else []
    return lows, highs
