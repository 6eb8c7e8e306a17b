"""What a new model consists of, as far as it is known: another one's files, uploads, smaller weights."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from dmr.errors import DmrError, InvalidModelFile, InvalidRequest, StoreError, Unsupported
from dmr.store.blobs import StagedBlob
from dmr.store.digest import Digest, parse_digest
from dmr.store.disk import store_errors, temporary_path
from dmr.store.ggml_tables import WRITABLE_FILE_TYPES
from dmr.store.import_plan import plan_files, plan_import
from dmr.store.layout import Layout
from dmr.store.manifest import DEFAULTS_TYPES, FILEPATH_ANNOTATION, GGUF_TYPE, Layer, weight_layers
from dmr.store.pull import Report
from dmr.store.record import read_defaults
from dmr.store.registry.transport import Cancelled, TransferCancelled
from dmr.store.store import ModelStore
from dmr.store.uploads import Uploads, read_digest
from dmr.types import ModelConfig, ModelDefaults, TransferProgress

# (source, target, file type, bytes done, cancelled): writes the weights anew; of shards the source is the first.
# Raises DmrError, TransferCancelled.
Quantize = Callable[[Path, Path, int, Callable[[int], None], Cancelled], None]

FULL_TYPES = ("F32", "F16", "BF16")
SMALL_SPACE = 64 << 20  # bytes; with less, a write that failed has failed for want of space


class Draft(msgspec.Struct, frozen=True):
    """`weights` are files by digest, in shard order; `staged` are those layers that have no name yet."""

    layers: tuple[Layer, ...]
    weights: Mapping[Digest, Path]
    config: ModelConfig
    staged: tuple[StagedBlob, ...] = ()
    defaults: ModelDefaults = ModelDefaults()
    parent: str = ""


def draft_of_base(store: ModelStore, layout: Layout, base: str) -> Draft:
    """Raises ModelNotFound, InvalidReference, Unsupported, StoreError."""
    record = store.get(base)
    files = store.files(record.id)
    manifest = layout.read_manifest(parse_digest(record.id))
    weights = [layer.digest for layer in weight_layers(manifest, record.config.format)]
    return Draft(
        layers=tuple(layer for layer in manifest.layers if layer.media_type not in DEFAULTS_TYPES),
        weights=dict(zip(weights, files.weights, strict=True)),
        config=record.config,
        defaults=read_defaults(layout, manifest),
        parent=store.name_of(record, base) or record.id,
    )


def draft_of_files(layout: Layout, files: Mapping[str, str], report: Report, cleanup: contextlib.ExitStack) -> Draft:
    """Of what was uploaded, or is in the store already. Raises InvalidRequest, InvalidModelFile, StoreError."""
    report(TransferProgress("parsing GGUF"))
    digests: dict[Path, Digest] = {}
    names: dict[str, str] = {}
    for name, text in files.items():
        path, digest = _find(layout, name, text)
        digests[path] = digest
        names[str(path)] = name
    with told_by_name(names):
        plan = plan_files(list(digests))
    staged, layers, weights = [], [], {}
    for source in plan.files:
        digest = digests[source.path]
        if not layout.blobs.has(digest):
            staged.append(Uploads(layout.root).stage(layout.blobs, digest, source.size, cleanup))
        layers.append(Layer(source.media_type, digest, source.size, {FILEPATH_ANNOTATION: source.name}))
        if source.media_type == GGUF_TYPE:
            weights[digest] = source.path
    return Draft(tuple(layers), weights, plan.config, tuple(staged))


def _find(layout: Layout, name: str, text: str) -> tuple[Path, Digest]:
    digest, uploads = read_digest(text), Uploads(layout.root)
    if layout.blobs.has(digest):
        return layout.blobs.path_of(digest), digest
    if uploads.has(digest):
        return uploads.path_of(digest), digest
    raise InvalidRequest(f"the file {name[:100]!r} ({digest}) was not uploaded", param="files")


@contextlib.contextmanager
def told_by_name(names: Mapping[str, str]) -> Iterator[None]:
    """Errors name files as the client does, not by where they lie."""
    try:
        yield
    except InvalidModelFile as error:
        message = error.message
        for path, name in names.items():
            message = message.replace(path, name[:100])
        raise InvalidModelFile(message, param="files") from error


def quantized(
    layout: Layout,
    draft: Draft,
    file_type: str,
    quantize: Quantize,
    report: Report,
    cancelled: Cancelled,
    cleanup: contextlib.ExitStack,
) -> Draft:
    """The same with weights of another type, as one file.

    Raises:
        Unsupported: the weights are not whole any more. What `quantize` raises.
    """
    kind = draft.config.quantization
    if kind not in FULL_TYPES:
        raise Unsupported(
            f"quantization is only supported for {', '.join(FULL_TYPES)} models, this one is {kind}", param="quantize"
        )
    message = f"quantizing {kind} model to {file_type}"
    with store_errors("read the weights"):  # they may have been removed since they were found
        total = sum(path.stat().st_size for path in draft.weights.values())
    report(TransferProgress(message))
    target = temporary_path(layout.blobs.folder)
    cleanup.callback(lambda: target.unlink(missing_ok=True))

    def tell(num_bytes: int) -> None:
        report(TransferProgress(message, total, "", total, min(num_bytes, total)))

    with _named_shards(layout, list(draft.weights.values())) as source:
        try:
            quantize(source, target, WRITABLE_FILE_TYPES[file_type], tell, cancelled)
        except TransferCancelled:
            raise
        except DmrError as error:
            if shutil.disk_usage(layout.root).free < SMALL_SPACE:
                raise StoreError("The store cannot write the new weights: the disk is full.") from error
            raise
    report(TransferProgress("verifying conversion"))
    plan = plan_import(target)
    staged = layout.blobs.stage_file(target, move=True)
    cleanup.callback(layout.blobs.discard, staged)
    weights = Layer(GGUF_TYPE, staged.digest, staged.size, {FILEPATH_ANNOTATION: plan.files[0].name})
    return msgspec.structs.replace(
        draft,
        layers=(weights, *(layer for layer in draft.layers if layer.digest not in draft.weights)),
        weights={},
        staged=(*(blob for blob in draft.staged if blob.digest not in draft.weights), staged),
        config=plan.config,
    )


@contextlib.contextmanager
def _named_shards(layout: Layout, weights: Sequence[Path]) -> Iterator[Path]:
    """The first file, with the others where llama.cpp looks for them: beside it, by their numbers."""
    if len(weights) == 1:
        yield weights[0]
        return
    with store_errors("link shards"), tempfile.TemporaryDirectory(dir=layout.root, prefix="shards-") as folder:
        named = [Path(folder) / f"model-{number:05}-of-{len(weights):05}.gguf" for number in range(1, len(weights) + 1)]
        for path, link in zip(weights, named, strict=True):
            link.symlink_to(path.resolve())
        yield named[0]
