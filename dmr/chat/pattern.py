"""Regular expressions of JSON Schemas: read, and matched in linear time.

The dialect is ECMA 262's, as far as a finite automaton can follow it: no look-around, no back references.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Union

MAX_LENGTH = 1000  # characters of a pattern
MAX_DEPTH = 30  # of groups
MAX_PROGRAM = 4000  # instructions
MAX_PARTS = 2 * MAX_PROGRAM  # of a pattern, those counted again that repetitions repeat
MAX_WORK = 4_000_000  # steps of one search

LAST = 0x10FFFF
Range = tuple[int, int]  # of code points, both included
Ranges = tuple[Range, ...]  # in order, apart from each other


class PatternError(ValueError):
    """The pattern is none, or is beyond what is understood here."""


class Characters(NamedTuple):
    ranges: Ranges


class Place(NamedTuple):
    """A condition on where in the text one is: "^", "$", "b" (a word's border) or "B"."""

    kind: str


class Chain(NamedTuple):
    parts: tuple[Node, ...]


class Choice(NamedTuple):
    branches: tuple[Node, ...]


class Repeat(NamedTuple):
    part: Node
    least: int
    most: int | None


Node = Union[Characters, Place, Chain, Choice, Repeat]


def united(ranges: Iterable[Range]) -> Ranges:
    """The same characters in order, without overlaps."""
    merged: list[Range] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged)


def inverted(ranges: Ranges) -> Ranges:
    found: list[Range] = []
    start = 0
    for first, last in ranges:
        if first > start:
            found.append((start, first - 1))
        start = last + 1
    if start <= LAST:
        found.append((start, LAST))
    return tuple(found)


_DIGITS: Ranges = ((0x30, 0x39),)
_WORD = united([(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)])
_SPACE = united(
    [
        *((9, 13), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029)),
        *((0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)),
    ]
)
_NOT_LINE_END = inverted(united([(10, 10), (13, 13), (0x2028, 0x2029)]))
_CLASSES = {"d": _DIGITS, "D": inverted(_DIGITS), "w": _WORD, "W": inverted(_WORD), "s": _SPACE, "S": inverted(_SPACE)}
_CONTROLS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13, "0": 0}
_HEX_LENGTHS = {"x": 2, "u": 4}


