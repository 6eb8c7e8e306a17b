"""`dmr logs`: what the server and its engines wrote."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import click

from dmr.cli.server import pass_server
from dmr.cli.values import printable

if TYPE_CHECKING:
    from dmr.cli.server_api import ServerApi


@click.command("logs", short_help="Print the server's log.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("--no-engines", is_flag=True, help="Leave out what the engines wrote.")
@pass_server
def logs_command(server: ServerApi, follow: bool, no_engines: bool) -> None:
    """Print the log of the server and its engines, in the order of time."""
    from dmr.cli.lines import read_lines

    wish = {"follow": follow, "no-engines": no_engines}
    query = urlencode({name: "true" for name, is_wanted in wish.items() if is_wanted})
    with server.follow(f"/logs?{query}" if query else "/logs") as pieces, server.failures():
        for line in read_lines(pieces):
            _write(line)


def _write(line: bytes) -> None:
    """Text of requests may stand in it, which must not drive the terminal."""
    text = line.decode("utf-8", "replace")
    click.echo(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()
