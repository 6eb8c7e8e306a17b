"""The interactive chat of `dmr run MODEL`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from dmr.cli.answer import Answer
from dmr.cli.display import Display
from dmr.cli.line_editor import LineEditor
from dmr.cli.sampling import SAMPLING
from dmr.cli.values import printable
from dmr.errors import DmrError

if TYPE_CHECKING:
    from dmr.cli.server_api import ServerApi

_GREETING = "Send a message (/? for help)."
_HELP = """\
  /bye, Ctrl-D       leave
  /clear             forget the conversation, keep the settings
  /system [TEXT]     set the system message, or remove it
  /set NAME [VALUE]  set temperature, top_p, max_tokens or seed; without a value: back to the server's default
  /set               show the settings
  /?, /help          this text
  \"\"\"                begins and ends a message of several lines
  Ctrl-C             stops an answer"""


class Chat:
    """A conversation with one model. What is said about it goes to stderr, the answers to stdout."""

    def __init__(
        self,
        server: ServerApi,
        model: str,
        display: Display,
        *,
        system: str | None,
        sampling: Mapping[str, Any],
        verbose: bool,
    ) -> None:
        self._server = server
        self._model = model
        self._display = display
        self._system = system or ""
        self._sampling = dict(sampling)
        self._verbose = verbose
        self._messages: list[dict[str, str]] = []

    def run(self, editor: LineEditor) -> None:
        """Talk until the user leaves."""
        _say(_GREETING)
        while True:
            try:
                text = editor.read()
            except EOFError:
                _say("")
                return
            except KeyboardInterrupt:
                _say("\nUse Ctrl-D or /bye to exit.")
                continue
            if text in ("/bye", "/exit"):
                return
            if text.startswith("/"):
                self._command(*text[1:].split(maxsplit=1))
            elif text:
                self._turn(text)

    def _turn(self, text: str) -> None:
        """One question and its answer; a question that got no answer at all is forgotten."""
        question = {"role": "user", "content": text}
        answer = Answer()
        try:
            answer.stream(self._server, self._request(question), self._display)
            answer.report(verbose=self._verbose)
        except KeyboardInterrupt:
            _say("Stopped.")
        except DmrError as error:
            _say(f"Error: {printable(error.message)}")
        if answer.text:
            self._messages += [question, {"role": "assistant", "content": answer.text}]

    def _request(self, question: dict[str, str]) -> dict[str, Any]:
        system = [{"role": "system", "content": self._system}] if self._system else []
        return {"model": self._model, "messages": [*system, *self._messages, question], **self._sampling}

    def _command(self, name: str = "", argument: str = "") -> None:
        if name in ("?", "help"):
            _say(_HELP)
        elif name == "clear":
            self._messages.clear()
            _say("The conversation is forgotten.")
        elif name == "system":
            self._set_system(argument)
        elif name == "set":
            self._set(*argument.split(maxsplit=1))
        else:
            _say(f"There is no command /{name}. /? lists them.")

    def _set_system(self, text: str) -> None:
        self._system = text.strip()
        _say("The system message is set." if self._system else "The system message is removed.")

    def _set(self, name: str = "", text: str = "") -> None:
        if not name:
            shown = {"system": self._system, **{key: self._sampling.get(key) for key in SAMPLING}}
            _say("\n".join(f"  {key}: {'default' if value in (None, '') else value}" for key, value in shown.items()))
        elif name == "system":
            self._set_system(text)
        elif name not in SAMPLING:
            _say(f"There is no setting {name}: there are system, {', '.join(SAMPLING)}.")
        elif not text:
            self._sampling.pop(name, None)
        else:
            self._set_sampling(name, text.strip())

    def _set_sampling(self, name: str, text: str) -> None:
        try:
            self._sampling[name] = SAMPLING[name][0].convert(text, None, None)
        except click.BadParameter as error:
            _say(f"Error: {name}: {error.message}")


def _say(text: str) -> None:
    click.echo(text, err=True)
