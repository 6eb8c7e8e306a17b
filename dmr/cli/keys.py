"""`dmr keys`: the file of keys that let clients in."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import msgspec

from dmr.cli.json_output import json_option, print_json
from dmr.cli.values import format_table
from dmr.config import read_settings
from dmr.config.keys import INFERENCE, NAME, SCOPES, ApiKey, digest_of_key, format_key, new_key, parse_keys, read_keys
from dmr.errors import Conflict, InvalidRequest, StoreError

_EPILOG = """\
A running server takes changes on when it gets SIGHUP: kill -HUP PID.

\b
Examples:
  dmr keys new alice --file keys.toml
  dmr keys new ops --scope admin --expires 90d
  DMR_KEYS=keys.toml dmr serve
  dmr --api-key dmr_... list
"""
_DAYS = re.compile(r"(\d{1,5})d")
_file_option = click.option(
    "--file",
    "path",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file of keys. Default: that of DMR_KEYS or the settings file.",
)


@click.group("keys", short_help="Make and withdraw the keys that let clients in.", epilog=_EPILOG)
def keys_command() -> None:
    """Make and withdraw the keys of the server that DMR_KEYS, or 'keys' in its settings file, names a file of."""


@keys_command.command("new", short_help="Make a key, and print it once.")
@click.argument("name")
@_file_option
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(SCOPES),
    help="What it is for; may be given several times. Default: inference. 'admin' is for everything.",
)
@click.option("--weight", type=float, help="Its share of an engine beside those of others. Default: 1.")
@click.option("--max-requests", type=int, metavar="NUMBER", help="Requests it may have in progress at a time.")
@click.option("--requests-per-minute", type=int, metavar="NUMBER", help="Requests it may send in a minute.")
@click.option("--tokens-per-minute", type=int, metavar="NUMBER", help="Tokens it may read and write in a minute.")
@click.option("--expires", metavar="WHEN", help="When it ends: a date like 2027-01-31, or days from now like 90d.")
def new_command(name: str, path: Path | None, scopes: tuple[str, ...], expires: str | None, **limits: Any) -> None:
    """Make a key for NAME and print it. Only its hash is kept: it cannot be shown again."""
    path = _path(path)
    if not NAME.fullmatch(name):
        raise InvalidRequest(f"{name!r} cannot be a key's name: take letters, digits, '_' and '-', 64 at most.")
    text = _read(path)
    if any(key.name == name for key in parse_keys(text.encode(), str(path))):
        raise Conflict(f"There is a key '{name}' already: `dmr keys rm {name}` makes room.")
    plain = new_key()
    given = {field: value for field, value in limits.items() if value is not None}
    key = ApiKey(
        name=name,
        digest=digest_of_key(plain),
        scopes=frozenset(scopes or (INFERENCE,)),
        expires=_moment(expires) if expires else None,
        **given,
    )
    text += ("" if not text or text.endswith("\n") else "\n") + ("\n" if text else "") + format_key(key)
    parse_keys(text.encode(), str(path))
    _write(path, text)
    click.echo(plain)
    click.echo(f"This is the only time that it is shown. {path} has its hash.", err=True)


@keys_command.command("ls", short_help="List the keys.")
@_file_option
@json_option
def ls_command(path: Path | None, as_json: bool) -> None:
    """List the keys: what each is for and what it may do. The keys themselves are nowhere to be had."""
    keys = read_keys(_path(path))
    if as_json:
        print_json([_object(key) for key in keys])
        return
    header = ("NAME", "SCOPES", "WEIGHT", "AT A TIME", "REQUESTS/MIN", "TOKENS/MIN", "EXPIRES")
    click.echo(format_table(header, [_row(key) for key in keys]))


@keys_command.command("rm", short_help="Withdraw keys.")
@click.argument("names", nargs=-1, required=True)
@_file_option
def rm_command(names: tuple[str, ...], path: Path | None) -> None:
    """Take the keys of NAMES out of the file."""
    path = _path(path)
    text = _read(path)
    known = parse_keys(text.encode(), str(path))
    for name in names:
        if all(key.name != name for key in known):
            raise InvalidRequest(f"There is no key '{name}' in {path}.")
    kept = tuple(key for key in known if key.name not in names)
    left = "".join(_without(text.splitlines(keepends=True), names))
    if parse_keys(left.encode(), str(path)) != kept:
        raise InvalidRequest(f"{path} is written in a way of its own: take the tables out by hand.")
    _write(path, left)
    for name in names:
        click.echo(name)


def _path(given: Path | None) -> Path:
    path = given or read_settings().keys
    if path is None:
        raise InvalidRequest("Which file? Give --file, or set DMR_KEYS to the one that the server reads.")
    return path


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError):
        read_keys(path)  # says what is wrong
        raise


def _write(path: Path, text: str) -> None:
    """Replace the file at once; only its owner may read a new one."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
        part.touch(mode=0o600)
        part.write_text(text, encoding="utf-8")
        part.chmod(mode)
        part.replace(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}.") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def _without(lines: Iterable[str], names: tuple[str, ...]) -> Iterable[str]:
    """The lines that belong to no table of these names."""
    is_gone = False
    for line in lines:
        header = re.match(r"\s*\[\s*([A-Za-z0-9_-]+)\s*\]", line)
        if header is not None:
            is_gone = header[1] in names
        if not is_gone:
            yield line


def _moment(text: str) -> float:
    days = _DAYS.fullmatch(text.strip())
    if days is not None:
        return float(int(time.time()) + int(days[1]) * 86400)
    try:
        day = datetime.date.fromisoformat(text.strip())
    except ValueError:
        raise InvalidRequest(
            f"{text!r} is no end of a key: expected a date like 2027-01-31, or days as in 90d."
        ) from None
    return datetime.datetime(day.year, day.month, day.day, tzinfo=datetime.timezone.utc).timestamp()


def _day(key: ApiKey) -> str | None:
    if key.expires is None:
        return None
    return datetime.datetime.fromtimestamp(key.expires, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _row(key: ApiKey) -> tuple[str, ...]:
    scopes = ", ".join(scope for scope in SCOPES if scope in key.scopes)
    limits = [str(limit or "-") for limit in (key.max_requests, key.requests_per_minute, key.tokens_per_minute)]
    return (key.name, scopes, f"{key.weight:g}", *limits, _day(key) or "never")


def _object(key: ApiKey) -> dict[str, Any]:
    fields = msgspec.structs.asdict(key)
    del fields["digest"]
    return {**fields, "scopes": [scope for scope in SCOPES if scope in key.scopes], "expires": _day(key)}
