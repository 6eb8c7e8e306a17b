"""`dmr config`: the settings that a server would start with, and who has set them."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click

from dmr.cli.json_output import json_option, print_json
from dmr.cli.server_options import VARIABLES as FLAGS
from dmr.cli.server_options import as_variables, server_options
from dmr.cli.values import format_table
from dmr.config import VARIABLES, Alias, Settings, UpstreamEngine
from dmr.config.file import PATH_VARIABLE, settings_path
from dmr.config.outside import masked, outside_variables
from dmr.config.reading import Effective, read_effective
from dmr.errors import InvalidRequest

_FLAG_OF = {variable: "--" + name.replace("_", "-") for name, variable in FLAGS.items()}
_EPILOG = """\
Flags go before environment variables, these before the settings file, and that before what is built in.

\b
Examples:
  dmr config
  dmr config --port 8080          what 'dmr serve --port 8080' would start with
  dmr config example > FILE       a settings file to begin with
  dmr config check FILE
"""


class _Source(NamedTuple):
    kind: str  # "default", "file", "environment", "flag"
    place: str = ""  # file and line, variable, flag

    def __str__(self) -> str:
        return self.place or self.kind


@click.group(
    "config", short_help="Show the server's settings and their sources.", invoke_without_command=True, epilog=_EPILOG
)
@server_options
@json_option
@click.pass_context
def config_command(ctx: click.Context, /, as_json: bool, **flags: Any) -> None:
    """Print the settings that 'dmr serve' would start with now, and for each who has set it.

    A server that is running already has those of its start.
    """
    given = as_variables(flags)
    ctx.obj = {**os.environ, **given}
    if ctx.invoked_subcommand is not None:
        return
    effective = read_effective(ctx.obj)
    if as_json:
        print_json(_as_json(effective, given, ctx.obj))
    else:
        click.echo(_as_table(effective, given, ctx.obj))


@config_command.command("path", short_help="Print where the settings file is looked for.")
@click.pass_obj
def path_command(environ: Mapping[str, str]) -> None:
    """Print where the settings file is looked for, whether it is there or not."""
    click.echo(_path(environ))


@config_command.command("check", short_help="Say whether a settings file is right.")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.pass_obj
def check_command(environ: Mapping[str, str], file: Path | None) -> None:
    """Say whether FILE, or the settings file that is in use, can be used together with the variables that are set.

    Exit status 1 and one line on stderr if not.
    """
    path = file or _path(environ)
    read_effective({**environ, PATH_VARIABLE: str(path)})
    click.echo(f"{path} is right.")


@config_command.command("example", short_help="Print a settings file with every key.")
def example_command() -> None:
    """Print a settings file with every key at its built-in value, each put out of action by '#'."""
    click.echo("\n".join(_example()))


def _path(environ: Mapping[str, str]) -> Path:
    path = settings_path(environ)
    if path is None:
        raise InvalidRequest(f"There is no place for a settings file: set HOME or {PATH_VARIABLE}.")
    return path


def _source(effective: Effective, field: str, given: Mapping[str, str]) -> _Source:
    variable = effective.variables.get(field)
    if variable is not None:
        return _Source("flag", _FLAG_OF[variable]) if variable in given else _Source("environment", variable)
    if effective.file is not None and field in effective.file.values:
        return _Source("file", effective.file.told(field))
    return _Source("default")


def _told(effective: Effective, name: str) -> str:
    """For what only the file can have: the place there."""
    file = effective.file
    return file.told(name) if file is not None and name in file.lines else "default"


def _as_json(effective: Effective, given: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, Any]:
    settings = effective.settings
    tables: dict[str, dict[str, Any]] = {}
    for row in VARIABLES.values():
        if row.kind is not Alias:
            source = _source(effective, row.field, given)
            tables.setdefault(row.section, {})[row.key] = {
                "value": _plain(operator.attrgetter(row.field)(settings)),
                "from": source.kind,
                "at": source.place or None,
            }
    return {
        "file": str(effective.file.path) if effective.file is not None else None,
        **tables,
        "aliases": {alias.pattern: alias.target for alias in settings.aliases},
        "engines": {engine.name: _engine(engine, environ) for engine in settings.upstreams},
        "environment": outside_variables(environ),
    }


def _as_table(effective: Effective, given: Mapping[str, str], environ: Mapping[str, str]) -> str:
    settings = effective.settings
    rows = [
        (f"{row.section}.{row.key}", _shown(operator.attrgetter(row.field)(settings)), row.field)
        for row in VARIABLES.values()
        if row.kind is not Alias
    ]
    lines = [(name, value, str(_source(effective, field, given))) for name, value, field in rows]
    for alias in settings.aliases:
        name = f"aliases.{alias.pattern}"
        lines.append((name, alias.target, effective.variables.get("aliases") or _told(effective, name)))
    for engine in settings.upstreams:
        for key, value in _engine(engine, environ).items():
            name = f"engines.{engine.name}.{key}"
            lines.append((name, _shown(value), _told(effective, name)))
    lines += [(name, value, "environment") for name, value in outside_variables(environ).items()]
    return format_table(("SETTING", "VALUE", "FROM"), lines)


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else masked("", value) if isinstance(value, str) else value


def _shown(value: Any) -> str:
    plain = _plain(value)
    if plain in (None, "", []):
        return "-"
    if isinstance(plain, bool):
        return str(plain).lower()
    if isinstance(plain, list):
        return ", ".join(map(str, plain))
    return f"{plain:g}" if isinstance(plain, float) else str(plain)


def _engine(engine: UpstreamEngine, environ: Mapping[str, str]) -> dict[str, Any]:
    """Its keys; of the variable that has its secret, whether it is set."""
    keys = {field: _plain(getattr(engine, field)) for field in UpstreamEngine.__struct_fields__ if field != "name"}
    if engine.api_key_env:
        keys["api_key_env"] += " (set)" if environ.get(engine.api_key_env) else " (not set)"
    return keys


def _example() -> Iterator[str]:
    defaults = Settings()
    yield "# Settings of dmr. Keys that are out of action have the values that are built in."
    yield "# An environment variable goes before the key beside which it stands."
    section = ""
    for name, row in VARIABLES.items():
        if row.kind is Alias:
            continue
        if row.section != section:
            section = row.section
            yield f"\n[{section}]"
        line = f"# {row.key} = {_toml(operator.attrgetter(row.field)(defaults))}"
        yield f"{line:<40} # {name}"
    yield ""
    yield "# Names that clients ask for, and the models that they get; '*' is any text. Models' own names go first."
    yield "[aliases]"
    yield '# "claude-*" = "ai/qwen3"'
    yield '# "gpt-*" = "ai/qwen3"'
    yield ""
    yield "# Servers beyond this machine that speak the same API; requests go there by /engines/NAME/v1 or by model."
    yield "# [engines.NAME]"
    yield '# url = "http://host:8000/v1"'
    yield '# api_key_env = "NAME_OF_A_VARIABLE"'


def _toml(value: Any) -> str:
    if value is None:
        return '""'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, (str, Path)):
        escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return repr(value)
