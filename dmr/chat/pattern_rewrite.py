"""Regular expressions as llama.cpp's grammars can have them: whole texts, made of plain characters and classes."""

from __future__ import annotations

import re

from dmr.chat.pattern import (
    LAST,
    Chain,
    Characters,
    Choice,
    Node,
    PatternError,
    Place,
    Ranges,
    Repeat,
    inverted,
    parse,
    united,
)

MAX_WRITTEN = 6000  # characters of a rewritten pattern
MAX_COPIES = 1000  # of one element, where repetitions stand in each other; the grammar has a limit of its own

# What stands for itself in a JSON string; the grammar writes it between quotation marks as it is.
_PLAIN = inverted(united([(0, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F), (0xD800, 0xDFFF)]))
# These the converter takes word for word.
_SIMPLE = re.compile(
    r"\^(?:(?:[A-Za-z0-9_]|\[(?:[A-Za-z0-9_](?:-[A-Za-z0-9])?)+-?\])(?:[*+?]|\{[0-9]{1,3}(?:,[0-9]{1,3})?\})?)*\$"
)


class _Beyond(Exception):
    """The grammar cannot have this."""


def for_grammar(pattern: str) -> str | None:
    """A pattern that is enforced exactly, and whose texts all match the given one; None if there is no such.

    It may be narrower: quotation marks, backslashes and control characters are left out.
    """
    try:
        node = parse(pattern)
        if _SIMPLE.fullmatch(pattern) and _copies(node) <= MAX_COPIES:
            return pattern
        branches = node.branches if isinstance(node, Choice) else (node,)
        written = [_whole(branch) for branch in branches]
        text = f"^({'|'.join(written)})$"
    except (PatternError, _Beyond, RecursionError):
        return None
    if len(text) > MAX_WRITTEN or any(_copies(branch) > MAX_COPIES for branch in branches):
        return None
    return text


def _whole(branch: Node) -> str:
    """A branch that need not begin and end with the text, as one that does."""
    parts: list[Node] = list(branch.parts) if isinstance(branch, Chain) else [branch]
    before = after = f"{_characters(_PLAIN)}*"
    while parts and parts[0] == Place("^"):
        parts.pop(0)
        before = ""
    while parts and parts[-1] == Place("$"):
        parts.pop()
        after = ""
    text = before + _chain(parts) + after if parts else before or after
    if not text:
        raise _Beyond
    return text


def _written(node: Node) -> str:
    if isinstance(node, Characters):
        return _characters(node.ranges)
    if isinstance(node, Chain):
        return _chain(list(node.parts))
    if isinstance(node, Choice):
        texts = [_written(branch) for branch in node.branches]
        full = [text for text in texts if text]
        if not full:
            return ""
        return f"({'|'.join(full)}){'?' if len(full) < len(texts) else ''}"
    if isinstance(node, Repeat):
        return _repeat(node)
    raise _Beyond  # a place in the midst of the text


def _chain(parts: list[Node]) -> str:
    return "".join(map(_written, parts))


def _repeat(node: Repeat) -> str:
    part = _written(node.part)
    if not part or node.most == 0:
        return ""
    if (node.least, node.most) == (1, 1):
        return part
    if _may_be_empty(node.part) and (node.least, node.most) != (0, 1):
        raise _Beyond  # a grammar would be endless in it
    least, most = node.least, node.most
    sign = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((least, most))
    if sign is None:
        sign = f"{{{least}}}" if least == most else f"{{{least},{'' if most is None else most}}}"
    return (part if isinstance(node.part, Characters) else f"({part})") + sign


def _characters(ranges: Ranges) -> str:
    found = _common(ranges, _PLAIN)
    if not found:
        raise _Beyond
    return (
        "[" + "".join(_code(first) if first == last else f"{_code(first)}-{_code(last)}" for first, last in found) + "]"
    )


def _common(one: Ranges, other: Ranges) -> Ranges:
    return inverted(united((*inverted(one), *inverted(other))))


def _code(point: int) -> str:
    if chr(point).isascii() and chr(point).isalnum():
        return chr(point)
    return f"\\u{point:04X}" if point <= 0xFFFF else f"\\U{min(point, LAST):08X}"


def _may_be_empty(node: Node) -> bool:
    if isinstance(node, Chain):
        return all(map(_may_be_empty, node.parts))
    if isinstance(node, Choice):
        return any(map(_may_be_empty, node.branches))
    if isinstance(node, Repeat):
        return node.least == 0 or _may_be_empty(node.part)
    return isinstance(node, Place)


def _copies(node: Node) -> int:
    """How often an element is written at most when all repetitions are written out."""
    if isinstance(node, Chain):
        return max(map(_copies, node.parts), default=1)
    if isinstance(node, Choice):
        return max(map(_copies, node.branches))
    if isinstance(node, Repeat):
        return max(node.least, node.most or 1, 1) * _copies(node.part)
    return 1
