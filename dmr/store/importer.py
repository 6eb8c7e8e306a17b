"""Takes the files of an import plan into a store: all of the model, or nothing of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

from dmr.errors import DmrError, InvalidModelFile, StoreError
from dmr.store.blobs import Progress, StagedBlob
from dmr.store.digest import Digest, digest_of
from dmr.store.import_plan import ImportPlan
from dmr.store.index import Entry, Index
from dmr.store.layout import Layout
from dmr.store.manifest import CONFIG_TYPE, FILEPATH_ANNOTATION, Descriptor, Layer, build_manifest, parse_manifest
from dmr.store.model_config import build_config
from dmr.types import ModelConfig


def import_model(
    layout: Layout, plan: ImportPlan, tag: str, move: bool, progress: Progress | None, lock_timeout: float
) -> Entry:
    """Copy and hash without the lock, then name everything under it. With `move` the sources go last of all.

    Raises:
        InvalidModelFile: a file changed since the plan was made.
        StoreError, Unavailable: see ModelStore.
    """
    layout.read_index()  # a store that is damaged or too new is found before gigabytes are copied
    with contextlib.ExitStack() as cleanup:
        staged = _stage(layout, plan, move, progress, cleanup)
        with layout.lock(lock_timeout):
            entry = commit_model(layout, _layers(plan, staged), staged, plan.config, tag)
    if move:
        for source, blob in zip(plan.files, staged, strict=True):
            layout.blobs.remove_source(source.path, blob.digest)
    return entry


def _stage(
    layout: Layout, plan: ImportPlan, move: bool, progress: Progress | None, cleanup: contextlib.ExitStack
) -> list[StagedBlob]:
    total, done, staged = sum(source.size for source in plan.files), 0, []
    for source in plan.files:
        blob = layout.blobs.stage_file(source.path, move=move, progress=_shift(progress, done, total))
        cleanup.callback(layout.blobs.discard, blob)
        if blob.size != source.size:
            raise InvalidModelFile(f"{source.path} changed while it was read; import it again.")
        done += blob.size
        staged.append(blob)
    return staged


def _shift(progress: Progress | None, offset: int, total: int) -> Progress | None:
    return progress and (lambda done, _: progress(offset + done, total))


def commit_model(
    layout: Layout,
    layers: Sequence[Layer],
    staged: Sequence[StagedBlob],
    config: ModelConfig,
    tag: str,
    parent: str = "",
) -> Entry:
    """Make a model of `layers`, of which `staged` have no name yet, and tag it. Under the lock: all of it, or nothing.

    Raises:
        StoreError: a layer that should have been there is not.
    """
    index = layout.read_index()
    new_blobs: list[Digest] = []
    entry: Entry | None = None
    try:
        for blob in staged:
            if not layout.blobs.has(blob.digest):
                new_blobs.append(blob.digest)
            layout.blobs.commit(blob)
        for layer in layers:
            if not layout.blobs.has(layer.digest):
                raise StoreError(f"The blob {layer.digest} was removed by another process meanwhile; try again.")
        entry = _find_same(layout, index, layers, config)
        if entry is None:
            data, manifest = _documents(config, layers, parent)
            fresh = Entry(digest_of(manifest), (), parse_manifest(manifest).digests)
            entry = index.find_id(fresh.id) or fresh
            new_blobs.append(digest_of(data))
            layout.blobs.put_bytes(data)
            layout.write_manifest(manifest)
        layout.write_index(index.with_entry(entry.with_tag(tag)))
    except BaseException:
        _undo(layout, new_blobs, entry)
        raise
    return entry.with_tag(tag)


def _undo(layout: Layout, new_blobs: Sequence[Digest], entry: Entry | None) -> None:
    """Take back what the index does not name. The index is read again: its replacement may have come that far."""
    with contextlib.suppress(DmrError):
        index = layout.read_index()
        if entry is not None and index.find_id(entry.id) is None:
            layout.delete_manifest(entry.id)
        layout.delete_unreferenced(new_blobs, index)


def _layers(plan: ImportPlan, staged: Sequence[StagedBlob]) -> list[Layer]:
    return [
        Layer(source.media_type, blob.digest, blob.size, {FILEPATH_ANNOTATION: source.name})
        for source, blob in zip(plan.files, staged, strict=True)
    ]


def _find_same(layout: Layout, index: Index, layers: Sequence[Layer], config: ModelConfig) -> Entry | None:
    """A readable model of the same layers, unless it was repackaged with another context size."""
    wanted = [(layer.media_type, layer.digest) for layer in layers]
    for entry in index.entries:
        with contextlib.suppress(DmrError):
            manifest = layout.read_manifest(entry.id)
            context_size = layout.read_config(manifest).config.context_size
            found = [(layer.media_type, layer.digest) for layer in manifest.layers]
            if found == wanted and context_size in (None, config.context_size):
                return entry
    return None


def _documents(config: ModelConfig, layers: Sequence[Layer], parent: str) -> tuple[bytes, bytes]:
    """The bytes of the config blob and of the manifest."""
    data = build_config(config, layers, created=int(time.time()))
    return data, build_manifest(layers, Descriptor(CONFIG_TYPE, digest_of(data), len(data)), parent)
