"""`dmr ps`, `dmr unload`, `dmr df`: what is loaded, and what it all takes."""

from __future__ import annotations

import math
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import click

from dmr.cli.json_output import json_option, print_json
from dmr.cli.server import complete_model, pass_models, pass_server
from dmr.cli.values import format_table, human_duration, human_size, parse_duration, printable

if TYPE_CHECKING:
    from dmr.cli.replies import Runner
    from dmr.cli.server import Models
    from dmr.cli.server_api import ServerApi


@click.command("ps", short_help="List the models that are loaded.")
@json_option
@pass_server
def ps_command(server: ServerApi, as_json: bool) -> None:
    """List the models that are loaded. UNTIL tells when each is unloaded unless it is asked for again."""
    from dmr.cli.models import display_name
    from dmr.cli.replies import Runner

    if as_json:
        print_json(server.running_models(dict[str, Any]))
        return
    rows = [
        (display_name(r.model_name), r.backend_name, r.mode, until(r, datetime.now(timezone.utc)))
        for r in server.running_models(Runner)
    ]
    click.echo(format_table(("MODEL NAME", "BACKEND", "MODE", "UNTIL"), rows))


@click.command("unload", short_help="Unload models from memory (alias: stop).")
@click.argument("models", nargs=-1, shell_complete=complete_model)
@click.option("--all", "everything", is_flag=True, help="Unload every model.")
@click.option("--backend", metavar="NAME", default="", help="Only what this engine has loaded.")
@json_option
@pass_server
def unload_command(server: ServerApi, models: tuple[str, ...], everything: bool, backend: str, as_json: bool) -> None:
    """Unload MODELS from memory; the ones that are answering a request are left alone."""
    if bool(models) == everything:
        raise click.UsageError("Give the names of models, or --all.")
    count = server.unload(list(models), everything=everything, backend=backend)
    if as_json:
        print_json({"unloaded_runners": count})
    elif count:
        click.echo(f"Unloaded {count} model(s).")
    else:
        click.echo("No models are running." if everything else "No such model(s) running.")


@click.command("df", short_help="Show how much disk space the models take.")
@json_option
@pass_models
def df_command(models: Models, as_json: bool) -> None:
    """Show how much disk space the models take (1 MB = 1000000 bytes)."""
    usage = models.disk_usage()
    if as_json:
        print_json(usage)
        return
    unfinished, reclaimable = usage.get("incomplete_disk_usage", 0), usage.get("reclaimable_disk_usage", 0)
    sizes = {
        "Models": usage.get("models_disk_usage", 0) - unfinished - reclaimable,
        "Unfinished downloads": unfinished,
        "Reclaimable": reclaimable,
        "Inference engine": usage.get("default_backend_disk_usage", 0),
    }
    rows = [(kind, human_size(size)) for kind, size in sizes.items() if size > 0 or kind == "Models"]
    click.echo(format_table(("TYPE", "SIZE"), rows))


def until(runner: Runner, now: datetime) -> str:
    """When a loaded model leaves, in upstream's words."""
    if runner.loading:
        return f"Loading... {runner.loading_progress:.0%}" if 0 < runner.loading_progress < 1 else "Loading..."
    if runner.keep_alive.startswith("-"):
        return "Forever"
    if runner.in_use:
        return "In use"
    try:
        left = parse_duration(runner.keep_alive) if runner.keep_alive else math.inf
    except ValueError:
        return printable(runner.keep_alive)
    if runner.last_used.year < 1970:  # loaded, and not asked for yet
        return "Not used yet"
    left -= (now - runner.last_used).total_seconds()
    if math.isinf(left):
        return "Unknown"
    return f"{human_duration(left)} from now" if left > 0 else "Expiring"
