"""`dmr show`, `dmr inspect`: all about one model, for people and for programs."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import click

from dmr.cli.json_output import json_option, print_json
from dmr.cli.server import complete_model, connect, find_models
from dmr.cli.values import printable

if TYPE_CHECKING:
    from dmr.cli.replies import Model

_MAX_VALUE_LENGTH = 200  # of one metadata value in the text; the JSON has all of it


@click.command("show", short_help="Show what a model is.")
@click.argument("model", shell_complete=complete_model)
@click.option("-r", "--remote", is_flag=True, help="Look at the registry, not into the store.")
@json_option
@click.pass_context
def show_command(ctx: click.Context, model: str, remote: bool, as_json: bool) -> None:
    """Show what MODEL is: names, format, size and the metadata of its file."""
    from dmr.cli.replies import Model

    if as_json:
        print_json(_model(ctx, model, dict[str, Any], remote))
    else:
        click.echo(describe(_model(ctx, model, Model, remote)))


@click.command("inspect", short_help="Print everything about a model as JSON.")
@click.argument("model", shell_complete=complete_model)
@click.option("--openai", "as_served", is_flag=True, help="Print what GET /engines/v1/models/MODEL tells instead.")
@click.option("-r", "--remote", is_flag=True, help="Look at the registry, not into the store.")
@click.pass_context
def inspect_command(ctx: click.Context, model: str, as_served: bool, remote: bool) -> None:
    """Print everything that the server tells about MODEL, as JSON."""
    if as_served and remote:
        raise click.UsageError("--openai and --remote exclude each other.")
    print_json(connect(ctx).served_model(model) if as_served else _model(ctx, model, dict[str, Any], remote))


def _model(ctx: click.Context, name: str, kind: type[Any], remote: bool) -> Any:
    models = connect(ctx) if remote else find_models(ctx)  # without a server nobody can look
    return models.get_model(name, kind, remote=remote)


def describe(model: Model) -> str:
    """The model in lines, with the metadata of its file in the order of their keys."""
    config = model.config
    lines = [f"Model:       {model.id}", *_tag_lines(model.tags)]
    if model.created > 0:
        lines.append(f"Created:     {datetime.fromtimestamp(model.created, timezone.utc):%Y-%m-%dT%H:%M:%SZ}")
    values = {
        "Format": config.format,
        "Architecture": config.architecture,
        "Parameters": config.parameters,
        "Size": config.size,
        "Quantization": config.quantization,
        "Context Size": config.context_size or config.gguf.get(f"{config.architecture}.context_length", ""),
        "Capabilities": ", ".join(model.capabilities),
    }
    lines += ["", *(f"{name + ':':<13} {value}" for name, value in values.items() if value)]
    if config.gguf:
        lines += ["", "GGUF Metadata:", *(f"  {key}: {_short(config.gguf[key])}" for key in sorted(config.gguf))]
    return printable("\n".join(lines))


def _tag_lines(tags: tuple[str, ...]) -> list[str]:
    return [f"{'Tags:' if number == 0 else '':<12} {tag}" for number, tag in enumerate(tags)]


def _short(value: str) -> str:
    line = value.replace("\r", "").replace("\n", "\\n")
    return line if len(line) <= _MAX_VALUE_LENGTH else f"{line[:_MAX_VALUE_LENGTH]}…"
