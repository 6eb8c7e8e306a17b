"""Makes a model of files on this disk: straight into a store, or as an archive that is sent to one."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from dmr.errors import InvalidModelFile, InvalidRequest
from dmr.store.archive import archive_of, path_in_archive
from dmr.store.blobs import Progress, hash_file
from dmr.store.digest import Digest, digest_of
from dmr.store.folder_plan import plan_dduf, plan_folder
from dmr.store.gguf_config import MAX_CONTEXT_SIZE
from dmr.store.import_plan import ImportPlan, plan_import
from dmr.store.importer import import_model, shifted
from dmr.store.layer_types import CNCF, DOCKER, FORMATS, type_in_modelpack
from dmr.store.layout import Layout
from dmr.store.manifest import FILEPATH_ANNOTATION, MODELPACK_CONFIG_TYPE, Descriptor, Layer, build_manifest
from dmr.store.model_config import build_config
from dmr.store.reference import parse_reference
from dmr.store.store import ModelStore
from dmr.store.tar import Source, TarStream
from dmr.types import ModelRecord, Value


class Package(Value, frozen=True):
    """What a model is to be made of: exactly one of `gguf`, `safetensors_dir` and `dduf`, and what goes with it.

    Of a split GGUF any shard is given. `context_size` in tokens, in place of what the files say.
    """

    gguf: Path | None = None
    safetensors_dir: Path | None = None
    dduf: Path | None = None
    mmproj: Path | None = None
    chat_template: Path | None = None
    licenses: tuple[Path, ...] = ()
    context_size: int | None = None
    format: str = DOCKER


class PreparedPackage(msgspec.Struct, frozen=True):
    """A package whose files were checked and hashed. They must stay as they are until it was sent."""

    blobs: tuple[Source, ...]
    manifest: bytes

    @property
    def id(self) -> Digest:
        return digest_of(self.manifest)

    def open(self, reference: str = "") -> TarStream:
        """The archive to be loaded; the model's name (none if empty) travels in it. Raises InvalidReference."""
        return archive_of(self.blobs, self.manifest, str(parse_reference(reference)) if reference else "")


def package_into(store: ModelStore, package: Package, name: str, progress: Progress | None = None) -> ModelRecord:
    """Make the model in the store, and give it the name, which leaves any other.

    Raises:
        InvalidReference, InvalidRequest, InvalidModelFile, StoreError, Unavailable
    """
    tag = store.parse_tag(name)
    entry = import_model(Layout(store.root), plan_package(package), tag, False, progress, store.lock_timeout)
    return store.get(entry.id)


def prepare_package(package: Package, progress: Progress | None = None) -> PreparedPackage:
    """Check and hash all files; nothing is written.

    Raises:
        InvalidRequest: options that do not go together. InvalidModelFile: a file is missing, damaged or no model.
    """
    plan = plan_package(package)
    total, done, layers, blobs = sum(file.size for file in plan.files), 0, list[Layer](), dict[Digest, Source]()
    for file in plan.files:
        digest, size = hash_file(file.path, shifted(progress, done, total))
        if size != file.size:
            raise InvalidModelFile(f"{file.path} changed while it was read; try again.")
        done += size
        layers.append(Layer(file.media_type, digest, size, {FILEPATH_ANNOTATION: file.name}))
        blobs[digest] = Source(path_in_archive(digest), size, file.path)
    data = build_config(plan.config, layers, int(time.time()), plan.config_type)
    config = Descriptor(plan.config_type, digest_of(data), len(data))
    blobs[config.digest] = Source(path_in_archive(config.digest), len(data), data)
    return PreparedPackage(tuple(blobs.values()), build_manifest(layers, config))


def plan_package(package: Package) -> ImportPlan:
    """Raises as `prepare_package`."""
    _check(package)
    if package.gguf is not None:
        plan = plan_import(package.gguf, package.mmproj, package.chat_template, package.licenses)
    elif package.safetensors_dir is not None:
        plan = plan_folder(package.safetensors_dir, package.chat_template, package.licenses)
    else:
        assert package.dduf is not None
        plan = plan_dduf(package.dduf, package.licenses)
    if package.context_size is not None:
        config = msgspec.structs.replace(plan.config, context_size=check_context_size(package.context_size))
        plan = msgspec.structs.replace(plan, config=config)
    return _as_modelpack(plan) if package.format == CNCF else plan


def _check(package: Package) -> None:
    if sum(source is not None for source in (package.gguf, package.safetensors_dir, package.dduf)) != 1:
        raise InvalidRequest("Exactly one source is needed: a GGUF file, a folder of safetensors, or a DDUF file.")
    if package.mmproj is not None and package.gguf is None:
        raise InvalidRequest("A vision projector goes with a GGUF file only.", param="mmproj")
    if package.chat_template is not None and package.dduf is not None:
        raise InvalidRequest("A diffusion model has no chat template.", param="chat_template")
    check_format(package.format)


def check_format(text: str) -> str:
    if text not in FORMATS:
        raise InvalidRequest(f"The format '{text[:40]}' is unknown; there are {' and '.join(FORMATS)}.", param="format")
    return text


def check_context_size(size: int) -> int:
    """`size` in tokens. Raises InvalidRequest."""
    if not 0 < size <= MAX_CONTEXT_SIZE:
        raise InvalidRequest(
            f"A context of {size} tokens is not possible; 1 to {MAX_CONTEXT_SIZE} are.", param="context_size"
        )
    return size


def _as_modelpack(plan: ImportPlan) -> ImportPlan:
    files = [msgspec.structs.replace(file, media_type=type_in_modelpack(file.media_type)) for file in plan.files]
    return ImportPlan(tuple(files), plan.config, MODELPACK_CONFIG_TYPE)