class _Parser:
    def __init__(self, text: str) -> None:
        if len(text) > MAX_LENGTH:
            raise PatternError(f"it is longer than {MAX_LENGTH} characters")
        self._text = text
        self._at = 0
        self._depth = 0

    def parse(self) -> Node:
        node = self._choice()
        if self._at < len(self._text):
            raise PatternError("a ')' has no '('")
        return node

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self, text: str) -> bool:
        if self._text.startswith(text, self._at):
            self._at += len(text)
            return True
        return False

    def _next(self) -> str:
        if self._at >= len(self._text):
            raise PatternError("it ends too early")
        self._at += 1
        return self._text[self._at - 1]

    def _choice(self) -> Node:
        branches = [self._sequence()]
        while self._take("|"):
            branches.append(self._sequence())
        return branches[0] if len(branches) == 1 else Choice(tuple(branches))

    def _sequence(self) -> Node:
        parts: list[Node] = []
        while self._peek() not in ("", "|", ")"):
            is_group = self._peek() == "("
            part = self._atom()
            parts.append(part if isinstance(part, Place) and not is_group else self._repeated(part))
        return parts[0] if len(parts) == 1 else Chain(tuple(parts))

    def _repeated(self, part: Node) -> Node:
        counts = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        if self._peek() in counts and self._peek():
            least, most = counts[self._next()]
        elif (bounds := self._bounds()) is not None:
            least, most = bounds
        else:
            return part
        self._take("?")  # how eager it is does not matter for whether it matches
        if self._peek() in ("*", "+", "?") and self._peek():
            raise PatternError("there is nothing to repeat")
        return Repeat(part, least, most)

    def _bounds(self) -> tuple[int, int | None] | None:
        """{m}, {m,} or {m,n}; anything else in braces is text."""
        end = self._text.find("}", self._at)
        if self._peek() != "{" or end < 0:
            return None
        low, comma, high = self._text[self._at + 1 : end].partition(",")
        if not (low.isascii() and low.isdigit() and (not high or (high.isascii() and high.isdigit()))):
            return None
        if max(len(low), len(high)) > 6:
            raise PatternError("a repetition is too large")
        self._at = end + 1
        least = int(low)
        most = int(high) if high else (None if comma else least)
        if most is not None and most < least:
            raise PatternError("a repetition ends before it begins")
        return least, most

    def _atom(self) -> Node:
        character = self._next()
        if character == "(":
            return self._group()
        if character == "[":
            return Characters(self._set())
        if character == ".":
            return Characters(_NOT_LINE_END)
        if character in "^$":
            return Place(character)
        if character in "*+?":
            raise PatternError("there is nothing to repeat")
        if character == "\\":
            if self._peek() in ("b", "B") and self._peek():
                return Place(self._next())
            return Characters(self._escape())
        return Characters(((ord(character), ord(character)),))

    def _group(self) -> Node:
        if self._take("?") and not self._take(":"):
            name_start = self._take("P<") or self._take("<")
            end = self._text.find(">", self._at)
            if not name_start or end < 0 or not self._text[self._at : end].isidentifier():
                raise PatternError("it looks around, or has flags")
            self._at = end + 1
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise PatternError("its groups are nested too deep")
        node = self._choice()
        self._depth -= 1
        if not self._take(")"):
            raise PatternError("a '(' has no ')'")
        return node

    def _set(self) -> Ranges:
        is_inverted = self._take("^")
        ranges: list[Range] = []
        while not self._take("]"):
            first = self._member()
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", ""):
                self._at += 1
                last = self._member()
                if len(first) != 1 or len(last) != 1 or first[0][0] != first[0][1] or last[0][0] != last[0][1]:
                    raise PatternError("a range has no ends")
                if last[0][0] < first[0][0]:
                    raise PatternError("a range ends before it begins")
                ranges.append((first[0][0], last[0][0]))
            else:
                ranges.extend(first)
        return inverted(united(ranges)) if is_inverted else united(ranges)

    def _member(self) -> Ranges:
        character = self._next()
        if character == "\\":
            return ((8, 8),) if self._take("b") else self._escape()
        return ((ord(character), ord(character)),)

    def _escape(self) -> Ranges:
        character = self._next()
        if character in _CLASSES:
            return _CLASSES[character]
        if character in _CONTROLS and not (character == "0" and self._peek().isdigit()):
            code = _CONTROLS[character]
        elif character == "u" and self._take("{"):
            digits, brace, _ = self._text[self._at :].partition("}")
            code = _hexadecimal(digits if brace else "")
            self._at += len(digits) + 1
        elif character in _HEX_LENGTHS:
            digits = self._text[self._at : self._at + _HEX_LENGTHS[character]]
            code = _hexadecimal(digits if len(digits) == _HEX_LENGTHS[character] else "")
            self._at += len(digits)
        elif character.isalnum() and character.isascii():
            raise PatternError(f"'\\{character}' is not understood")
        else:
            code = ord(character)
        return ((code, code),)


def _hexadecimal(digits: str) -> int:
    try:
        code = int(digits, 16)
    except ValueError:
        raise PatternError("an escape is no hexadecimal number") from None
    if code > LAST:
        raise PatternError("an escape is no character")
    return code


@functools.lru_cache(maxsize=512)
def parse(text: str) -> Node:
    """Raises PatternError."""
    return _Parser(text).parse()


# --- matching --------------------------------------------------------------------------------------------------------


class _Step(NamedTuple):
    """Take a character of `ranges`, or stand at `place`, and go on with the next step; or go on at one of `ways`.

    A step with none of them is the end.
    """

    ranges: Ranges | None = None
    place: str = ""
    ways: tuple[int, ...] = ()


