"""What was said so far, and how it goes on: everything that a request of the chat is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from dmr.cli.attachments import Content
from dmr.cli.sampling import SAMPLING, THINKING, to_fields
from dmr.errors import InvalidRequest


class _Saved(msgspec.Struct, frozen=True):
    """A conversation in a file."""

    messages: list[dict[str, Any]]
    system: str = ""
    model: str = ""


class Conversation:
    """Messages, the system message and settings of a talk with one model."""

    def __init__(self, model: str, system: str, settings: dict[str, Any]) -> None:
        self.model = model
        self.system = system
        self.messages: list[dict[str, Any]] = []
        self._settings = {name: value for name, value in settings.items() if value is not None}

    def request(self, question: dict[str, Any]) -> dict[str, Any]:
        """The body of the request that asks this next."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        messages = [*system, *self.messages, question]
        return {"model": self.model, "messages": messages, **to_fields(self._settings)}

    def add(self, question: Content, answer: str) -> None:
        """Remember a question and what was answered."""
        self.messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    def settings(self) -> dict[str, Any]:
        """All settings by name; None where it is left to the server."""
        return {"system": self.system or None, **{name: self._settings.get(name) for name in (*SAMPLING, "think")}}

    def set(self, name: str, text: str) -> None:
        """Change a setting; an empty text leaves it to the server again.

        Raises:
            InvalidRequest: there is no such setting, or no such value of it.
        """
        if name == "system":
            self.system = text
            return
        if name not in (*SAMPLING, "think"):
            raise InvalidRequest(f"There is no setting {name}: there are {', '.join(self.settings())}.")
        if not text:
            self._settings.pop(name, None)
            return
        kind = click.Choice(THINKING) if name == "think" else SAMPLING[name][0]
        try:
            self._settings[name] = kind.convert(text, None, None)
        except click.BadParameter as error:
            raise InvalidRequest(f"{name}: {error.message}") from None

    def save(self, path: Path) -> None:
        """Write the conversation as JSON, for its owner's eyes; a file that is there is not overwritten."""
        data = msgspec.json.format(msgspec.json.encode(_Saved(self.messages, self.system, self.model)), indent=2)
        try:
            path.touch(mode=0o600, exist_ok=False)
            path.write_bytes(data + b"\n")
        except OSError as error:
            raise InvalidRequest(f"{path} cannot be written: {error.strerror}.") from None

    def load(self, path: Path) -> None:
        """Go on with a conversation of a file, whatever the model it was with."""
        try:
            saved = msgspec.json.decode(path.read_bytes(), type=_Saved)
        except OSError as error:
            raise InvalidRequest(f"{path} cannot be read: {error.strerror}.") from None
        except msgspec.DecodeError as error:
            raise InvalidRequest(f"{path} is no conversation that /save wrote: {error}.") from None
        self.messages, self.system = saved.messages, saved.system
