"""OCI image manifests of models: their media types, and which layer is what (the artifact formats of upstream)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import msgspec

from dmr.errors import StoreError
from dmr.store.digest import Digest, parse_digest
from dmr.types import Value

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.docker.ai.model.config.v0.1+json"
CONFIG_V02_TYPE = "application/vnd.docker.ai.model.config.v0.2+json"
MODELPACK_CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
CONFIG_TYPES = (CONFIG_TYPE, CONFIG_V02_TYPE, MODELPACK_CONFIG_TYPE)

MODELPACK_ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"

GGUF_TYPE = "application/vnd.docker.ai.gguf.v3"
SAFETENSORS_TYPE = "application/vnd.docker.ai.safetensors"
DDUF_TYPE = "application/vnd.docker.ai.dduf"
MMPROJ_TYPE = "application/vnd.docker.ai.mmproj"
CHAT_TEMPLATE_TYPE = "application/vnd.docker.ai.chat.template.jinja"
LICENSE_TYPE = "application/vnd.docker.ai.license"
FILE_TYPE = "application/vnd.docker.ai.model.file"  # a tokenizer, a configuration: whatever else belongs to the model
MODELPACK_GGUF_TYPE = "application/vnd.cncf.model.weight.v1.gguf"
MODELPACK_RAW_TYPE = "application/vnd.cncf.model.weight.v1.raw"
MODELPACK_SAFETENSORS_TYPE = "application/vnd.cncf.model.weight.v1.safetensors"
MODELPACK_FILE_TYPE = "application/vnd.cncf.model.weight.config.v1.raw"
MODELPACK_DOCUMENT_TYPE = "application/vnd.cncf.model.doc.v1.raw"

# What a model brings along for requests that do not say it themselves: Ollama's layers, which others pass over.
SYSTEM_TYPE = "application/vnd.ollama.image.system"
TEMPLATE_TYPE = "application/vnd.ollama.image.template"
PARAMETERS_TYPE = "application/vnd.ollama.image.params"
MESSAGES_TYPE = "application/vnd.ollama.image.messages"
PLAIN_LICENSE_TYPE = "application/vnd.ollama.image.license"
DEFAULTS_TYPES = (SYSTEM_TYPE, TEMPLATE_TYPE, PARAMETERS_TYPE, MESSAGES_TYPE)
LICENSE_TYPES = (LICENSE_TYPE, PLAIN_LICENSE_TYPE)

FILEPATH_ANNOTATION = "org.cncf.model.filepath"
PARENT_ANNOTATION = "org.opencontainers.image.base.name"  # of a manifest: the model that this one was made of

_TEXT_SUFFIXES = ("", ".txt", ".md")
MAX_MANIFEST_BYTES = 4 << 20  # registries refuse larger ones
_SHARD = re.compile(r"-([0-9]{5})-of-[0-9]{5}\.gguf", re.ASCII)


class Descriptor(Value, rename="camel", frozen=True):
    """One blob of a manifest: a layer, or the config. `size` in bytes."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] | None = None

    @property
    def file_name(self) -> str:
        """The last part of the annotated path, or nothing; not safe as a path."""
        return PurePosixPath((self.annotations or {}).get(FILEPATH_ANNOTATION, "")).name


Layer = Descriptor


class Manifest(Value, rename="camel", frozen=True):
    schema_version: int
    config: Descriptor
    layers: tuple[Layer, ...]
    media_type: str = ""
    artifact_type: str = ""
    annotations: Mapping[str, str] | None = None

    @property
    def digests(self) -> tuple[Digest, ...]:
        """All blobs that the model needs: layers, then config, each once."""
        return tuple(blob.digest for blob in self.blobs)

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """The same as descriptors."""
        return tuple({blob.digest: blob for blob in (*self.layers, self.config)}.values())


