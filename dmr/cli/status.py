"""`dmr status`: is the server running."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dmr.cli.json_output import json_option, print_json
from dmr.cli.server import pass_server
from dmr.cli.values import format_table

if TYPE_CHECKING:
    from dmr.cli.server_api import ServerApi


@click.command("status", short_help="Tell whether the server is running.")
@json_option
@pass_server
@click.pass_context
def status_command(ctx: click.Context, server: ServerApi, as_json: bool) -> None:
    """Tell whether the server is running, and its engines. The exit status is 1 if it is not."""
    from dmr.cli.transport import ServerNotRunning

    told = {"kind": "dmr", "endpoint": server.address.url, "endpointHost": f"{server.address.url}/engines/v1/"}
    try:
        backends = server.backends()
    except ServerNotRunning as error:
        if not as_json:
            raise
        print_json({"running": False, **told, "reason": error.message})
        ctx.exit(1)
    if as_json:
        print_json({"running": True, "backends": backends, **told})
        return
    click.echo(f"dmr is running at {server.address.url}")
    if backends:
        rows = [(name, *_status_and_details(text)) for name, text in sorted(backends.items())]
        click.echo("\n" + format_table(("BACKEND", "STATUS", "DETAILS"), rows))


def _status_and_details(text: str) -> tuple[str, str]:
    status, _, details = text.partition(":")
    return status.strip(), details.strip()
