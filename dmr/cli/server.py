"""What commands share about the server: the `--server` address, and completion of model names."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import click
from click.core import ParameterSource

from dmr.cli.address import Address, own_address, parse_address
from dmr.cli.contexts import read_contexts
from dmr.cli.tls import Tls, read_tls, with_https
from dmr.config import read_settings
from dmr.errors import DmrError, InvalidRequest

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from dmr.cli.local_models import LocalModels
    from dmr.cli.server_api import ServerApi

    Models = ServerApi | LocalModels

P = ParamSpec("P")
R = TypeVar("R")


def connect(ctx: click.Context) -> ServerApi:
    """A client of the server that `--server` names, the context in use, or the settings; closed with the context.

    Raises:
        InvalidRequest, StoreError
    """
    from dmr.cli.server_api import ServerApi

    root = ctx.find_root()
    server = ServerApi(*_endpoint(root))
    if key := own_key(root):
        server.headers["Authorization"] = f"Bearer {key}"
    ctx.call_on_close(server.close)
    return server


def own_key(root: click.Context) -> str:
    """The key that the server is to be asked with; empty = none. Raises InvalidRequest."""
    key = (root.params.get("api_key") or "").strip()
    if not re.fullmatch(r"[\x21-\x7e]*", key):
        raise InvalidRequest("What --api-key or DMR_API_KEY gives is no API key: it has blanks, or is not ASCII.")
    return key


def connect_elsewhere(ctx: click.Context, url: str) -> ServerApi:
    """A client of another program's server, of which less can be asked; closed with the context."""
    from dmr.cli.other_server import OtherServer

    server = OtherServer(url)
    ctx.call_on_close(server.close)
    return server


def _endpoint(root: click.Context) -> tuple[Address, Tls]:
    wants_tls, tls = read_tls()
    if root.params.get("tls_ca"):
        tls = Tls(tls.skip_verify, str(root.params["tls_ca"]))
    if root.get_parameter_source("server") is not ParameterSource.DEFAULT:
        given = root.params["server"]
        return parse_address(with_https(given) if wants_tls else given), tls
    endpoint = read_contexts().endpoint
    if endpoint is not None:
        return parse_address(endpoint.host), endpoint.tls if endpoint.tls != Tls() else tls
    return parse_address(own_address(read_settings())), tls


def pass_server(command: Callable[Concatenate[ServerApi, P], R]) -> Callable[P, R]:
    """Call a command with a client of the server as its first argument."""

    @functools.wraps(command)
    def with_server(*args: P.args, **kwargs: P.kwargs) -> R:
        return command(connect(click.get_current_context()), *args, **kwargs)

    return with_server


def pass_models(command: Callable[Concatenate[Models, P], R]) -> Callable[P, R]:
    """Call a command with the models as its first argument: a client of the server, or the store on disk."""

    @functools.wraps(command)
    def with_models(*args: P.args, **kwargs: P.kwargs) -> R:
        return command(find_models(click.get_current_context()), *args, **kwargs)

    return with_models


def find_models(ctx: click.Context) -> Models:
    """The server's models; where none answers on this machine, those of the store on disk, which is told on stderr.

    Who has typed an address means that server and no other.
    """
    server = connect(ctx)
    is_typed = ctx.find_root().get_parameter_source("server") is ParameterSource.COMMANDLINE
    if is_typed or not server.address.is_local or server.address.accepts():
        return server
    from dmr.cli.local_models import LocalModels
    from dmr.config import read_settings

    path = read_settings().models_path
    click.echo(f"No server answers at {server.address.url}: this is the store at {path}.", err=True)
    return LocalModels(path)


def complete_model(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The models that the server has, for the shell's completion."""
    from click.shell_completion import CompletionItem

    from dmr.cli.models import display_name
    from dmr.cli.replies import Model

    try:
        models = connect(ctx).list_models(Model)
    except DmrError:
        return []
    names = sorted(display_name(tag) for model in models for tag in model.tags)
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]
