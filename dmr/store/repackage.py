"""Makes a model of another one's files: with another context size, template or projector, or in another format."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from typing import Any

import msgspec

from dmr.errors import InvalidModelFile, InvalidRequest, StoreError
from dmr.store.blobs import StagedBlob
from dmr.store.digest import parse_digest
from dmr.store.disk import store_errors
from dmr.store.gguf import read_gguf_header
from dmr.store.gguf_config import describe_gguf
from dmr.store.import_plan import MAX_TEXT_BYTES, is_projector
from dmr.store.importer import commit_manifest
from dmr.store.layer_types import DOCKER, LayerTypes, renamed, types_of
from dmr.store.layout import Layout
from dmr.store.manifest import (
    FILEPATH_ANNOTATION,
    MODELPACK_ARTIFACT_TYPE,
    MODELPACK_CONFIG_TYPE,
    Descriptor,
    Layer,
    Manifest,
    chat_template_layer,
    license_layers,
    mmproj_layer,
    parse_manifest,
    weight_layers,
)
from dmr.store.model_config import MAX_CONFIG_BYTES, build_config
from dmr.store.packaging import check_context_size, check_format
from dmr.store.store import ModelStore
from dmr.store.uploads import Uploads, read_digest
from dmr.types import ModelConfig, ModelRecord, Repackaging


def repackage_model(store: ModelStore, base: str, wish: Repackaging) -> ModelRecord:
    """Make the model and give it its name, which leaves any other. The same again is the same model.

    All that is not wished otherwise stays byte for byte, so without any wish it is the base under one more name.

    Raises:
        InvalidReference, ModelNotFound (the base), InvalidRequest, InvalidModelFile, StoreError, Unavailable
    """
    tag = store.parse_tag(wish.target)
    _check(wish)
    layout, record = Layout(store.root), store.get(base)
    raw = layout.read_raw_manifest(parse_digest(record.id))
    with contextlib.ExitStack() as cleanup:
        new = _Repackaged(store, layout, raw, cleanup)
        new.add(wish)
        if wish.format and (wish.format == DOCKER) == new.types.is_modelpack:
            new.convert(wish.format)
        if wish.context_size is not None:
            new.set_context(wish.context_size)
        manifest = new.finish()
        with layout.lock(store.lock_timeout):
            entry = commit_manifest(layout, manifest, new.staged, tag)
    if wish.mmproj:
        Uploads(store.root).remove(read_digest(wish.mmproj))
    return store.get(entry.id)


def _check(wish: Repackaging) -> None:
    if wish.context_size is not None:
        check_context_size(wish.context_size)
    if wish.format:
        check_format(wish.format)
    for text in (wish.chat_template or "", *wish.licenses):
        if len(text.encode()) > MAX_TEXT_BYTES:
            raise InvalidRequest(f"A text is larger than the {MAX_TEXT_BYTES} bytes it may have.")


class _Repackaged:
    """A manifest and a config on their way to be others. What is in them and not understood here stays."""

    def __init__(self, store: ModelStore, layout: Layout, raw: bytes, cleanup: contextlib.ExitStack) -> None:
        self._store = store
        self._layout = layout
        self._raw = raw
        self._cleanup = cleanup
        self._document: dict[str, Any] = msgspec.json.decode(raw)
        self._manifest = parse_manifest(raw)
        self._layers: list[Layer] = list(self._manifest.layers)
        self._config: dict[str, Any] = msgspec.json.decode(
            layout.read_blob(self._manifest.config.digest, MAX_CONFIG_BYTES, "config ")
        )
        self._config_type = self._manifest.config.media_type
        self._changed = False
        self.types: LayerTypes = types_of(self._config_type)
        self.staged: list[StagedBlob] = []

    def add(self, wish: Repackaging) -> None:
        if wish.chat_template is not None:
            while (layer := chat_template_layer(self._now())) is not None:
                self._drop(layer)
            if wish.chat_template:
                self._add_text(wish.chat_template, self.types.chat_template, "template.jinja")
        if wish.mmproj:
            self._add_projector(wish.mmproj)
        present = {layer.digest for layer in license_layers(self._manifest)}
        for text in dict.fromkeys(wish.licenses):
            number = len(license_layers(self._now())) + 1
            self._add_text(text, self.types.license, f"LICENSE-{number}" if number > 1 else "LICENSE", present)

    def convert(self, to: str) -> None:
        """Other media types for the same files; the config is made anew of what they say."""
        stored = self._layout.read_config(self._manifest)
        config = self._described(stored.config)
        self._layers, self._config_type = renamed(self._now(), config.format, to)
        self._config = msgspec.json.decode(build_config(config, self._layers, stored.created, self._config_type))
        self.types = types_of(self._config_type)
        self._document.pop("artifactType", None)
        if self._config_type == MODELPACK_CONFIG_TYPE:
            self._document["artifactType"] = MODELPACK_ARTIFACT_TYPE
        self._changed = True

    def set_context(self, size: int) -> None:
        fields = self._config.setdefault("config", {})
        if not isinstance(fields, dict):
            raise StoreError("The model's config cannot be understood: 'config' is no object.")
        self._changed = self._changed or fields.get("context_size") != size
        fields["context_size"] = size

    def finish(self) -> bytes:
        """The manifest's bytes; the config is staged."""
        if not self._changed:
            return self._raw
        for parent, child in (("rootfs", "diff_ids"), ("modelfs", "diffIds")):
            if isinstance(self._config.get(parent), dict):
                self._config[parent][child] = [layer.digest for layer in self._layers]
        blob = self._stage(msgspec.json.encode(self._config))
        self._document["config"] = Descriptor(self._config_type, blob.digest, blob.size)
        # Layers that are still the very same keep what we do not know of them.
        before = {id(layer): raw for layer, raw in zip(self._manifest.layers, self._document["layers"], strict=True)}
        self._document["layers"] = [before.get(id(layer), layer) for layer in self._layers]
        return msgspec.json.encode(self._document)

    def _now(self) -> Manifest:
        return msgspec.structs.replace(self._manifest, layers=tuple(self._layers))

    def _drop(self, layer: Layer) -> None:
        self._layers.remove(layer)
        self._changed = True

    def _add_text(self, text: str, media_type: str, name: str, present: Collection[str] = ()) -> None:
        blob = self._stage(text.encode())
        if blob.digest not in present:
            self._layers.append(Layer(media_type, blob.digest, blob.size, {FILEPATH_ANNOTATION: name}))
            self._changed = True

    def _add_projector(self, text: str) -> None:
        digest, uploads = read_digest(text), Uploads(self._layout.root)
        is_blob = self._layout.blobs.has(digest)
        path = self._layout.blobs.path_of(digest) if is_blob else uploads.path_of(digest)
        if not is_blob and not uploads.has(digest):
            raise InvalidRequest(f"the projector ({digest}) was not uploaded", param="mmproj")
        if not is_projector(read_gguf_header(path)):
            raise InvalidModelFile("The file that was uploaded is not a vision projector.", param="mmproj")
        with store_errors(f"read the projector {digest}"):  # it may have been removed since it was found
            size = path.stat().st_size
        if not is_blob:
            self.staged.append(uploads.stage(self._layout.blobs, digest, size, self._cleanup))
        while (layer := mmproj_layer(self._now())) is not None:
            self._drop(layer)
        self._layers.append(Layer(self.types.mmproj, digest, size, {FILEPATH_ANNOTATION: "model.mmproj"}))
        self._changed = True

    def _stage(self, data: bytes) -> StagedBlob:
        blob = self._layout.blobs.stage_bytes(data)
        self._cleanup.callback(self._layout.blobs.discard, blob)
        self.staged.append(blob)
        return blob

    def _described(self, config: ModelConfig) -> ModelConfig:
        """With what the weights say, which a ModelPack's config leaves out."""
        weights = weight_layers(self._manifest, config.format)
        if not weights or config.gguf:
            return config
        paths = [self._layout.blobs.path_of(layer.digest) for layer in weights]
        headers = [read_gguf_header(path) for path in paths]
        more = [(header, layer.size) for header, layer in zip(headers[1:], weights[1:], strict=True)]
        described = describe_gguf(headers[0], weights[0].size, more)
        return msgspec.structs.replace(described, context_size=config.context_size or described.context_size)