class _Program:
    """Steps that are taken in all ways at the same time (Thompson), so that none is gone twice."""

    def __init__(self, node: Node) -> None:
        self.steps: list[_Step] = []
        self._num_parts = 0
        self._add(node)
        self._emit(_Step())

    def _emit(self, step: _Step) -> int:
        if len(self.steps) >= MAX_PROGRAM:
            raise PatternError("it is too complex")
        self.steps.append(step)
        return len(self.steps) - 1

    def _add(self, node: Node) -> None:
        self._num_parts += 1
        if self._num_parts > MAX_PARTS:
            raise PatternError("it is too complex")
        if isinstance(node, Characters):
            self._emit(_Step(ranges=node.ranges))
        elif isinstance(node, Place):
            self._emit(_Step(place=node.kind))
        elif isinstance(node, Chain):
            for part in node.parts:
                self._add(part)
        elif isinstance(node, Choice):
            self._add_choice(node.branches)
        else:
            self._add_repeat(node)

    def _add_choice(self, branches: Sequence[Node]) -> None:
        ends: list[int] = []
        for branch in branches[:-1]:
            fork = self._emit(_Step())
            self._add(branch)
            ends.append(self._emit(_Step()))
            self.steps[fork] = _Step(ways=(fork + 1, len(self.steps)))
        self._add(branches[-1])
        for end in ends:
            self.steps[end] = _Step(ways=(len(self.steps),))

    def _add_repeat(self, node: Repeat) -> None:
        for _ in range(node.least):
            before = len(self.steps)
            self._add(node.part)
            if len(self.steps) == before:
                return  # nothing, however often
        forks: list[int] = []
        for _ in range(1 if node.most is None else node.most - node.least):
            forks.append(self._emit(_Step()))
            self._add(node.part)
        if node.most is None:
            self._emit(_Step(ways=(forks[0],)))
        for fork in forks:
            self.steps[fork] = _Step(ways=(fork + 1, len(self.steps)))


class _Compiled(NamedTuple):
    """The steps of a pattern, or why there are none; `cost` is that of making it, in steps of a search."""

    steps: list[_Step]
    cost: int
    problem: str = ""


@functools.lru_cache(maxsize=512)
def _compiled(pattern: str) -> _Compiled:
    try:
        node = parse(pattern)
    except PatternError as error:
        return _Compiled([], len(pattern), str(error))
    try:
        steps = _Program(node).steps
    except PatternError as error:
        return _Compiled([], MAX_PROGRAM, str(error))
    return _Compiled(steps, len(steps))


def found_in(pattern: str, text: str, spend: Callable[[int], None] = lambda work: None) -> bool:
    """Whether the pattern matches somewhere in the text. `spend` is told of all steps, and may raise.

    Raises:
        PatternError: also if text and pattern together are too much work.
    """
    steps, cost, problem = _compiled(pattern)
    spend(cost)  # always: who has many patterns has them made again and again
    if problem:
        raise PatternError(problem)
    if len(steps) * (len(text) + 1) > MAX_WORK:
        raise PatternError("text and pattern are too long to compare")
    end = len(steps) - 1
    places: set[int] = set()
    for position in range(len(text) + 1):
        places = _reachable(steps, {0, *places}, text, position)
        spend(len(places))
        if end in places:
            return True
        if position < len(text):
            point = ord(text[position])
            places = {place + 1 for place in places if _holds(steps[place].ranges, point)}
    return False


def _reachable(steps: list[_Step], places: set[int], text: str, position: int) -> set[int]:
    """All steps that can be reached without a character."""
    todo, seen = list(places), set(places)
    while todo:
        place = todo.pop()
        step = steps[place]
        ways = (place + 1,) if step.place and _is_at(step.place, text, position) else step.ways
        new = [way for way in ways if way not in seen]
        seen.update(new)
        todo += new
    return seen


def _holds(ranges: Ranges | None, point: int) -> bool:
    return ranges is not None and any(first <= point <= last for first, last in ranges)


def _is_at(kind: str, text: str, position: int) -> bool:
    if kind == "^":
        return position == 0
    if kind == "$":
        return position == len(text)
    before = position > 0 and _holds(_WORD, ord(text[position - 1]))
    after = position < len(text) and _holds(_WORD, ord(text[position]))
    return (before != after) == (kind == "b")
