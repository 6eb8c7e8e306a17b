"""`dmr context`: servers by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from dmr.cli.contexts import DEFAULT, Contexts, Endpoint, read_contexts, write_contexts
from dmr.cli.json_output import json_option, print_json
from dmr.cli.tls import Tls, with_https
from dmr.cli.values import format_table
from dmr.errors import Conflict, InvalidRequest

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_EPILOG = """\
--server and MODEL_RUNNER_HOST go before the context in use.

\b
Examples:
  dmr context create lab --host lab.example.com:12434 --description "The big one"
  dmr context use lab
  dmr context use default
"""


def _complete(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    names = [DEFAULT, *read_contexts().contexts]
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


@click.group("context", short_help="Keep servers by name, and choose one.", epilog=_EPILOG)
def context_command() -> None:
    """Keep servers by name, and choose the one that all commands talk to."""


@context_command.command("create", short_help="Keep a server under a name.")
@click.argument("name")
@click.option("--host", metavar="URL", required=True, help="Where the server is; HOST:PORT will do.")
@click.option("--tls", is_flag=True, help="Talk https to HOST:PORT.")
@click.option("--tls-skip-verify", is_flag=True, help="Take any certificate: anybody can pose as the server.")
@click.option(
    "--tls-ca-cert",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path),
    help="Trust the authority in this file (PEM), and no other.",
)
@click.option("--description", default="", help="A few words about it.")
def create_command(
    name: str, host: str, tls: bool, tls_skip_verify: bool, tls_ca_cert: Path | None, description: str
) -> None:
    """Keep the server at URL as NAME. `dmr context use NAME` chooses it."""
    from dmr.cli.address import parse_address

    if not _NAME.fullmatch(name) or name == DEFAULT:
        raise InvalidRequest(
            f"{name!r} cannot be a context's name: take letters, digits, '.', '_', '-', not '{DEFAULT}'."
        )
    contexts = read_contexts()
    if name in contexts.contexts:
        raise Conflict(f"There is a context {name} already: `dmr context rm {name}` makes room.")
    address = parse_address(with_https(host) if tls else host)
    endpoint = Endpoint(address.url, description, Tls(tls_skip_verify, str(tls_ca_cert or "")))
    write_contexts(msgspec.structs.replace(contexts, contexts={**contexts.contexts, name: endpoint}))
    click.echo(name)


@context_command.command("use", short_help="Choose a server.")
@click.argument("name", shell_complete=_complete)
def use_command(name: str) -> None:
    """Let all commands talk to the server NAME from now on; `default` is the one without a name."""
    contexts = read_contexts()
    if name != DEFAULT:
        contexts.named(name)
    write_contexts(msgspec.structs.replace(contexts, current=name))
    click.echo(name)


@context_command.command("ls", short_help="List the servers.")
@json_option
def ls_command(as_json: bool) -> None:
    """List the servers; * is the one in use."""
    contexts = read_contexts()
    rows = [(name, *_shown(contexts, name)) for name in (DEFAULT, *sorted(contexts.contexts))]
    if as_json:
        print_json([_object(contexts, name) for name, *_ in rows])
    else:
        click.echo(format_table(("NAME", "HOST", "DESCRIPTION", "CURRENT"), rows))


@context_command.command("inspect", short_help="Print all about servers as JSON.")
@click.argument("names", nargs=-1, required=True, shell_complete=_complete)
def inspect_command(names: tuple[str, ...]) -> None:
    """Print all that is kept about NAMES, as JSON."""
    contexts = read_contexts()
    print_json([_object(contexts, name) for name in names])


@context_command.command("rm", short_help="Forget servers.")
@click.argument("names", nargs=-1, required=True, shell_complete=_complete)
def rm_command(names: tuple[str, ...]) -> None:
    """Forget NAMES. The one in use cannot be forgotten."""
    contexts = read_contexts()
    for name in names:
        contexts.named(name)
        if name == contexts.current:
            raise Conflict(
                f"The context {name} is in use: choose another one first, as in `dmr context use {DEFAULT}`."
            )
    kept = {name: endpoint for name, endpoint in contexts.contexts.items() if name not in names}
    write_contexts(msgspec.structs.replace(contexts, contexts=kept))
    for name in names:
        click.echo(name)


def _shown(contexts: Contexts, name: str) -> tuple[str, str, str]:
    shown = _object(contexts, name)
    return shown["host"], shown.get("description", ""), "*" if shown["current"] else ""


def _object(contexts: Contexts, name: str) -> dict[str, Any]:
    if name == DEFAULT:
        from dmr.cli.address import own_address
        from dmr.config import read_settings

        endpoint = Endpoint(own_address(read_settings()), "Where this machine's server listens")
    else:
        endpoint = contexts.named(name)
    fields = {key: value for key, value in msgspec.to_builtins(endpoint).items() if value}
    return {"name": name, **fields, "current": name == contexts.current}
