"""`dmr load`, `dmr export`: a whole model as one tar file, to carry it to another machine."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from dmr.cli.json_output import json_option, print_json
from dmr.cli.server import complete_model, pass_models
from dmr.cli.values import printable
from dmr.errors import InvalidRequest, StoreError

if TYPE_CHECKING:
    from dmr.cli.server import Models
    from dmr.cli.transport import Pieces

Progress = Callable[[str, int, int | None], None]

_EPILOG = """\
\b
Examples:
  dmr export smollm2 -o smollm2.tar
  dmr load smollm2.tar
  dmr export smollm2 | ssh other dmr load --tag smollm2
"""


@click.command("load", short_help="Put a model's archive into the store.", epilog=_EPILOG)
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path, allow_dash=True))
@click.option("-i", "--input", "from_file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="FILE.")
@click.option("-t", "--tag", metavar="NAME", default="", help="Give the model this name instead of the archive's.")
@json_option
@pass_models
def load_command(models: Models, file: Path | None, from_file: Path | None, tag: str, as_json: bool) -> None:
    """Put the model of an archive into the store, and print its names. Without FILE, or with -, stdin is read."""
    from dmr.cli.progress import ByteBars
    from dmr.cli.upload import StreamUpload
    from dmr.store.reference import parse_reference

    if file is not None and from_file is not None:
        raise click.UsageError("Give FILE or --input, not both.")
    path = file or from_file
    name = str(parse_reference(tag)) if tag else ""
    with _opened(path) as source, ByteBars() as bars:
        shown = "stdin" if source is sys.stdin.buffer else Path(source.name).name
        upload = StreamUpload(source, _size(source), lambda done, total: bars.update(shown, done, total))
        model = models.load_archive(name, upload)
    if as_json:
        print_json({"id": model.id, "tags": list(model.tags)})
    else:
        click.echo(printable("\n".join(model.tags or (model.id,))))


@click.command("export", short_help="Write a model into an archive.", epilog=_EPILOG)
@click.argument("model", shell_complete=complete_model)
@click.option(
    "-o", "--output", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Default: stdout."
)
@pass_models
def export_command(models: Models, model: str, output: Path | None) -> None:
    """Write MODEL, whole, as a tar file that `dmr load` reads. A FILE that is there is replaced when all has come."""
    if output is None and sys.stdout.isatty():
        raise InvalidRequest("An archive is nothing for a terminal: give a file with -o, or redirect stdout.")
    from dmr.cli.progress import ByteBars

    with models.export(model) as pieces, ByteBars() as bars:
        if output is None:
            _write(pieces, sys.stdout.buffer, bars.update, printable(model))
        else:
            _replace(pieces, output, bars.update)


@contextlib.contextmanager
def _opened(path: Path | None) -> Iterator[BinaryIO]:
    if path is None or str(path) == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise InvalidRequest("There is no archive: give a file, or pipe one into stdin.")
        yield sys.stdin.buffer
        return
    try:
        opened = path.open("rb")
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}.") from None
    with opened:
        yield opened


def _size(source: BinaryIO) -> int | None:
    """What is left of a regular file; None for a pipe."""
    try:
        status = os.fstat(source.fileno())
        return status.st_size - source.tell() if stat.S_ISREG(status.st_mode) else None
    except OSError:
        return None


def _replace(pieces: Pieces, path: Path, progress: Progress) -> None:
    """Half an archive never has the name of a whole one."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as target:
            _write(pieces, target, progress, path.name)
            target.flush()
            os.fsync(target.fileno())
        part.replace(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}.") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def _write(pieces: Pieces, target: BinaryIO, progress: Progress, name: str) -> None:
    done = 0
    for piece in pieces:
        target.write(piece)
        done += len(piece)
        progress(name, done, pieces.size)
    target.flush()
