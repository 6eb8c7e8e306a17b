"""The interactive chat of `dmr run MODEL`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dmr.cli.answer import Answer
from dmr.cli.attachments import Content, begins_with_file, complete_mention, expanded, read_question
from dmr.cli.conversation import Conversation
from dmr.cli.display import Display
from dmr.cli.line_editor import LineEditor
from dmr.cli.values import printable
from dmr.errors import DmrError, InvalidRequest

if TYPE_CHECKING:
    from dmr.cli.server_api import ServerApi

_GREETING = "Send a message (/? for help)."
_HELP = """\
  /bye, Ctrl-D       leave
  /clear             forget the conversation, keep the settings
  /system [TEXT]     set the system message, or remove it
  /set [NAME VALUE]  change a setting, or show them all (/? set)
  /show              show what model this is
  /save FILE         write the conversation into a file
  /load FILE         go on with a conversation of a file
  /?, /help          this text; /? files, /? set, /? shortcuts
  \"\"\"                begins and ends a message of several lines
  @FILE              puts a file's text, an image or a sound into the message
  Ctrl-C             stops an answer"""
_HELP_TOPICS = {
    "files": """\
  @notes.txt         the file's text is part of the message
  @"my notes.txt"    a name with blanks
  @photo.png         an image (PNG, JPEG, GIF, WebP, BMP) stands here, for models that see
  @voice.wav         a sound (WAV, MP3, FLAC), for models that hear
  dragged files      images and sounds need no @, only their absolute path""",
    "set": """\
  /set               show the settings
  /set NAME VALUE    set temperature, top_p, top_k, min_p, repeat_penalty, max_tokens or seed
  /set NAME          back to the server's default
  /set system TEXT   set the system message
  /set think on      let the model think: on, off, low, medium, high
  /set num_ctx N     load the model with a context of N tokens
  /set verbose on    show tokens, times and speed after each answer, or off""",
    "shortcuts": """\
  Ctrl-A, Ctrl-E     to the begin, or end, of the line
  Ctrl-W, Ctrl-U     delete a word, or all before the cursor
  Ctrl-R             search what was typed before; Up and Down go through it
  Ctrl-L             clear the screen
  Ctrl-C             stop an answer, or drop the line
  Ctrl-D             leave""",
}


class Chat:
    """A conversation with one model. What is said about it goes to stderr, the answers to stdout."""

    def __init__(self, server: ServerApi, display: Display, conversation: Conversation, *, verbose: bool) -> None:
        self._server = server
        self._display = display
        self._conversation = conversation
        self._verbose = verbose
        self._commands = {
            "?": self._help,
            "help": self._help,
            "clear": self._clear,
            "system": self._set_system,
            "set": self._set,
            "show": self._show,
            "save": self._save,
            "load": self._load,
        }

    def complete(self, word: str) -> list[str]:
        """What a word that is being typed may become: a command, or a file."""
        commands = [f"/{name} " for name in sorted([*self._commands, "bye", "exit"])]
        return [name for name in commands if word.startswith("/") and name.startswith(word)] or complete_mention(word)

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
            if text:
                self._react(text)

    def _react(self, text: str) -> None:
        """Whatever goes wrong, the chat goes on."""
        try:
            if text.startswith("/") and not begins_with_file(text):
                name, _, argument = text[1:].partition(" ")
                self._commands.get(name, self._unknown)(argument.strip() if name in self._commands else name)
            else:
                self._turn(read_question(text, may_be_dragged=True))
        except KeyboardInterrupt:
            _say("Stopped.")
        except DmrError as error:
            _say(f"Error: {printable(error.message)}")

    def _turn(self, content: Content) -> None:
        """One question and its answer; a question that got no answer at all is forgotten."""
        answer = Answer()
        request = self._conversation.request({"role": "user", "content": content})
        try:
            answer.stream(self._server, request, self._display)
            answer.report(self._display, verbose=self._verbose)
        finally:
            if answer.text:
                self._conversation.add(content, answer.text)

    def _help(self, topic: str) -> None:
        _say(_HELP_TOPICS.get(topic, _HELP))

    def _unknown(self, name: str) -> None:
        _say(f"There is no command /{printable(name)}. /? lists them.")

    def _clear(self, _: str) -> None:
        self._conversation.messages.clear()
        _say("The conversation is forgotten.")

    def _set_system(self, text: str) -> None:
        self._conversation.set("system", text)
        _say("The system message is set." if text else "The system message is removed.")

    def _set(self, argument: str) -> None:
        name, _, text = argument.removeprefix("parameter ").strip().partition(" ")
        text = text.strip()
        if not name:
            _say(_listing({**self._conversation.settings(), "verbose": "on" if self._verbose else "off"}))
        elif name == "system":
            self._set_system(text)
        elif name == "num_ctx":
            self._set_context(text)
        elif name == "verbose":
            if text not in ("", "on", "off"):
                raise InvalidRequest("verbose: give on or off.")
            self._verbose = text in ("", "on")
        else:
            self._conversation.set(name, text)

    def _set_context(self, text: str) -> None:
        if not text.isascii() or not text.isdigit() or int(text) == 0:
            raise InvalidRequest("num_ctx: give a number of tokens, as in /set num_ctx 8192.")
        self._server.configure(self._conversation.model, {"context-size": int(text)})
        _say(f"The model will be loaded with a context of {int(text)} tokens.")

    def _show(self, _: str) -> None:
        from dmr.cli.replies import Model
        from dmr.cli.show import describe

        _say(describe(self._server.get_model(self._conversation.model, Model)))

    def _save(self, name: str) -> None:
        path = _path(name, "save")
        self._conversation.save(path)
        _say(f"The conversation is saved in {path}.")

    def _load(self, name: str) -> None:
        self._conversation.load(_path(name, "load"))
        _say(f"The conversation goes on after {len(self._conversation.messages)} messages.")


def _path(name: str, command: str) -> Path:
    if not name:
        raise InvalidRequest(f"Give the name of a file, as in /{command} talk.json.")
    return expanded(name.strip("\"'"))


def _listing(settings: dict[str, Any]) -> str:
    return "\n".join(f"  {key}: {'default' if value is None else value}" for key, value in settings.items())


def _say(text: str) -> None:
    click.echo(text, err=True)
