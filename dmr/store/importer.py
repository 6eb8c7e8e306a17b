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
            entry = commit_model(layout, _layers(plan, staged), staged, plan.config, tag, config_type=plan.config_type)
    if move:
        for source, blob in zip(plan.files, staged, strict=True):
            layout.blobs.remove_source(source.path, blob.digest)
    return entry


def _stage(
    layout: Layout, plan: ImportPlan, move: bool, progress: Progress | None, cleanup: contextlib.ExitStack
) -> list[StagedBlob]:
    total, done, staged = sum(source.size for source in plan.files), 0, []
    for source in plan.files:
        blob = layout.blobs.stage_file(source.path, move=move, progress=shifted(progress, done, total))
        cleanup.callback(layout.blobs.discard, blob)
        if blob.size != source.size:
            raise InvalidModelFile(f"{source.path} changed while it was read; import it again.")
        done += blob.size
        staged.append(blob)
    return staged


def shifted(progress: Progress | None, offset: int, total: int) -> Progress | None:
    """The same for one of several files: it begins at `offset` of `total` bytes."""
    return progress and (lambda done, _: progress(offset + done, total))


def commit_model(
    layout: Layout,
    layers: Sequence[Layer],
    staged: Sequence[StagedBlob],
    config: ModelConfig,
    tag: str,
    parent: str = "",
    config_type: str = CONFIG_TYPE,
    drop_nameless: bool = False,
) -> Entry:
    """Make a model of `layers`, of which `staged` have no name yet, and tag it. Under the lock: all of it, or nothing.

    With `drop_nameless` the model that loses its last name to this one goes.

    Raises:
        StoreError: a layer that should have been there is not.
    """
    same = _find_same(layout, layout.read_index(), layers, config, config_type)
    if same is not None:
        return commit_manifest(layout, layout.read_raw_manifest(same.id), staged, tag, drop_nameless)
    data = build_config(config, layers, int(time.time()), config_type)
    blob = layout.blobs.stage_bytes(data)
    try:
        manifest = build_manifest(layers, Descriptor(config_type, blob.digest, blob.size), parent)
        return commit_manifest(layout, manifest, [*staged, blob], tag, drop_nameless)
    finally:
        layout.blobs.discard(blob)


def commit_manifest(
    layout: Layout, raw: bytes, staged: Sequence[StagedBlob], tag: str, drop_nameless: bool = False
) -> Entry:
    """Take in the model of a manifest, whose blobs are there or `staged`. Under the lock: all of it, or nothing.

    `tag` leaves any other model; empty = the model gets none. With `drop_nameless` that other one goes with its last
    name.

    Raises:
        StoreError: a blob that should have been there is not.
    """
    index, manifest, model_id = layout.read_index(), parse_manifest(raw), digest_of(raw)
    entry = index.find_id(model_id) or Entry(model_id, (), manifest.digests)
    entry = entry.with_tag(tag) if tag else entry
    former = index.find_tag(tag) if tag and drop_nameless else None
    if former is not None and (former.id == model_id or former.tags != (tag,)):
        former = None
    remaining = index.with_entry(entry)
    remaining = remaining.without(former.id) if former else remaining
    new_blobs: list[Digest] = []
    try:
        for blob in staged:
            if not layout.blobs.has(blob.digest):
                new_blobs.append(blob.digest)
            layout.blobs.commit(blob)
        for digest in manifest.digests:
            if not layout.blobs.has(digest):
                raise StoreError(f"The blob {digest} was removed by another process meanwhile; try again.")
        layout.write_manifest(raw)
        layout.write_index(remaining)
    except BaseException:
        _undo(layout, new_blobs, entry)
        raise
    if former is not None:
        layout.delete_model(former, remaining)
    return entry


def _undo(layout: Layout, new_blobs: Sequence[Digest], entry: Entry) -> None:
    """Take back what the index does not name. The index is read again: its replacement may have come that far."""
    with contextlib.suppress(DmrError):
        index = layout.read_index()
        if index.find_id(entry.id) is None:
            layout.delete_manifest(entry.id)
        layout.delete_unreferenced(new_blobs, index)


def _layers(plan: ImportPlan, staged: Sequence[StagedBlob]) -> list[Layer]:
    return [
        Layer(source.media_type, blob.digest, blob.size, {FILEPATH_ANNOTATION: source.name})
        for source, blob in zip(plan.files, staged, strict=True)
    ]


def _find_same(
    layout: Layout, index: Index, layers: Sequence[Layer], config: ModelConfig, config_type: str
) -> Entry | None:
    """A readable model of the same layers and the same context size. Older ones do not say it: it is their file's."""
    wanted = [(layer.media_type, layer.digest) for layer in layers]
    own_size = config.gguf.get(f"{config.architecture}.context_length")
    sizes = (None, config.context_size) if own_size == str(config.context_size) else (config.context_size,)
    for entry in index.entries:
        with contextlib.suppress(DmrError):
            manifest = layout.read_manifest(entry.id)
            context_size = layout.read_config(manifest).config.context_size
            found = [(layer.media_type, layer.digest) for layer in manifest.layers]
            if found == wanted and context_size in sizes and manifest.config.media_type == config_type:
                return entry
    return None