def build_manifest(layers: Sequence[Layer], config: Descriptor, parent: str = "") -> bytes:
    """The manifest's bytes, whose SHA-256 is the model's ID. Equal arguments give equal bytes."""
    document: dict[str, Any] = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE}
    if config.media_type == MODELPACK_CONFIG_TYPE:
        document["artifactType"] = MODELPACK_ARTIFACT_TYPE
    document |= {"config": config, "layers": list(layers)}
    if parent:
        document["annotations"] = {PARENT_ANNOTATION: parent}
    return msgspec.json.encode(document)


def parse_manifest(raw: bytes) -> Manifest:
    """Read a manifest of any origin.

    Raises:
        StoreError: it is not one, or a digest or size in it is impossible.
    """
    if len(raw) > MAX_MANIFEST_BYTES:
        raise StoreError(f"A manifest of {len(raw)} bytes is more than the {MAX_MANIFEST_BYTES} allowed.")
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise StoreError(f"The manifest cannot be understood: {error}.") from error
    for part in (manifest.config, *manifest.layers):
        parse_digest(part.digest)
        if part.size < 0:
            raise StoreError(f"The manifest gives the blob {part.digest} a negative size.")
    return manifest


def weight_layers(manifest: Manifest, model_format: str) -> tuple[Layer, ...]:
    """The GGUF weights in shard order; empty if the model has other weights."""
    weights = [layer for layer in manifest.layers if _is_gguf(layer, model_format)]
    numbers = [_SHARD.search(layer.file_name) for layer in weights]
    if any(number is None for number in numbers):
        return tuple(weights)
    return tuple(sorted(weights, key=lambda layer: _SHARD.findall(layer.file_name)))


def first_layer(manifest: Manifest, media_type: str) -> Layer | None:
    return next((layer for layer in manifest.layers if layer.media_type == media_type), None)


def mmproj_layer(manifest: Manifest) -> Layer | None:
    """The vision projector. Where it has no media type of its own (ModelPack, some folders of GGUF) its name tells."""
    kinds = (GGUF_TYPE, MODELPACK_GGUF_TYPE, MODELPACK_RAW_TYPE)
    named = (layer for layer in manifest.layers if layer.media_type in kinds and _is_mmproj_name(layer.file_name))
    return first_layer(manifest, MMPROJ_TYPE) or next(named, None)


def chat_template_layer(manifest: Manifest) -> Layer | None:
    """The Jinja template beside the weights. Where files have no media types of their own, its name tells."""
    named = (
        layer
        for layer in manifest.layers
        if layer.media_type in (FILE_TYPE, MODELPACK_FILE_TYPE) and layer.file_name.lower().endswith(".jinja")
    )
    return first_layer(manifest, CHAT_TEMPLATE_TYPE) or next(named, None)


def license_layers(manifest: Manifest) -> tuple[Layer, ...]:
    """In the order of the manifest. A ModelPack's documents are licences if they are called so."""
    return tuple(layer for layer in manifest.layers if is_license(layer))


def is_license(layer: Layer) -> bool:
    if layer.media_type == MODELPACK_DOCUMENT_TYPE:
        return is_license_name(layer.file_name)
    return layer.media_type in LICENSE_TYPES


def is_license_file(name: str) -> bool:
    """Whether a file that lies beside a model is the text of a licence."""
    suffix = PurePosixPath(name).suffix
    return is_license_name(name) and (suffix.lower() in _TEXT_SUFFIXES or is_license_name(suffix))


def is_license_name(name: str) -> bool:
    return any(word in name.lower() for word in ("license", "licence", "copying", "notice"))


def _is_gguf(layer: Layer, model_format: str) -> bool:
    name = layer.file_name
    if _is_mmproj_name(name):
        return False
    if layer.media_type in (GGUF_TYPE, MODELPACK_GGUF_TYPE):
        return True
    return layer.media_type == MODELPACK_RAW_TYPE and (name.endswith(".gguf") or (not name and model_format == "gguf"))


def _is_mmproj_name(name: str) -> bool:
    return "mmproj" in name.lower() and name.endswith((".gguf", ".mmproj"))
