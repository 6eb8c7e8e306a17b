"""`dmr import`: a model from this machine into the store."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dmr.cli.import_folder import import_files, import_folder
from dmr.cli.json_output import json_option, print_json
from dmr.cli.server import complete_model, connect, find_models
from dmr.cli.values import human_size
from dmr.errors import InvalidModelFile

if TYPE_CHECKING:
    from dmr.cli.server import Models
    from dmr.cli.server_api import ServerApi
    from dmr.store.reference import Reference

Progress = Callable[[int, int], None]

_SHARD = re.compile(r"-[0-9]{5}-of-[0-9]{5}\.gguf$")
_EPILOG = """\
\b
Examples:
  dmr import SmolLM2-135M-Q4_K_M.gguf smollm2
  dmr import gemma.gguf --mmproj mmproj.gguf gemma3   with its projector: it sees
  dmr import ./gemma-3-4b-it gemma3             a folder: shards, a projector, a template, licences
  dmr import --convert-to Q8_0 ./SmolLM2 smol   a folder of safetensors; needs pip install 'dmr[convert]'
  dmr run "$(dmr import model.gguf mine:v1)" Hello
"""


@click.command("import", short_help="Put a GGUF file or a model's folder into the store.", epilog=_EPILOG)
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@click.argument("name", shell_complete=complete_model)
@click.option(
    "--mmproj",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The projector (GGUF) that belongs to FILE: with it the model sees or hears.",
)
@click.option("--offline", is_flag=True, help="Write into the store on disk, without a server.")
@click.option("--convert-to", "kind", default="", metavar="TYPE", help="Of safetensors: F16, Q8_0, Q4_K_M, …")
@json_option
@click.pass_context
def import_command(
    ctx: click.Context, file: Path, name: str, mmproj: Path | None, offline: bool, kind: str, as_json: bool
) -> None:
    """Put the model in FILE into the store as NAME, and print its full tag.

    FILE is a GGUF file, any file of a split model, or a folder with one model. It is copied and stays as it is. NAME
    moves here if it was another model's. When no server runs on this machine, the store on disk is written directly.
    """
    from dmr.store.reference import parse_reference

    reference = parse_reference(name)
    if file.is_dir():
        if mmproj:
            raise click.UsageError("--mmproj is for a GGUF file: name the file in the folder that it belongs to.")
        tags = import_folder(_models(ctx, offline), file, str(reference), kind).tags
    elif kind:
        raise click.UsageError("--convert-to is for folders of safetensors.")
    else:
        tags = _import(ctx, file, mmproj, reference, offline)
    tag = str(reference) if str(reference) in tags or not tags else tags[-1]
    if as_json:
        print_json({"model": tag, "tags": list(tags)})
    else:
        click.echo(tag)


def _import(
    ctx: click.Context, file: Path, mmproj: Path | None, reference: Reference, offline: bool
) -> tuple[str, ...]:
    """All names of what it has become."""
    _check_magic(file)
    if mmproj or _SHARD.search(file.name):
        return import_files(_models(ctx, offline), file, mmproj, str(reference)).tags
    server = None if offline else connect(ctx)
    if server is None or (server.address.is_local and not server.is_running()):
        return _import_offline(file, reference)
    return _import_online(server, file, reference)


def _models(ctx: click.Context, offline: bool) -> Models:
    """Where a model of several files goes: packed to a server, or straight into the store on disk."""
    from dmr.cli.local_models import LocalModels
    from dmr.config import read_settings

    return LocalModels(read_settings().models_path) if offline else find_models(ctx)


def _check_magic(file: Path) -> None:
    """Refuse what is no GGUF at all before gigabytes of it are sent."""
    try:
        with file.open("rb") as opened:
            magic = opened.read(4)
    except OSError as error:
        raise InvalidModelFile(f"{file} cannot be read: {error.strerror}.") from None
    if magic != b"GGUF":
        raise InvalidModelFile(f"{file} is not a GGUF file: it does not begin with 'GGUF'.")


def _import_online(server: ServerApi, file: Path, reference: Reference) -> tuple[str, ...]:
    from dmr.cli.upload import Upload

    with file.open("rb") as opened, _progress(file) as progress:
        return server.import_model(str(reference), Upload(opened, progress)).tags


def _import_offline(file: Path, reference: Reference) -> tuple[str, ...]:
    from dmr.config import read_settings
    from dmr.store.store import ModelStore

    path = read_settings().models_path
    click.echo(f"Importing without a server, straight into {path}.", err=True)
    with _progress(file) as progress:
        return ModelStore(path).import_gguf(file, str(reference), progress=progress).tags


@contextlib.contextmanager
def _progress(file: Path) -> Iterator[Progress]:
    """A bar on stderr if that is a terminal, one line otherwise."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    if not sys.stderr.isatty():
        click.echo(f"Importing {file.name} ({human_size(file.stat().st_size)})", err=True)
        yield lambda _done, _total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bars(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        task = bars.add_task(escape(file.name), total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
