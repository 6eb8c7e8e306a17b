"""`dmr run`: one answer, a chat, or just loading the model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dmr.cli.sampling import SAMPLING, sampling_options
from dmr.cli.server import complete_model, pass_server
from dmr.errors import InvalidRequest

if TYPE_CHECKING:
    from dmr.cli.display import Display
    from dmr.cli.server_api import ServerApi

_EPILOG = """\
\b
Examples:
  dmr run smollm2 "Why is the sky blue?"
  dmr run smollm2 Summarize this: < report.txt
  git diff | dmr run smollm2 --system "You review code." --max-tokens 500
  dmr run smollm2
"""


@click.command("run", short_help="Ask a model, or chat with it.", epilog=_EPILOG)
@click.argument("model", shell_complete=complete_model)
@click.argument("prompt", nargs=-1)
@click.option("--system", metavar="TEXT", help="The system message: how the model should behave.")
@sampling_options
@click.option("-d", "--detach", is_flag=True, help="Load the model and leave, without asking anything.")
@click.option("--verbose", is_flag=True, help="After each answer, print tokens, times and speed on stderr.")
@click.option(
    "--color",
    type=click.Choice(["auto", "yes", "no"]),
    default="auto",
    show_default=True,
    help="Show reasoning dim; auto: on a terminal.",
)
@click.option("--no-history", is_flag=True, envvar="DMR_NO_HISTORY", show_envvar=True, help="Keep no history file.")
@pass_server
def run_command(
    server: ServerApi,
    /,
    model: str,
    prompt: tuple[str, ...],
    system: str | None,
    detach: bool,
    verbose: bool,
    color: str,
    no_history: bool,
    **sampling: Any,
) -> None:
    """Ask MODEL for one answer to PROMPT, which is streamed to stdout.

    What is piped into stdin is put after PROMPT, or is the prompt. On a terminal and without PROMPT, a chat begins.
    Reasoning is shown on a terminal only.
    """
    from dmr.cli.display import Display

    if detach:
        _detach(server, model, prompt)
        return
    given = {name: value for name, value in sampling.items() if name in SAMPLING and value is not None}
    display = Display(color)
    question = _question(prompt)
    if question is None:
        _chat(server, model, display, None if no_history else _history_file(), system, given, verbose)
    else:
        _answer(server, model, display, question, system, given, verbose)


def _detach(server: ServerApi, model: str, prompt: tuple[str, ...]) -> None:
    if prompt:
        raise click.UsageError("--detach only loads the model: leave out the prompt.")
    server.preload(model)
    click.echo(f"{model} is loaded.", err=True)


def _question(prompt: tuple[str, ...]) -> str | None:
    """What to ask; None means a chat. Raises `InvalidRequest` if there is nothing to ask and nobody to chat with."""
    words = " ".join(prompt)
    if sys.stdin is not None and sys.stdin.isatty():
        if not words.strip() and not sys.stdout.isatty():
            raise InvalidRequest("A chat needs a terminal: give a prompt, or let stdout be the terminal.")
        return words if words.strip() else None
    parts = [text for text in (words, _piped_text()) if text.strip()]
    if not parts:
        raise InvalidRequest("There is nothing to ask: the prompt and stdin are both empty.")
    return "\n\n".join(parts)


def _piped_text() -> str:
    if sys.stdin is None:  # closed by whoever started us
        return ""
    try:
        return sys.stdin.buffer.read().decode("utf-8").rstrip("\n")
    except UnicodeDecodeError:
        raise InvalidRequest("What is piped into stdin is not UTF-8 text.") from None


def _answer(
    server: ServerApi,
    model: str,
    display: Display,
    question: str,
    system: str | None,
    sampling: dict[str, Any],
    verbose: bool,
) -> None:
    from dmr.cli.answer import Answer

    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": question})
    answer = Answer()
    answer.stream(server, {"model": model, "messages": messages, **sampling}, display)
    answer.report(verbose=verbose)


def _chat(
    server: ServerApi,
    model: str,
    display: Display,
    history_file: Path | None,
    system: str | None,
    sampling: dict[str, Any],
    verbose: bool,
) -> None:
    from dmr.cli.chat import Chat
    from dmr.cli.line_editor import LineEditor

    server.get_model(model, dict[str, Any])  # an absent server or model is told before the first question
    chat = Chat(server, model, display, system=system, sampling=sampling, verbose=verbose)
    with LineEditor(history_file) as editor:
        chat.run(editor)


def _history_file() -> Path:
    return Path(click.get_app_dir("dmr")) / "history"
