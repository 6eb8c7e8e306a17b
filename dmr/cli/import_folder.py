"""`dmr import` of more than one file: a folder, a split model, or safetensors that are converted on the way."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dmr.cli.values import printable
from dmr.errors import InvalidModelFile

if TYPE_CHECKING:
    from dmr.cli.replies import Model
    from dmr.cli.server import Models
    from dmr.store.model_folder import ModelFolder
    from dmr.store.packaging import Package


def import_folder(models: Models, folder: Path, name: str, kind: str) -> Model:
    """Store the model of a folder. `kind` of weights is what safetensors are converted to; empty = choose.

    Raises:
        DmrError: as `read_model_folder`, `Converter.convert` and the packaging; or the server's own.
    """
    from dmr.store.model_folder import read_model_folder

    found = read_model_folder(folder)
    if found.weights is not None:
        if kind:
            raise InvalidModelFile(f"{folder} holds GGUF files, which need no conversion: leave out --convert-to.")
        return _store(models, name, found.package(found.weights, found.mmproj))
    with _converted(found, kind) as package:
        return _store(models, name, package)


def import_files(models: Models, weights: Path, mmproj: Path | None, name: str) -> Model:
    """Store a model with its projector, if it has one; of a split one any file is given, the others lie beside it."""
    from dmr.store.packaging import Package

    return _store(models, name, Package(gguf=weights, mmproj=mmproj))


def _store(models: Models, name: str, package: Package) -> Model:
    from dmr.cli.package import store_package

    return store_package(models, name, package)


@contextlib.contextmanager
def _converted(found: ModelFolder, kind: str) -> Iterator[Package]:
    """GGUF files, which are gone afterwards; TMPDIR says where they are made."""
    from dmr.cli.progress import ByteBars
    from dmr.manager.quantizer import Quantizer
    from dmr.store.conversion import Converter

    folder = found.safetensors
    assert folder is not None
    converter = Converter(Quantizer())
    kind = converter.kind_of(kind)
    converter.check()
    total = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    with tempfile.TemporaryDirectory(prefix="dmr-") as workspace:
        weights, projector = Path(workspace, "model.gguf"), Path(workspace, "mmproj.gguf")
        with ByteBars() as bars:
            bars.say(f"Converting {printable(folder.resolve().name)}")
            converter.convert(folder, weights, kind, lambda done: bars.update("Converting", done, total), _never)
        if found.has_vision:
            try:
                converter.convert(folder, projector, "F16", lambda _: None, _never, projector=True)
            except InvalidModelFile as error:
                click.echo(f"Warning: the model will see no images: {printable(error.message)}", err=True)
        yield found.package(weights, projector if projector.is_file() else None)


def _never() -> bool:
    """Ctrl-C is an exception, which ends the converter as well."""
    return False
