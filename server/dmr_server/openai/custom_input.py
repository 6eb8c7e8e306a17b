"""The plain text of a custom tool's call, taken out of the JSON that the model writes, as it comes."""

from __future__ import annotations

import re

import msgspec

_OPENING = re.compile(r'\s*\{\s*"input"\s*:\s*"')
# Whole characters and escapes only; the first half of a surrogate pair waits for the second.
_WHOLE = re.compile(
    r'(?:[^"\\]|\\["\\/bfnrt]|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}'
    r"|\\u(?![dD][89abAB])[0-9a-fA-F]{4})*"
)


def input_of(arguments: str) -> str:
    """`{"input": "text"}` as the text; anything else stays as it is, for the caller to see."""
    try:
        found = msgspec.json.decode(arguments, type=dict[str, object]).get("input")
    except (msgspec.DecodeError, msgspec.ValidationError):
        return arguments
    return found if isinstance(found, str) else arguments


class CustomInput:
    """Reads the arguments of one call piece by piece."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._sent: list[str] = []
        self._rest = ""  # read, but not yet certain
        self._has_begun = False

    def feed(self, arguments: str) -> str:
        """The next piece of the text, as far as it is certain."""
        self._pieces.append(arguments)
        self._rest += arguments
        if not self._has_begun:
            opening = _OPENING.match(self._rest)
            if opening is None:
                return ""
            self._has_begun = True
            self._rest = self._rest[opening.end() :]
        whole = _WHOLE.match(self._rest)
        assert whole is not None
        self._rest = self._rest[whole.end() :]
        return self._send(_unescaped(whole.group()))

    def finish(self) -> str:
        """What is left when the call has ended."""
        text, sent = input_of("".join(self._pieces)), "".join(self._sent)
        return self._send(text[len(sent) :]) if text.startswith(sent) else ""

    def _send(self, text: str) -> str:
        self._sent.append(text)
        return text


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text
    try:
        return msgspec.json.decode(f'"{text}"', type=str)
    except msgspec.DecodeError:
        return ""  # a lone half of a pair: `finish` tells what is left
