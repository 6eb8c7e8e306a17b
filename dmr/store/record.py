"""What the store tells about one of its models, read from index, manifest and small blobs."""

from __future__ import annotations

import logging

from dmr.errors import StoreError
from dmr.store.defaults import decode_defaults
from dmr.store.import_plan import MAX_TEXT_BYTES
from dmr.store.index import Entry
from dmr.store.layout import Layout
from dmr.store.manifest import (
    DEFAULTS_TYPES,
    PARENT_ANNOTATION,
    Layer,
    Manifest,
    first_layer,
    license_layers,
    mmproj_layer,
)
from dmr.types import ModelDefaults, ModelRecord

_log = logging.getLogger(__name__)


def read_record(layout: Layout, entry: Entry) -> ModelRecord:
    """Raises StoreError, Unsupported."""
    manifest = layout.read_manifest(entry.id)
    stored = layout.read_config(manifest)
    return ModelRecord(
        id=entry.id,
        tags=entry.tags,
        created=stored.created,
        config=stored.config,
        size=sum(blob.size for blob in manifest.blobs),
        defaults=read_defaults(layout, manifest),
        licenses=read_licenses(layout, manifest),
        has_mmproj=mmproj_layer(manifest) is not None,
        parent=(manifest.annotations or {}).get(PARENT_ANNOTATION, ""),
    )


def read_defaults(layout: Layout, manifest: Manifest) -> ModelDefaults:
    """Most models have none, and then nothing is read."""
    layers = {kind: layer for kind in DEFAULTS_TYPES if (layer := first_layer(manifest, kind)) is not None}
    return decode_defaults({kind: _read(layout, layer) for kind, layer in layers.items()})


def read_licenses(layout: Layout, manifest: Manifest) -> tuple[str, ...]:
    """Their texts. One that cannot be read is no reason not to run the model: it is left out with a log warning."""
    texts = []
    for layer in license_layers(manifest):
        try:
            texts.append(_read(layout, layer).decode(errors="replace"))
        except StoreError as error:
            _log.warning("a licence is left out: %s", error)
    return tuple(texts)


def _read(layout: Layout, layer: Layer) -> bytes:
    return layout.read_blob(layer.digest, MAX_TEXT_BYTES)
