"""`dmr run`: one answer, a chat, or just loading the model."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dmr.cli.attachments import Content, read_question
from dmr.cli.conversation import Conversation
from dmr.cli.json_output import json_option, print_json
from dmr.cli.sampling import sampling_options
from dmr.cli.server import complete_model, connect, connect_elsewhere
from dmr.errors import DmrError, InvalidRequest

if TYPE_CHECKING:
    from dmr.cli.server_api import ServerApi

_EPILOG = """\
\b
Examples:
  dmr run smollm2 "Why is the sky blue?"
  dmr run smollm2 Summarize this: < report.txt
  dmr run gemma3 --image photo.jpg "What is this?"
  git diff | dmr run smollm2 --system "You review code." --max-tokens 500
  dmr run smollm2
"""


@click.command("run", short_help="Ask a model, or chat with it.", epilog=_EPILOG)
@click.argument("model", shell_complete=complete_model)
@click.argument("prompt", nargs=-1)
@click.option("--system", metavar="TEXT", help="The system message: how the model should behave.")
@click.option(
    "--image",
    "images",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Send this image before PROMPT; several times for several.",
)
@sampling_options
@click.option("-d", "--detach", is_flag=True, help="Load the model and leave, without asking anything.")
@click.option("--verbose", is_flag=True, help="After each answer, print tokens, times and speed on stderr.")
@click.option(
    "--color",
    type=click.Choice(["auto", "yes", "no"]),
    default="auto",
    show_default=True,
    help="Render Markdown, and show reasoning dim; auto: on a terminal.",
)
@click.option("--no-history", is_flag=True, envvar="DMR_NO_HISTORY", show_envvar=True, help="Keep no history file.")
@click.option(
    "--openaiurl", "other", metavar="URL", help="Ask another server that speaks OpenAI's API, as http://HOST/v1."
)
@json_option
@click.pass_context
def run_command(ctx: click.Context, /, model: str, prompt: tuple[str, ...], **flags: Any) -> None:
    """Ask MODEL for one answer to PROMPT, which is streamed to stdout.

    What is piped into stdin is put after PROMPT, or is the prompt. On a terminal and without PROMPT, a chat begins.
    @FILE in PROMPT puts in the file's text, an image or a sound. Reasoning is shown on a terminal only. A model that
    the server does not have is pulled.
    """
    server = connect_elsewhere(ctx, flags["other"]) if flags["other"] else connect(ctx)
    if flags["detach"]:
        _detach(server, model, prompt)
        return
    conversation = Conversation(model, flags["system"] or "", flags)
    question = _question(prompt, flags["images"])
    if question is None:
        _chat(server, conversation, flags)
    else:
        _answer(server, conversation, question, flags)


def _detach(server: ServerApi, model: str, prompt: tuple[str, ...]) -> None:
    if prompt:
        raise click.UsageError("--detach only loads the model: leave out the prompt.")
    _pulling(server, model, lambda: server.preload(model))
    click.echo(f"{model} is loaded.", err=True)


def _pulling(server: ServerApi, model: str, ask: Callable[[], None]) -> None:
    """Ask; and once more when the model had to be pulled first."""
    from dmr.cli.transfer import pull_missing
    from dmr.cli.transport import ServerError

    try:
        ask()
    except ServerError as error:
        if error.status != 404 or not server.can_pull:
            raise
        pull_missing(server, model)
        ask()


def _question(prompt: tuple[str, ...], images: tuple[Path, ...]) -> Content | None:
    """What to ask; None means a chat. Raises `InvalidRequest` if there is nothing to ask and nobody to chat with."""
    words = " ".join(prompt)
    if sys.stdin is not None and sys.stdin.isatty():
        if words.strip() or images:
            return read_question(words, images)
        if not sys.stdout.isatty():
            raise InvalidRequest("A chat needs a terminal: give a prompt, or let stdout be the terminal.")
        return None
    piped = _piped_text()
    if not words.strip() and not piped.strip() and not images:
        raise InvalidRequest("There is nothing to ask: the prompt and stdin are both empty.")
    return read_question(words if words.strip() else "", images, piped if piped.strip() else "")


def _piped_text() -> str:
    if sys.stdin is None:  # closed by whoever started us
        return ""
    try:
        return sys.stdin.buffer.read().decode("utf-8").rstrip("\n")
    except UnicodeDecodeError:
        raise InvalidRequest("What is piped into stdin is not UTF-8 text.") from None


def _answer(server: ServerApi, conversation: Conversation, question: Content, flags: dict[str, Any]) -> None:
    from dmr.cli.answer import Answer
    from dmr.cli.display import Display, Silence

    display = Silence() if flags["as_json"] else Display(flags["color"])
    request = conversation.request({"role": "user", "content": question})
    answer = Answer()
    _pulling(server, conversation.model, lambda: answer.stream(server, request, display))
    if flags["as_json"]:
        print_json({"model": conversation.model, **answer.as_json()})
    else:
        answer.report(display, verbose=flags["verbose"])


def _chat(server: ServerApi, conversation: Conversation, flags: dict[str, Any]) -> None:
    from dmr.cli.chat import Chat
    from dmr.cli.display import Display
    from dmr.cli.line_editor import LineEditor
    from dmr.cli.transfer import pull_missing

    if flags["as_json"]:
        raise click.UsageError("--json is for one answer: give a prompt.")
    if not server.serves(conversation.model):  # told before the first question, like an absent server
        pull_missing(server, conversation.model)
    _load_meanwhile(server, conversation.model)
    chat = Chat(server, Display(flags["color"]), conversation, verbose=flags["verbose"])
    keep_history = not flags["no_history"] and not os.environ.get("DOCKER_MODEL_NOHISTORY")
    with LineEditor(_history_file() if keep_history else None, chat.complete) as editor:
        chat.run(editor)


def _load_meanwhile(server: ServerApi, model: str) -> None:
    """Load the model while the first question is typed. What goes wrong comes again with the question."""
    import threading

    def load() -> None:
        with contextlib.suppress(DmrError):
            server.preload(model)

    threading.Thread(target=load, daemon=True).start()


def _history_file() -> Path:
    return Path(click.get_app_dir("dmr")) / "history"
