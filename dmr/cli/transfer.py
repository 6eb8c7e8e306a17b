"""`dmr pull` and `dmr push`: the server moves a model, and tells how far it is, one JSON object a line."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import click

from dmr.cli.missing import no_such_model
from dmr.cli.server import complete_model, pass_server
from dmr.cli.values import printable

if TYPE_CHECKING:
    from dmr.cli.replies import Step
    from dmr.cli.server_api import ServerApi

Show = Callable[["Step", bytes], None]
Request = tuple[str, dict[str, "str | bool"]]

_RETRY_SECONDS = (1, 2, 4, 8)
_RETRY_STATUSES = (502, 503, 504)
_HUBS = ("hf.co/", "huggingface.co/")
_INSECURE_HELP = "Reach the registry over plain http, or over https without a look at its certificate."
_EPILOG = """\
HF_TOKEN goes along as the token for models of hf.co. What was pulled before an interruption is kept, and the next pull
goes on from there.

\b
Examples:
  dmr pull smollm2
  dmr pull hf.co/bartowski/SmolLM2-135M-Instruct-GGUF:Q4_K_M
"""


@click.command("pull", short_help="Pull a model from a registry or from Hugging Face.", epilog=_EPILOG)
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print the server's steps as JSON, one a line.")
@click.option("--insecure", is_flag=True, help=_INSECURE_HELP)
@pass_server
def pull_command(server: ServerApi, model: str, as_json: bool, insecure: bool) -> None:
    """Pull MODEL into the server's store. Ctrl-C stops it."""
    transfer = _transfer_json if as_json else _transfer_shown
    transfer(server, model, pull_request(model, insecure))


@click.command("push", short_help="Push a model to a registry.")
@click.argument("model", shell_complete=complete_model)
@click.option("--json", "as_json", is_flag=True, help="Print the server's steps as JSON, one a line.")
@click.option("--insecure", is_flag=True, help=_INSECURE_HELP)
@pass_server
def push_command(server: ServerApi, model: str, as_json: bool, insecure: bool) -> None:
    """Push MODEL to the registry that its name begins with. `dmr tag` gives it such a name."""
    transfer = _transfer_json if as_json else _transfer_shown
    transfer(server, model, _push_request(model, insecure))


def pull_missing(server: ServerApi, model: str) -> None:
    """Pull a model that a command needs, telling it on stderr."""
    click.echo(f"Unable to find model '{printable(model)}' locally. Pulling from the server.", err=True)
    click.echo(_show_steps(server, model, pull_request(model)), err=True)


def push_model(server: ServerApi, model: str) -> None:
    """Push what a command has made, telling it on stderr."""
    click.echo(_show_steps(server, model, _push_request(model)), err=True)


def pull_request(model: str, insecure: bool = False) -> Request:
    """Path and body."""
    return "/models/create", {"from": model, **_token(model), **_insecure(insecure)}


def _push_request(model: str, insecure: bool = False) -> Request:
    from dmr.cli.server_api import model_path

    return f"{model_path(model)}/push", {**_token(model), **_insecure(insecure)}


def _insecure(insecure: bool) -> dict[str, bool]:
    """Left out where it says nothing: servers that do not know it need not be asked."""
    return {"insecure": True} if insecure else {}


def _token(model: str) -> dict[str, str]:
    """The hub's token is for nobody else."""
    token = os.environ.get("HF_TOKEN", "").strip()
    return {"bearer-token": token} if token and model.strip().lower().startswith(_HUBS) else {}


def _transfer_shown(server: ServerApi, model: str, request: Request) -> None:
    click.echo(_show_steps(server, model, request))


def _transfer_json(server: ServerApi, model: str, request: Request) -> None:
    transfer(server, model, request, lambda _step, line: click.echo(line), lambda text: click.echo(text, err=True))


def _show_steps(server: ServerApi, model: str, request: Request) -> str:
    """Bars on a terminal; the last message."""
    from dmr.cli.progress import ByteBars

    with ByteBars() as bars:

        def show(step: Step, _line: bytes) -> None:
            if step.type == "warning":
                bars.say(f"Warning: {printable(step.message)}")
            elif step.type == "progress" and step.layer.id:
                bars.update(_short(step.layer.id), step.layer.current, step.layer.size)
            elif step.type == "progress" and step.message:
                bars.say(printable(step.message))

        return printable(transfer(server, model, request, show, bars.say))


def _short(layer: str) -> str:
    """As much of a digest as tells layers apart."""
    return layer.removeprefix("sha256:")[:12]


def transfer(server: ServerApi, model: str, request: Request, show: Show, say: Callable[[str], None]) -> str:
    """Let the server move a model; the message of its success. `show` gets each step, with its line.

    What may pass (a lost connection, a gateway's error) is tried again up to four times.

    Raises:
        ServerNotRunning: there was no server from the beginning.
        ServerError: it failed.
    """
    from dmr.cli.transport import ServerError, ServerNotRunning

    for attempt, seconds in enumerate((*_RETRY_SECONDS, None)):
        try:
            return _attempt(server, request, show)
        except (ServerError, ServerNotRunning) as error:
            if seconds is None or not _may_pass(error, attempt):
                raise _explained(error, model, path=request[0]) from None
            say(f"{printable(error.message)} Trying again in {seconds} s ({attempt + 1}/{len(_RETRY_SECONDS)}).")
            time.sleep(seconds)
    raise AssertionError("the last attempt returns or raises")


def _attempt(server: ServerApi, request: Request, show: Show) -> str:
    import msgspec

    from dmr.cli.transport import ConnectionLost, ServerError

    path, body = request
    # Without exactly this header upstream escapes the lines as if they were HTML.
    with server.stream("POST", path, body=msgspec.json.encode(body), headers={"Accept": "application/json"}) as pieces:
        for step, line in _steps(server, pieces):
            if step.type == "error":
                raise ServerError(step.message.removeprefix("Error: ") or "The transfer failed.")
            show(step, line)
            if step.type == "success":
                return step.message
    raise ConnectionLost("The server ended before the model was there.")


def _steps(server: ServerApi, pieces: Iterable[bytes]) -> Iterator[tuple[Step, bytes]]:
    from dmr.cli.lines import read_lines
    from dmr.cli.replies import Step

    with server.failures():  # a line that is too long, too
        for line in read_lines(pieces):
            if line.strip():
                yield server.decode(line, Step), line


def _may_pass(error: Exception, attempt: int) -> bool:
    from dmr.cli.transport import ConnectionLost, ServerError, ServerNotRunning

    if isinstance(error, ServerNotRunning):
        return attempt > 0  # it was there a moment ago
    return isinstance(error, ConnectionLost) or (isinstance(error, ServerError) and error.status in _RETRY_STATUSES)


def _explained(error: Exception, model: str, path: str) -> Exception:
    """What to do about the two refusals that users can do something about."""
    from dmr.cli.transport import ServerError

    status = getattr(error, "status", 0)
    text = getattr(error, "message", "")
    if status == 401 and text == "Unauthorized":
        advice = "set HF_TOKEN" if model.lower().startswith(_HUBS) else "log the server's user in to that registry"
        return ServerError(f"Access to {model} is denied: it is private, gated or not there; {advice}.", status=401)
    if status == 404 and path.endswith("/push"):
        return no_such_model(model)
    if status == 404 and text.lower() == "model not found":
        return ServerError(f"There is no model {model}; `dmr search` finds those that there are.", status=404)
    return error
