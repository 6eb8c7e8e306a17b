"""What values flags have. Each kind reads the text behind a flag, and says in words what it takes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from dmr.runtime_flags.templates import TEMPLATES

INT_MAX = 2**31 - 1
LARGEST = 1e9  # of numbers without a bound of their own: the native side has 32 bits for them


class Kind(Protocol):
    @property
    def takes_value(self) -> bool: ...

    @property
    def is_optional(self) -> bool:
        """Whether the value may be left out."""

    def parse(self, text: str) -> Any:
        """Raises ValueError: it is not one of these."""

    def __str__(self) -> str:
        """In words, as in "it takes {}"."""


class Switch(NamedTuple):
    """A flag without a value."""

    value: Any = True
    takes_value: bool = False
    is_optional: bool = False

    def parse(self, text: str) -> Any:
        return self.value

    def __str__(self) -> str:
        return "no value"


class Whole(NamedTuple):
    least: int
    most: int = INT_MAX
    words: Mapping[str, int] = {}  # names of some values
    factor: int = 1  # of the unit that is meant
    none: frozenset[int] = frozenset()  # numbers that say the same as no flag
    takes_value: bool = True
    is_optional: bool = False

    def parse(self, text: str) -> int | None:
        if text in self.words:
            return self.words[text]
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text) or not self.least <= int(text) <= self.most:
            raise ValueError
        number = int(text)
        if number in self.none:
            return None
        return number * self.factor if number > 0 else number

    def __str__(self) -> str:
        words = "".join(f", or {word}" for word in self.words)
        most = "" if self.most >= INT_MAX else f" to {self.most}"
        return f"a whole number from {self.least}{most}{words}"


class Number(NamedTuple):
    least: float = -LARGEST
    most: float = LARGEST
    is_inverse: bool = False  # 1/n is what is meant
    clamps: bool = False  # what is below the least is the least
    takes_value: bool = True
    is_optional: bool = False

    def parse(self, text: str) -> float:
        try:
            number = float(text) if "_" not in text else math.nan
        except ValueError:
            number = math.nan
        if self.clamps and number < self.least:
            number = self.least
        if not self.least <= number <= self.most:  # nor is it within where it is no number
            raise ValueError
        return 1 / number if self.is_inverse else number

    def __str__(self) -> str:
        if self.least == -LARGEST or self.clamps:
            return "a number"
        return f"a number from {self.least:g}" + (f" to {self.most:g}" if self.most < LARGEST else "")


class Choice(NamedTuple):
    """One of some words; other spellings of them are understood."""

    words: tuple[str, ...]
    spellings: Mapping[str, str] = {}
    default: str | None = None  # what it means without a value
    takes_value: bool = True

    @property
    def is_optional(self) -> bool:
        return self.default is not None

    def parse(self, text: str) -> str | None:
        if not text and self.is_optional:
            return self.default
        word = self.spellings.get(text.lower(), text.lower())
        if word not in self.words:
            raise ValueError
        return word

    def __str__(self) -> str:
        return "one of " + ", ".join(self.words)


class Words(NamedTuple):
    """Several words; `words` empty = any. Each at most once if they are known."""

    separator: str
    words: tuple[str, ...] = ()
    spellings: Mapping[str, str] = {}
    takes_value: bool = True
    is_optional: bool = False

    def parse(self, text: str) -> tuple[str, ...]:
        found = tuple(self.spellings.get(word.strip(), word.strip()) for word in text.split(self.separator))
        is_known = not self.words or (set(found) <= set(self.words) and len(set(found)) == len(found))
        if not is_known or "" in found:
            raise ValueError
        return found

    def __str__(self) -> str:
        kinds = "of " + ", ".join(self.words) if self.words else "words"
        return f"some {kinds}, with '{self.separator}' between them"


class Shares(NamedTuple):
    """Numbers that are not negative, one for each device."""

    takes_value: bool = True
    is_optional: bool = False

    def parse(self, text: str) -> tuple[float, ...]:
        return tuple(Number(0.0).parse(part.strip()) for part in text.split(","))

    def __str__(self) -> str:
        return "shares like 3,1"


class JsonObject(NamedTuple):
    """`as_text`: the text is kept as it is."""

    as_text: bool = False
    takes_value: bool = True
    is_optional: bool = False

    def parse(self, text: str) -> Any:
        try:
            found = json.loads(text, parse_constant=_no_number, parse_float=_finite)
        except RecursionError:
            raise ValueError from None
        if not isinstance(found, dict):
            raise ValueError
        return ("json_schema", text) if self.as_text else found

    def __str__(self) -> str:
        return "a JSON object"


class Grammar(NamedTuple):
    takes_value: bool = True
    is_optional: bool = False

    def parse(self, text: str) -> tuple[str, str]:
        if not re.search(r"(?m)^\s*root\s*::=", text):
            raise ValueError
        return "grammar", text

    def __str__(self) -> str:
        return "a GBNF grammar with a rule named root"


class Template(NamedTuple):
    """The name of a template that is known here, or one itself."""

    takes_value: bool = True
    is_optional: bool = False

    def parse(self, text: str) -> str:
        if text in TEMPLATES:
            return TEMPLATES[text]
        if "{{" not in text and "{%" not in text:
            raise ValueError
        return text

    def __str__(self) -> str:
        return f"a Jinja template, or one of {', '.join(sorted(TEMPLATES))}"


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _no_number(text: str) -> Any:
    raise ValueError(text)
