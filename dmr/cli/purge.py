"""`dmr purge`: remove every model."""

from __future__ import annotations

import sys

import click

from dmr.cli.json_output import json_option, print_json
from dmr.cli.server import find_models

_WARNING = "WARNING! This removes all models, and everything that was downloaded of others."


@click.command("purge", short_help="Remove all models.")
@click.option("-f", "--force", is_flag=True, help="Do not ask, and remove models that are in use, too.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_context
def purge_command(ctx: click.Context, force: bool, yes: bool, as_json: bool) -> None:
    """Remove all models from the store. The exit status is 1 if you decide against it."""
    if not (force or yes):
        click.echo(_WARNING, err=True)
        click.echo("Are you sure you want to continue? [y/N] ", nl=False, err=True)
        if _typed().strip().lower() not in ("y", "yes"):
            _tell("Operation cancelled.", as_json=as_json, purged=False)
            ctx.exit(1)
    find_models(ctx).purge(force=force)
    _tell("All models are removed.", as_json=as_json, purged=True)


def _tell(text: str, *, as_json: bool, purged: bool) -> None:
    if as_json:
        print_json({"purged": purged})
    else:
        click.echo(text)


def _typed() -> str:
    return sys.stdin.readline() if sys.stdin is not None else ""
