"""`dmr verify`: are the models on this disk still what they were?"""

from __future__ import annotations

import click

from dmr.cli.json_output import json_option, print_json
from dmr.cli.values import printable


@click.command("verify", short_help="Check that models are undamaged on disk.")
@click.argument("models", nargs=-1)
@json_option
@click.pass_context
def verify_command(ctx: click.Context, models: tuple[str, ...], as_json: bool) -> None:
    """Hash all files of MODELS, or of every model, in the store on this machine's disk, and tell which are damaged.

    The exit status is 1 if one is. A damaged model is mended by removing it and pulling it again.
    """
    from dmr.cli.local_models import LocalModels
    from dmr.config import read_settings

    local = LocalModels(read_settings().models_path)
    results = [{"model": name, "damaged": local.verify(name)} for name in models or local.store.names()]
    if as_json:
        print_json(results)
    else:
        for result in results:
            click.echo(_line(str(result["model"]), list(result["damaged"])))
    if any(result["damaged"] for result in results):
        ctx.exit(1)


def _line(name: str, damaged: list[str]) -> str:
    return printable(f"{name}: {'damaged: ' + ', '.join(damaged) if damaged else 'undamaged'}")
