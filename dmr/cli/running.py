"""`dmr ps`, `dmr unload`, `dmr df`: what is loaded, and what it all takes."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

import click

from dmr.cli.server import complete_model, pass_server
from dmr.cli.values import format_table, human_duration, human_size

if TYPE_CHECKING:
    from dmr.cli.replies import Runner
    from dmr.cli.server_api import ServerApi


@click.command("ps", short_help="List the models that are loaded.")
@pass_server
def ps_command(server: ServerApi) -> None:
    """List the models that are loaded. KEEP ALIVE is how long each stays loaded after its last use."""
    from dmr.cli.models import display_name

    rows = [
        (display_name(r.model_name), r.backend_name, r.mode, _status(r), _keep_alive(r.keep_alive))
        for r in server.running_models()
    ]
    click.echo(format_table(("MODEL NAME", "BACKEND", "MODE", "STATUS", "KEEP ALIVE"), rows))


@click.command("unload", short_help="Unload models from memory (alias: stop).")
@click.argument("models", nargs=-1, shell_complete=complete_model)
@click.option("--all", "everything", is_flag=True, help="Unload every model.")
@pass_server
def unload_command(server: ServerApi, models: tuple[str, ...], everything: bool) -> None:
    """Unload MODELS from memory; the ones that are answering a request are left alone."""
    if bool(models) == everything:
        raise click.UsageError("Give the names of models, or --all.")
    count = server.unload(list(models), everything=everything)
    if count:
        click.echo(f"Unloaded {count} model(s).")
    else:
        click.echo("No models are running." if everything else "No such model(s) running.")


@click.command("df", short_help="Show how much disk space the models take.")
@pass_server
def df_command(server: ServerApi) -> None:
    """Show how much disk space the models take (1 MB = 1000000 bytes)."""
    usage = server.disk_usage()
    rows = [("Models", human_size(usage.models_disk_usage))]
    if usage.default_backend_disk_usage > 0:
        rows.append(("Inference engine", human_size(usage.default_backend_disk_usage)))
    click.echo(format_table(("TYPE", "SIZE"), rows))


def _status(runner: Runner) -> str:
    if runner.loading:
        return "Loading..."
    if runner.in_use:
        return "In use"
    if runner.last_used.year < 1970:
        return "Not used yet"
    age = datetime.now(timezone.utc) - runner.last_used
    return f"Used {human_duration(age.total_seconds()).lower()} ago"


def _keep_alive(text: str) -> str:
    """`10m0s`, as the server writes it, to `10m`."""
    if text.startswith("-"):
        return "Forever"
    for ending in ("m0s", "h0m"):
        text = text[:-2] if text.endswith(ending) else text
    return text
