"""Texts that must stay texts: what would be read as a control token is kept out of the prompt until it is tokenized."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from dmr.types import Message, TextPart, Tool, ToolCall
from dmr.wire import LITERAL_CLOSE, LITERAL_OPEN

_MARK = re.compile(f"{LITERAL_OPEN}([0-9]{{1,9}}){LITERAL_CLOSE}")
_HALF_MARK = re.compile(f"[{LITERAL_OPEN}{LITERAL_CLOSE}]")
# A template that writes ASCII only JSON escapes the marks; with one more backslash it is a text that looks like it.
_ESCAPED_MARK = re.compile(r"(?<!\\)((?:\\\\)*)\\u[fF][dD][dD]0([0-9]{1,9})\\u[fF][dD][dD]1")
_HALF_ESCAPED_MARK = r"\\u[fF][dD][dD][01]"


def special_texts(control_tokens: Iterable[str]) -> re.Pattern[str]:
    """What must not stand in anybody's text: control tokens, the longest first, and marks, escaped ones too."""
    # Models have hundreds, most with the same first characters: these are looked at once.
    groups: dict[str, list[str]] = {}
    for text in sorted({text for text in control_tokens if text}, key=lambda text: (-len(text), text)):
        groups.setdefault(text[:2], []).append(text[2:])
    heads = sorted(groups, key=lambda head: (-len(head), head))
    texts = [f"{re.escape(head)}(?:{'|'.join(map(re.escape, groups[head]))})" for head in heads]
    return re.compile("|".join([_HALF_MARK.pattern, _HALF_ESCAPED_MARK, *texts]))


class Literals:
    """Collects the special texts of one prompt. Equal texts have one mark."""

    def __init__(self, special: re.Pattern[str]) -> None:
        self._special = special
        self._places: dict[str, int] = {}

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(self._places)

    def text(self, text: str) -> str:
        """The same text with marks; the very same object if it holds nothing special."""
        return self._special.sub(self._mark, text)

    def json_text(self, text: str) -> str:
        """The same for JSON text, whose strings are looked at as what they stand for. Other text is text."""
        if "\\" not in text and not self._special.search(text):
            return text
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return self.text(text)
        return json.dumps(self.value(value), ensure_ascii=False, separators=(",", ":"))

    def value(self, value: Any) -> Any:
        """The same for all strings of a JSON value, keys included."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(key)): self.value(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(item) for item in value]
        return value

    def message(self, message: Message) -> Message:
        return Message(
            role=message.role,
            parts=tuple(TextPart(self.text(part.text)) for part in message.parts if isinstance(part, TextPart)),
            reasoning=self.text(message.reasoning),
            tool_calls=tuple(
                ToolCall(self.text(call.id), self.text(call.name), self.json_text(call.arguments))
                for call in message.tool_calls
            ),
            tool_call_id=None if message.tool_call_id is None else self.text(message.tool_call_id),
            name=None if message.name is None else self.text(message.name),
        )

    def tool(self, tool: Tool) -> Tool:
        parameters = self.json_text(tool.parameters)
        return Tool(self.text(tool.name), self.text(tool.description), parameters, tool.strict)

    def _mark(self, found: re.Match[str]) -> str:
        place = self._places.setdefault(found[0], len(self._places))
        return f"{LITERAL_OPEN}{place}{LITERAL_CLOSE}"


def with_whole_marks(text: str, literals: tuple[str, ...]) -> str:
    """A rendered prompt whose template has escaped the marks in its JSON."""

    def whole(found: re.Match[str]) -> str:
        is_mark = int(found[2]) < len(literals)
        return f"{found[1]}{LITERAL_OPEN}{found[2]}{LITERAL_CLOSE}" if is_mark else found[0]

    return _ESCAPED_MARK.sub(whole, text) if literals else text


def has_foreign_marks(text: str, literals: tuple[str, ...]) -> bool:
    """Whether there are marks, or halves of them, that stand for no literal: a template has made them up."""
    if LITERAL_OPEN not in text and LITERAL_CLOSE not in text:
        return False
    others = _MARK.sub(lambda found: "" if int(found[1]) < len(literals) else found[0], text)
    return _HALF_MARK.search(others) is not None


def put_back(text: str, literals: tuple[str, ...]) -> str:
    """The text that the marks stand for; a mark that stands for none stays."""

    def literal(found: re.Match[str]) -> str:
        place = int(found[1])
        return literals[place] if place < len(literals) else found[0]

    return _MARK.sub(literal, text) if literals else text
