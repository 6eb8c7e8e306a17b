"""Brings a model that the hub has as safetensors only: fetched, converted, and the originals let go.

What a converted model was made of stands in its manifest, so it is not made again as long as that is the same.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dmr.errors import DmrError, InvalidModelFile
from dmr.store.conversion import Converter
from dmr.store.digest import Digest, digest_of
from dmr.store.disk import store_errors
from dmr.store.hugging_face.client import HubFile
from dmr.store.hugging_face.source import Source, digest_of_file, fetch_files, stage_licenses
from dmr.store.import_plan import ImportPlan, plan_import
from dmr.store.importer import commit_model
from dmr.store.layout import Layout
from dmr.store.manifest import FILEPATH_ANNOTATION, Layer
from dmr.store.pull import Report
from dmr.store.reference import HUB_HOSTS
from dmr.store.registry.transport import Transport
from dmr.store.safetensors_folder import has_vision, is_text, is_weights
from dmr.store.store import ModelStore
from dmr.types import ModelRecord, TransferProgress

MAX_SMALL_BYTES = 64 << 20  # of a tokenizer or the like
STALE_SECONDS = 24 * 3600.0
MAX_REPORTS = 200
_PREFIX = "conversion-"


def has_safetensors(files: Sequence[HubFile]) -> bool:
    names = {file.path for file in files}
    return "config.json" in names and any(is_weights(name) for name in names)


def pull_converted(
    store: ModelStore,
    layout: Layout,
    source: Source,
    tag: str,
    transport: Transport,
    report: Report,
    converter: Converter,
) -> ModelRecord:
    """Raises as `pull_from_hub`, and InvalidRequest: weights cannot be converted to that quantization."""
    kind = converter.kind_of(source.model.quantization)
    weights, small = _wanted(source.files)
    origin = f"{HUB_HOSTS[0]}/{source.repository}:{kind or 'latest'}@{_digest_of_files([*weights, *small])}"
    with contextlib.suppress(DmrError):
        known = store.get(tag)
        if known.parent == origin:
            return known
    converter.check()
    fetch_files(layout, source, weights, len(small), transport, report)
    with _workspace(layout.root) as workspace:
        folder = workspace / source.repository.rpartition("/")[2]
        _lay_out(layout, source, folder, weights, small)
        target, projector = workspace / "model.gguf", workspace / "mmproj.gguf"
        tell = _conversion_reporter(digest_of(origin.encode()), sum(file.size for file in weights), report)
        converter.convert(folder, target, kind, tell, transport.is_unwanted)
        if has_vision(folder):
            _convert_projector(converter, folder, projector, report, transport)
        report(TransferProgress("Building model artifact..."))
        plan = plan_import(target, projector if projector.is_file() else None)
        _commit(store, layout, source, plan, tag, origin)
    with layout.lock(store.lock_timeout):
        layout.delete_unreferenced(map(digest_of_file, weights), layout.read_index())
    return store.get(tag)


def _conversion_reporter(layer: Digest, total: int, report: Report) -> Callable[[int], None]:
    """A layer of its own, for there are bars for layers. What will come is about as large as what was fetched."""
    step, last = max(1 << 20, total // MAX_REPORTS), -total

    def tell(done: int) -> None:
        nonlocal last
        if done - last >= step:
            last = done
            size = max(total, done)
            report(TransferProgress(f"Converting: {done / 1e6:.2f} MB", size, layer, size, done))

    return tell


def _wanted(files: Sequence[HubFile]) -> tuple[list[HubFile], list[HubFile]]:
    """Weights, and the small files that the converter may read."""
    small = [file for file in files if is_text(file.path) and file.size <= MAX_SMALL_BYTES]
    return [file for file in files if is_weights(file.path)], small


def _digest_of_files(files: Sequence[HubFile]) -> Digest:
    return digest_of("".join(f"{file.path}\0{file.digest or file.oid}\n" for file in files).encode())


def _lay_out(
    layout: Layout, source: Source, folder: Path, weights: Sequence[HubFile], small: Sequence[HubFile]
) -> None:
    with store_errors("lay out a model"):
        folder.mkdir()
        for file in weights:
            os.link(layout.blobs.path_of(digest_of_file(file)), folder / file.name)
        for file in small:
            path = folder / file.path
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(source.read(file))


def _convert_projector(converter: Converter, folder: Path, target: Path, report: Report, transport: Transport) -> None:
    """A model whose projector cannot be converted still answers to text."""
    try:
        converter.convert(folder, target, "F16", lambda _: None, transport.is_unwanted, projector=True)
    except InvalidModelFile as error:
        report(TransferProgress(f"The model will see no images: {error.message}", is_warning=True))


def _commit(store: ModelStore, layout: Layout, source: Source, plan: ImportPlan, tag: str, origin: str) -> None:
    with contextlib.ExitStack() as cleanup:
        licenses, staged = stage_licenses(layout, source, cleanup)
        layers: list[Layer] = []
        for file in plan.files:
            blob = layout.blobs.stage_file(file.path, move=True)
            cleanup.callback(layout.blobs.discard, blob)
            staged.append(blob)
            layers.append(Layer(file.media_type, blob.digest, blob.size, {FILEPATH_ANNOTATION: file.name}))
        with layout.lock(store.lock_timeout):
            commit_model(layout, [*layers, *licenses], staged, plan.config, tag, origin)


@contextlib.contextmanager
def _workspace(root: Path) -> Iterator[Path]:
    """A folder on the store's disk; those that a killed process has left go first."""
    with store_errors("make room for a conversion"):
        for path in root.glob(f"{_PREFIX}*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    shutil.rmtree(path)
        workspace = tempfile.TemporaryDirectory(dir=root, prefix=_PREFIX)
    with workspace as name:
        yield Path(name)
