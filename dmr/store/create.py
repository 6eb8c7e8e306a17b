"""Makes a model of another one, or of files: it shares their weights, and has its own defaults, manifest and ID."""

from __future__ import annotations

import contextlib

import msgspec

from dmr.errors import InvalidReference, InvalidRequest
from dmr.store.defaults import encode_defaults
from dmr.store.digest import digest_of
from dmr.store.draft import Draft, Quantize, draft_of_base, draft_of_files, quantized
from dmr.store.ggml_tables import WRITABLE_FILE_TYPES
from dmr.store.import_plan import MAX_TEXT_BYTES
from dmr.store.importer import commit_model
from dmr.store.layout import Layout
from dmr.store.manifest import LICENSE_TYPES, PLAIN_LICENSE_TYPE, Layer
from dmr.store.pull import Report
from dmr.store.reference import parse_reference
from dmr.store.registry.transport import Cancelled, TransferCancelled
from dmr.store.store import ModelStore
from dmr.store.uploads import Uploads, read_digest
from dmr.types import ModelDefaults, ModelRecord, NewModel, TransferProgress


def create_model(
    store: ModelStore, new: NewModel, quantize: Quantize, report: Report, cancelled: Cancelled = lambda: False
) -> ModelRecord:
    """Make it and give it its name, which leaves any other model; one that has no other name left is removed.

    Blocks; `report` is told each step, with numbers while weights are made anew. The same again is the same model.
    Uploaded files that became its layers are uploads no more.

    Raises:
        InvalidReference, ModelNotFound (the base), InvalidRequest, InvalidModelFile, Unsupported, StoreError,
        Unavailable, TransferCancelled
    """
    layout = Layout(store.root)
    name = parse_reference(new.name, store.default_registry)
    if name.digest:
        raise InvalidReference(f"'{new.name[:100]}' has a digest; a model is made under a plain name.")
    file_type = file_type_of(new.quantization)
    with contextlib.ExitStack() as cleanup:
        if new.base:
            draft = draft_of_base(store, layout, new.base)
        else:
            draft = draft_of_files(layout, new.files, report, cleanup)
        if file_type and draft.config.quantization != file_type:
            draft = quantized(layout, draft, file_type, quantize, report, cancelled, cleanup)
        draft = _with_texts(layout, draft, new, cleanup)
        if cancelled():
            raise TransferCancelled
        _tell_layers(draft, report)
        with layout.lock(store.lock_timeout):
            report(TransferProgress("writing manifest"))
            entry = commit_model(
                layout, draft.layers, draft.staged, draft.config, str(name), draft.parent, drop_nameless=True
            )
    for digest in map(read_digest, new.files.values()):
        if layout.blobs.has(digest):
            Uploads(store.root).remove(digest)
    return store.get(entry.id)


def file_type_of(text: str) -> str:
    """The file type that is meant, in any case and with `Q4_K` for `Q4_K_M`. Raises InvalidRequest."""
    name = text.strip().upper()
    name = f"{name}_M" if name in ("Q3_K", "Q4_K", "Q5_K") else name
    if name and name not in WRITABLE_FILE_TYPES:
        supported = ", ".join(WRITABLE_FILE_TYPES)
        raise InvalidRequest(
            f"unsupported quantization type {text[:40]!r}; supported are {supported}", param="quantize"
        )
    return name


def _with_texts(layout: Layout, draft: Draft, new: NewModel, cleanup: contextlib.ExitStack) -> Draft:
    """With the layers of its defaults and of its own licences."""
    texts = list(encode_defaults(_merged(draft.defaults, new)))
    present = {layer.digest for layer in draft.layers if layer.media_type in LICENSE_TYPES}
    licenses = [text.encode() for text in dict.fromkeys(new.licenses)]
    texts += [(PLAIN_LICENSE_TYPE, data) for data in licenses if digest_of(data) not in present]
    staged, layers = [], []
    for media_type, data in texts:
        if len(data) > MAX_TEXT_BYTES:
            kind = media_type.rpartition(".")[2]
            raise InvalidRequest(f"'{kind}' is larger than the {MAX_TEXT_BYTES} bytes it may have.", param=kind)
        blob = layout.blobs.stage_bytes(data)
        cleanup.callback(layout.blobs.discard, blob)
        staged.append(blob)
        layers.append(Layer(media_type, blob.digest, blob.size))
    return msgspec.structs.replace(draft, layers=(*draft.layers, *layers), staged=(*draft.staged, *staged))


def _merged(base: ModelDefaults, new: NewModel) -> ModelDefaults:
    parameters = {**base.parameters, **new.parameters}
    return ModelDefaults(
        system=base.system if new.system is None else new.system,
        template=base.template if new.template is None else new.template,
        messages=base.messages if new.messages is None else new.messages,
        parameters={name: value for name, value in parameters.items() if value is not None},
    )


def _tell_layers(draft: Draft, report: Report) -> None:
    created = {blob.digest for blob in draft.staged if blob.temporary is not None}
    for layer in draft.layers:
        report(
            TransferProgress(f"{'creating new' if layer.digest in created else 'using existing'} layer {layer.digest}")
        )
