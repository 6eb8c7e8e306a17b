"""`dmr package`: a model out of files, or out of another model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dmr.cli.json_output import json_option, print_json
from dmr.cli.server import complete_model, find_models
from dmr.cli.values import printable
from dmr.errors import InvalidModelFile, Unsupported

if TYPE_CHECKING:
    from dmr.cli.replies import Model
    from dmr.cli.server import Models
    from dmr.store.packaging import Package

_FORMATS = ("docker", "cncf")
_SOURCES = ("gguf", "safetensors_dir", "dduf", "base")
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_EPILOG = """\
\b
Examples:
  dmr package --gguf model.gguf --license LICENSE registry.example.com/org/model:v1 --push
  dmr package --gguf model-00001-of-00003.gguf --mmproj mmproj.gguf mine
  dmr package --from smollm2 --context-size 2048 smollm2:short
"""


@click.command("package", short_help="Make a model out of files, or out of another model.", epilog=_EPILOG)
@click.argument("model")
@click.option("--gguf", type=_FILE, help="The weights; of a split model its first file.")
@click.option("--safetensors-dir", type=_FOLDER, help="A folder with safetensors files and their configuration.")
@click.option("--dduf", type=_FILE, help="A DDUF archive.")
@click.option("--from", "base", metavar="MODEL", shell_complete=complete_model, help="A model of the store.")
@click.option("--chat-template", type=_FILE, help="A chat template (Jinja) that goes before the weights' own.")
@click.option("-l", "--license", "licenses", type=_FILE, multiple=True, help="A licence; several times for several.")
@click.option("--mmproj", type=_FILE, help="The projector of a model that sees or hears (GGUF).")
@click.option("--context-size", type=click.IntRange(min=1), help="Tokens of context, in place of the weights' own.")
@click.option("--format", "artifact", type=click.Choice(_FORMATS), help=f"Default: {_FORMATS[0]}, or that of --from.")
@click.option("--push", is_flag=True, help="Push it to the registry that its name begins with.")
@json_option
@click.pass_context
def package_command(ctx: click.Context, /, model: str, push: bool, as_json: bool, **wish: Any) -> None:
    """Make a model of exactly one of --gguf, --safetensors-dir, --dduf and --from, name it MODEL, and print its name.

    The files stay as they are. MODEL moves here if it was another model's name.
    """
    from dmr.store.reference import parse_reference

    if sum(wish[source] is not None for source in _SOURCES) != 1:
        raise click.UsageError("Give exactly one of --gguf, --safetensors-dir, --dduf and --from.")
    name = str(parse_reference(model))
    models = find_models(ctx)
    made = (
        _repackage(models, name, wish) if wish["base"] is not None else store_package(models, name, _package_of(wish))
    )
    if push:
        _push(models, name)
    if as_json:
        print_json({"id": made.id, "tags": list(made.tags)})
    else:
        click.echo(printable(name))


def _package_of(wish: dict[str, Any]) -> Package:
    from dmr.store.packaging import Package

    fields = {key: wish[key] for key in (*_SOURCES[:3], "mmproj", "chat_template", "licenses", "context_size")}
    return Package(**fields, **({"format": wish["artifact"]} if wish["artifact"] else {}))


def store_package(models: Models, name: str, package: Package) -> Model:
    from dmr.cli.local_models import LocalModels
    from dmr.cli.progress import ByteBars
    from dmr.cli.upload import StreamUpload
    from dmr.store.packaging import prepare_package

    with ByteBars() as bars:
        if isinstance(models, LocalModels):
            return models.package(name, package, lambda done, total: bars.update("Storing", done, total))
        prepared = prepare_package(package, lambda done, total: bars.update("Reading", done, total))
        with prepared.open(name) as archive:
            upload = StreamUpload(archive, archive.size, lambda done, total: bars.update("Sending", done, total))
            return models.load_archive(name, upload)


def _repackage(models: Models, name: str, wish: dict[str, Any]) -> Model:
    from dmr.types import Repackaging

    projector = _give_file(models, wish["mmproj"]) if wish["mmproj"] else ""
    return models.repackage(
        wish["base"],
        Repackaging(
            target=name,
            context_size=wish["context_size"],
            chat_template=_text(wish["chat_template"]) if wish["chat_template"] else None,
            mmproj=projector,
            licenses=tuple(_text(path) for path in wish["licenses"]),
            format=wish["artifact"] or "",
        ),
    )


def _give_file(models: Models, path: Path) -> str:
    """Its digest."""
    from dmr.store.blobs import hash_file

    digest, size = hash_file(path)
    with path.open("rb") as opened:
        models.add_file(opened, size, digest)
    return digest


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidModelFile(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise InvalidModelFile(f"{path} is not UTF-8 text.") from None


def _push(models: Models, name: str) -> None:
    from dmr.cli.local_models import LocalModels
    from dmr.cli.transfer import push_model

    if isinstance(models, LocalModels):
        raise Unsupported(f"{name} is in the store, but only a server pushes: start one with `dmr serve`, then push.")
    push_model(models, name)
