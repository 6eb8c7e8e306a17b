"""Reads what the user types in a chat: one line, or several between triple quotes, with editing and history."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

_QUOTES = '"""'
_HISTORY_LENGTH = 1000

Complete = Callable[[str], list[str]]


class LineEditor:
    """Reads from the terminal. A context manager: the history of earlier chats is read and this one's is kept.

    `history_file` None keeps no history beyond this chat. `complete` gives what the word before the cursor may become.
    """

    def __init__(self, history_file: Path | None, complete: Complete | None = None) -> None:
        self._history_file = history_file
        self._complete = complete
        self._readline = _import_readline()

    def __enter__(self) -> LineEditor:
        if self._readline is not None and self._complete is not None:
            _set_completion(self._readline, self._complete)
        if self._readline is not None and self._history_file is not None:
            with contextlib.suppress(OSError):  # none yet, or not readable: a chat works without
                self._readline.read_history_file(self._history_file)
        return self

    def __exit__(self, *_: object) -> None:
        if self._readline is None or self._history_file is None:
            return
        with contextlib.suppress(OSError):
            self._history_file.parent.mkdir(parents=True, exist_ok=True)
            self._history_file.touch(mode=0o600)  # prompts are nobody else's business
            self._readline.set_history_length(_HISTORY_LENGTH)
            self._readline.write_history_file(self._history_file)

    def read(self) -> str:
        """The next input, stripped. Raises EOFError on Ctrl-D and KeyboardInterrupt on Ctrl-C."""
        line = input("> ").strip()
        if not line.startswith(_QUOTES):
            return line
        lines = [line.removeprefix(_QUOTES)]
        while not lines[-1].rstrip().endswith(_QUOTES):
            lines.append(input(". "))
        lines[-1] = lines[-1].rstrip().removesuffix(_QUOTES)
        return "\n".join(lines).strip()


def _import_readline() -> ModuleType | None:
    try:
        import readline  # its import is what gives input() line editing
    except ImportError:  # some builds of Python have none
        return None
    return readline


def _set_completion(readline: ModuleType, complete: Complete) -> None:
    found: list[str] = []

    def nth(word: str, number: int) -> str | None:
        nonlocal found
        if number == 0:
            found = complete(word)
        return found[number] if number < len(found) else None

    readline.set_completer(nth)
    readline.set_completer_delims(" \t\n")
    # libedit, which stands in for GNU readline on some systems, has a language of its own.
    readline.parse_and_bind("bind ^I rl_complete" if "libedit" in (readline.__doc__ or "") else "tab: complete")
