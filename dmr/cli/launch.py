"""`dmr launch`: start a known program so that it uses this server."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import click

from dmr.cli.apps import APPS, CONTAINER_GATEWAY, CONTAINER_PROGRAM, CONTAINERS, App, Container, Setup, Target
from dmr.cli.json_output import print_json
from dmr.cli.server import complete_model, connect, own_key
from dmr.cli.values import format_table
from dmr.errors import InvalidRequest, StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dmr.cli.replies import Model
    from dmr.cli.server_api import ServerApi


_EPILOG = """\
What comes after -- goes to the program. Its own settings are left as they are: what it must know comes with its
environment and arguments, and counts for this start only.

\b
Examples:
  dmr launch                        what can be started
  dmr launch claude --model qwen3
  dmr launch codex -- exec "Which folder is this?"
  dmr launch openwebui --port 8080 --detach
"""


@click.command("launch", short_help="Start a program that uses this server.", epilog=_EPILOG)
@click.argument("app", required=False, metavar="[APP]", type=click.Choice(sorted([*APPS, *CONTAINERS])))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option("--model", shell_complete=complete_model, help="Default: the only one there is.")
@click.option("--dry-run", is_flag=True, help="Print what would be started, and start nothing.")
@click.option("--config", is_flag=True, help="Print the settings that it would get, and start nothing.")
@click.option("--port", type=click.IntRange(1, 65535), help="Containers: the web page's port on this machine.")
@click.option("--image", help="Containers: another image.")
@click.option("--detach", is_flag=True, help="Containers: go on in the background.")
@click.option("--json", "as_json", is_flag=True, help="Without APP: list them as JSON.")
@click.pass_context
def launch_command(
    ctx: click.Context,
    app: str | None,
    arguments: tuple[str, ...],
    model: str | None,
    dry_run: bool,
    config: bool,
    port: int | None,
    image: str | None,
    detach: bool,
    as_json: bool,
) -> None:
    """Start APP, one of the programs that are listed without it, with this server and a model of its."""
    if app is None:
        _list(as_json)
        return
    if as_json:
        raise click.UsageError("--json is for the list of what can be started: leave out APP.")
    server = connect(ctx)
    if server.address.url.startswith("unix:"):
        raise InvalidRequest("Programs do not know Unix sockets: name a port of the server, as in --server HOST:PORT.")
    if app in APPS:
        if port or image or detach:
            raise click.UsageError(f"--port, --image and --detach are for containers, which {app} is not.")
        known = APPS[app]
        target = _with_key(ctx, _target(server, model, server.address.url, must_exist=not dry_run))
        _start_app(known, known.setup(target), arguments, dry_run=dry_run, config=config)
    else:
        container = CONTAINERS[app]
        target = _with_key(ctx, _target(server, model, _seen_from_containers(server), must_exist=not dry_run))
        variables = container.environment(target)
        command = _container_command(app, container, variables, port, image, detach, arguments)
        _start_container(command, variables, is_local=server.address.is_local, dry_run=dry_run, config=config)


def _list(as_json: bool) -> None:
    programs = {name: (app.summary, app.program) for name, app in APPS.items()}
    programs |= {name: (container.summary, CONTAINER_PROGRAM) for name, container in CONTAINERS.items()}
    found = {program for _, program in programs.values() if shutil.which(program)}
    rows = [(name, summary, program) for name, (summary, program) in sorted(programs.items())]
    if as_json:
        print_json([{"app": app, "what": what, "installed": program in found} for app, what, program in rows])
        return
    shown = [(app, what, "yes" if program in found else f"no {program}") for app, what, program in rows]
    click.echo(format_table(("APP", "WHAT", "INSTALLED"), shown))


def _target(server: ServerApi, name: str | None, url: str, *, must_exist: bool) -> Target:
    from dmr.cli.replies import Model
    from dmr.cli.transport import ServerNotRunning

    try:
        models = server.list_models(Model)
    except ServerNotRunning:
        if must_exist or name is None:
            raise
        return Target(url, name)
    if name is None:
        name = _only_name(models)
    elif must_exist and not server.serves(name):
        raise InvalidRequest(f"There is no model {name}: `dmr pull {name}` brings it, `dmr list` shows what there is.")
    return Target(url, name, _context_of(models, name))


def _with_key(ctx: click.Context, target: Target) -> Target:
    key = own_key(ctx.find_root())
    return replace(target, key=key) if key else target


def _only_name(models: list[Model]) -> str:
    from dmr.cli.models import display_name

    names = sorted({display_name(tag) for model in models for tag in model.tags})
    if not names:
        raise InvalidRequest("There is no model yet: `dmr pull` brings one.")
    if len(names) > 1:
        raise InvalidRequest(f"There are several models: choose with --model, out of {', '.join(names)}.")
    return names[0]


def _context_of(models: list[Model], name: str) -> int | None:
    from dmr.cli.models import display_name

    for model in models:
        if name in model.tags or display_name(name) in map(display_name, model.tags):
            config = model.config
            text = str(config.context_size or config.gguf.get(f"{config.architecture}.context_length", ""))
            return int(text) if text.isascii() and text.isdigit() else None
    return None


def _start_app(app: App, setup: Setup, arguments: tuple[str, ...], *, dry_run: bool, config: bool) -> None:
    command = (app.program, *setup.arguments, *arguments)
    if config:
        click.echo(_settings(setup.environment, setup.files, setup.arguments))
        return
    if dry_run:
        files = {variable: str(_file_of(variable)) for variable in setup.files}
        click.echo(_command_line({**setup.environment, **files}, command))
        return
    program = shutil.which(app.program)
    if program is None:
        raise InvalidRequest(f"{app.program} is not installed: {app.installation}.")
    files = {variable: str(_write(variable, content)) for variable, content in setup.files.items()}
    _replace_this_process(program, command, {**os.environ, **setup.environment, **files})


def _settings(environment: Mapping[str, str], files: Mapping[str, str], arguments: tuple[str, ...]) -> str:
    lines = [f"{name}={value}" for name, value in environment.items()]
    lines += [f"{name} = a file with:\n{content.rstrip()}" for name, content in files.items()]
    return "\n".join([*lines, *([shlex.join(arguments)] if arguments else [])])


def _command_line(environment: Mapping[str, str], command: tuple[str, ...]) -> str:
    """As it could be typed into a shell."""
    return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in environment.items()), shlex.join(command)])


def _file_of(variable: str) -> Path:
    return Path(click.get_app_dir("dmr")) / "launch" / f"{variable.lower()}.json"


def _write(variable: str, content: str) -> Path:
    path = _file_of(variable)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}.") from None
    return path


def _seen_from_containers(server: ServerApi) -> str:
    """The server's address for a container, whose own loopback is another one."""
    if not server.address.is_local:
        return server.address.url
    parts = urlsplit(server.address.url)
    host = CONTAINER_GATEWAY + (f":{parts.port}" if parts.port else "")
    return urlunsplit(parts._replace(netloc=host))


