"""What model a folder holds: weights, and what lies beside them. Of several models none is taken."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from dmr.errors import InvalidModelFile
from dmr.store.gguf import read_gguf_header
from dmr.store.import_plan import PROJECTOR_ARCHITECTURE
from dmr.store.manifest import is_license_file
from dmr.store.packaging import Package
from dmr.store.safetensors_folder import has_vision, is_weights

TEMPLATE_NAME = "chat_template.jinja"
MAX_TOLD = 8  # names of files in an error


class ModelFolder(msgspec.Struct, frozen=True):
    """Either `weights` (of a split model the first shard), or `safetensors`, a folder that must be converted."""

    weights: Path | None = None
    safetensors: Path | None = None
    mmproj: Path | None = None
    chat_template: Path | None = None
    licenses: tuple[Path, ...] = ()

    @property
    def has_vision(self) -> bool:
        return self.safetensors is not None and has_vision(self.safetensors)

    def package(self, weights: Path, mmproj: Path | None) -> Package:
        """With what lies beside the weights, which are these, or were made of them."""
        return Package(gguf=weights, mmproj=mmproj, chat_template=self.chat_template, licenses=self.licenses)


def read_model_folder(folder: Path) -> ModelFolder:
    """Look through a folder; what is below it is not looked at.

    Raises:
        InvalidModelFile: there is no model in it, or more than one, or a file is damaged.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise InvalidModelFile(f"{folder} cannot be read: {error.strerror}.") from None
    licenses = tuple(path for path in files if is_license_file(path.name))
    ggufs = [path for path in files if path.suffix.lower() == ".gguf"]
    if ggufs:
        weights, mmproj = _sort(folder, ggufs)
        return ModelFolder(weights, None, mmproj, _template(folder, files), licenses)
    if (folder / "config.json").is_file() and any(is_weights(path.name) for path in files):
        return ModelFolder(safetensors=folder, licenses=licenses)  # the converter finds the template itself
    raise InvalidModelFile(f"{folder} holds no model: neither GGUF files, nor a config.json with safetensors.")


def _sort(folder: Path, ggufs: Sequence[Path]) -> tuple[Path, Path | None]:
    """The first file of the weights, and the projector."""
    firsts, projectors = [], []
    for path in ggufs:
        header = read_gguf_header(path)
        if header.text("general.architecture") == PROJECTOR_ARCHITECTURE:
            projectors.append(path)
        elif (header.integer("split.no") or 0) == 0:
            firsts.append(path)
    if len(projectors) == len(ggufs):
        raise InvalidModelFile(f"{folder} holds a vision projector, but no language model.")
    if not firsts:
        raise InvalidModelFile(f"{folder} lacks the first file of its split model.")
    if len(firsts) > 1:
        raise InvalidModelFile(f"{folder} holds several models: {_names(firsts)}. Import one of these files.")
    if len(projectors) > 1:
        raise InvalidModelFile(
            f"{folder} holds several vision projectors: {_names(projectors)}. Choose one: "
            f"dmr package --gguf {firsts[0].name} --mmproj FILE NAME."
        )
    return firsts[0], projectors[0] if projectors else None


def _template(folder: Path, files: Sequence[Path]) -> Path | None:
    templates = [path for path in files if path.suffix.lower() == ".jinja"]
    named = [path for path in templates if path.name == TEMPLATE_NAME]
    if len(named or templates) > 1:
        raise InvalidModelFile(
            f"{folder} holds several chat templates: {_names(templates)}. Call the right one {TEMPLATE_NAME}."
        )
    return next(iter(named or templates), None)


def _names(paths: Sequence[Path]) -> str:
    more = ", …" if len(paths) > MAX_TOLD else ""
    return ", ".join(path.name for path in paths[:MAX_TOLD]) + more
