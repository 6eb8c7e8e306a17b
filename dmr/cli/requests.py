"""`dmr requests`: what the server was asked, and what it answered."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import click

from dmr.cli.json_output import print_json
from dmr.cli.server import complete_model, pass_server

if TYPE_CHECKING:
    from dmr.cli.server_api import ServerApi

_PATH = "/engines/requests"
_EPILOG = """\
What is kept of a request is decided where the server is started, by DMR_RECORD.

\b
Examples:
  dmr requests --model smollm2
  dmr requests --follow --include-existing
"""


@click.command("requests", short_help="Print the latest requests as JSON.", epilog=_EPILOG)
@click.option("--model", metavar="MODEL", shell_complete=complete_model, help="Only those to this model.")
@click.option("-f", "--follow", is_flag=True, help="Print requests when they are done, one a line, until Ctrl-C.")
@click.option("--include-existing", is_flag=True, help="With --follow: begin with those that were before.")
@pass_server
def requests_command(server: ServerApi, model: str | None, follow: bool, include_existing: bool) -> None:
    """Print the latest requests to each model and their answers, as JSON."""
    if include_existing and not follow:
        raise click.UsageError("--include-existing goes with --follow only.")
    wish = {"model": model, "include_existing": "true" if include_existing else None}
    query = urlencode({name: value for name, value in wish.items() if value})
    path = f"{_PATH}?{query}" if query else _PATH
    if follow:
        _follow(server, path)
    else:
        print_json(server.get(path, list[Any]))


def _follow(server: ServerApi, path: str) -> None:
    from dmr.cli.sse import read_named_events

    with server.follow(path, headers={"Accept": "text/event-stream"}) as pieces, server.failures():
        click.echo("Connected to request stream. Press Ctrl+C to stop.", err=True)
        for name, data in read_named_events(pieces):
            if name != "connected":
                click.echo(data.decode("utf-8", "replace"), err=name == "error")
                sys.stdout.flush()
    click.echo("Stream closed by server.", err=True)