def _container_command(
    name: str,
    container: Container,
    variables: Mapping[str, str],
    port: int | None,
    image: str | None,
    detach: bool,
    arguments: tuple[str, ...],
) -> tuple[str, ...]:
    published = f"127.0.0.1:{port or container.host_port}:{container.port}"
    how = ("--detach",) if detach else ("--rm", *(("--interactive", "--tty") if sys.stdin.isatty() else ()))
    return (
        *(CONTAINER_PROGRAM, "run", *how, "--name", f"dmr-{name}", "--publish", published),
        *("--add-host", f"{CONTAINER_GATEWAY}:host-gateway", "--volume", container.volume, *container.flags),
        *(part for variable, value in variables.items() for part in ("--env", f"{variable}={value}")),
        image or container.image,
        *arguments,
    )


def _start_container(
    command: tuple[str, ...], variables: Mapping[str, str], *, is_local: bool, dry_run: bool, config: bool
) -> None:
    if config:
        click.echo(_settings(variables, {}, ()))
        return
    if dry_run:
        click.echo(shlex.join(command))
        return
    program = shutil.which(CONTAINER_PROGRAM)
    if program is None:
        raise InvalidRequest(f"{CONTAINER_PROGRAM} is not installed, and this program comes in a container.")
    if is_local:
        click.echo(
            "A container cannot reach a server on 127.0.0.1: start it with `dmr serve --host 0.0.0.0`.", err=True
        )
    _replace_this_process(program, command, dict(os.environ))


def _replace_this_process(program: str, command: tuple[str, ...], environment: dict[str, str]) -> None:
    """The terminal, Ctrl-C and the exit status are the program's own."""
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execve(program, command, environment)
    except OSError as error:
        raise InvalidRequest(f"{program} cannot be started: {error.strerror}.") from None
