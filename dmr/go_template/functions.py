"""The functions that Go templates can call, and how Go takes a value as true and as text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from dmr.errors import InvalidRequest

MAX_WIDTH = 1000  # of one printf verb

_VERB = re.compile(r"%([-+# 0]*)([0-9]*)(\.[0-9]+)?(.)", re.DOTALL)


class GoTemplateError(InvalidRequest):
    """A template that cannot be read, or that cannot be carried out with these values."""

    code = "invalid_template"

    def __init__(self, message: str) -> None:
        super().__init__(message, param="template")


def is_true(value: Any) -> bool:
    """Go's truth: not zero and not empty."""
    return bool(value)


def to_text(value: Any) -> str:
    """A value as it is printed; lists and objects as JSON, which is how Ollama prints tools and arguments."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if isinstance(value, int) else _json(value)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(key, int) and not isinstance(key, bool) and key >= 0:
            value = ord(value[key]) if isinstance(value, str) else value[key]
        else:
            raise ValueError
    return value


def _slice(value: Any, start: int = 0, end: int | None = None) -> Any:
    end = len(value) if end is None else end
    if not 0 <= start <= end <= len(value):
        raise IndexError
    return value[start:end]


def _length(value: Any) -> int:
    return len(value.encode()) if isinstance(value, str) else len(value or ())


def _equal(first: Any, *others: Any) -> bool:
    if not others:
        raise TypeError
    return any((first or "") == (other or "") if None in (first, other) else first == other for other in others)


def _print(*values: Any) -> str:
    """With a space between two that are both no text."""
    texts = []
    for place, value in enumerate(values):
        if place and not isinstance(value, str) and not isinstance(values[place - 1], str):
            texts.append(" ")
        texts.append(to_text(value))
    return "".join(texts)


def _println(*values: Any) -> str:
    return " ".join(map(to_text, values)) + "\n"


def _printf(pattern: str, *values: Any) -> str:
    remaining = list(values)

    def verb(found: re.Match[str]) -> str:
        flags, width, precision, kind = found.groups()
        if kind == "%":
            return "%"
        if int(width or 0) > MAX_WIDTH or int((precision or ".0")[1:]) > MAX_WIDTH:
            raise GoTemplateError(f"The template prints with a width of more than {MAX_WIDTH}.")
        value = remaining.pop(0)
        return _formatted(kind, flags, width, precision or "", value)

    return _VERB.sub(verb, pattern)


def _formatted(kind: str, flags: str, width: str, precision: str, value: Any) -> str:
    if kind in "sv" or (kind == "t" and isinstance(value, bool)):
        return f"%{flags.replace('0', '')}{width}{precision}s" % to_text(value)
    if kind == "q":
        return json.dumps(to_text(value), ensure_ascii=False)
    if kind in "dxXofeEgG":
        return str(f"%{flags}{width}{precision}{kind}" % value)
    raise ValueError


def _less(first: Any, second: Any) -> bool:
    return bool(first < second)


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "not": lambda value: not is_true(value),
    "len": _length,
    "index": _index,
    "slice": _slice,
    "json": _json,
    "print": _print,
    "println": _println,
    "printf": _printf,
    "eq": _equal,
    "ne": lambda first, second: not _equal(first, second),
    "lt": _less,
    "le": lambda first, second: not _less(second, first),
    "gt": lambda first, second: _less(second, first),
    "ge": lambda first, second: not _less(first, second),
}
_LAZY = ("and", "or", "currentDate")


def is_function(name: str) -> bool:
    return name in FUNCTIONS or name in _LAZY
