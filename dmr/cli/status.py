"""`dmr status`: is the server running."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from dmr.cli.server import pass_server
from dmr.cli.values import format_table

if TYPE_CHECKING:
    from dmr.cli.server_api import ServerApi


@click.command("status", short_help="Tell whether the server is running.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@pass_server
@click.pass_context
def status_command(ctx: click.Context, server: ServerApi, as_json: bool) -> None:
    """Tell whether the server is running, and its engines. The exit status is 1 if it is not."""
    from dmr.cli.transport import ServerNotRunning

    try:
        backends = server.backends()
    except ServerNotRunning as error:
        if not as_json:
            raise
        click.echo(json.dumps({"running": False, "endpoint": server.address.url, "reason": error.message}, indent=4))
        ctx.exit(1)
    if as_json:
        click.echo(json.dumps({"running": True, "endpoint": server.address.url, "backends": backends}, indent=4))
        return
    click.echo(f"dmr is running at {server.address.url}")
    if backends:
        rows = [(name, *_status_and_details(text)) for name, text in sorted(backends.items())]
        click.echo("\n" + format_table(("BACKEND", "STATUS", "DETAILS"), rows))


def _status_and_details(text: str) -> tuple[str, str]:
    status, _, details = text.partition(":")
    return status.strip(), details.strip()
