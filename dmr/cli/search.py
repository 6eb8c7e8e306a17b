"""`dmr search`: models that can be pulled, at the hubs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from dmr.cli.json_output import json_option, print_json
from dmr.cli.values import format_table, human_size, printable
from dmr.store.search_sources import EVERYWHERE, SOURCES

if TYPE_CHECKING:
    from dmr.store.pull import RegistryOptions
    from dmr.store.search_types import Found

_HEADER = ("NAME", "DESCRIPTION", "BACKEND", "SIZE", "DOWNLOADS", "STARS", "SOURCE")
_EPILOG = """\
SIZE is what a pull by that NAME brings; n/a where the hub does not tell, or has no Q4_K_M and several others.
No server is needed.

\b
Examples:
  dmr search qwen
  dmr search --source huggingface -n 5 "smollm2 135m"
  dmr search --json llama | jq -r .[].Name
"""


@click.command("search", short_help="Look for models that can be pulled.", epilog=_EPILOG)
@click.argument("term", required=False, default="")
@click.option("-n", "--limit", type=click.IntRange(1, 1000), default=32, show_default=True, help="How many at most.")
@click.option(
    "--source", type=click.Choice((EVERYWHERE, *SOURCES)), default=EVERYWHERE, show_default=True, help="Where to look."
)
@json_option
def search_command(term: str, limit: int, source: str, as_json: bool) -> None:
    """Look for models whose name or description holds TERM, the most pulled ones first. Without TERM: all."""
    import msgspec

    from dmr.store.search import search_models

    results = search_models(term, limit, _options(), source)
    for name, error in results.errors.items():
        click.echo(f"Warning: {name} could not be searched: {printable(error.message)}", err=True)
    if as_json:
        print_json(msgspec.to_builtins(results.found))
    elif results.found:
        click.echo(format_table(_HEADER, [_row(found) for found in results.found]))
    else:
        click.echo(f'No models found matching "{printable(term)}"' if term else "No models found")


def _options() -> RegistryOptions:
    from dmr.config import read_settings
    from dmr.store.pull import RegistryOptions

    registry = read_settings().registry
    return RegistryOptions(registry.insecure, registry.mirrors, None, os.environ, registry.certificates)


def _row(found: Found) -> Sequence[str]:
    return (
        found.name,
        found.description,
        found.backend,
        human_size(found.size) if found.size else "n/a",
        short_count(found.downloads),
        short_count(found.stars),
        found.source,
    )


def short_count(number: int) -> str:
    """`1.2M`, `45.0K`, `999`: as upstream writes them."""
    for limit, unit in ((1_000_000, "M"), (1_000, "K")):
        if number >= limit:
            return f"{number / limit:.1f}{unit}"
    return str(number)
