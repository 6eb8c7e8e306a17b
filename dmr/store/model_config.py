"""Config blobs: writes and reads the flat shape (v0.1, v0.2) and the CNCF ModelPack's."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from dmr.errors import StoreError, Unsupported
from dmr.store.gguf_config import MAX_CONTEXT_SIZE, format_size
from dmr.store.manifest import CONFIG_TYPE, CONFIG_TYPES, MODELPACK_CONFIG_TYPE, Layer, Manifest, weight_layers
from dmr.types import ModelConfig, Value

MAX_CONFIG_BYTES = 16 << 20
_MODELPACK_KEYS = ("paramSize", "createdAt", "modelfs")


class StoredConfig(Value, frozen=True):
    """A config blob, in the flat shape whatever shape it had. `created` in Unix seconds, 0 if unknown."""

    config: ModelConfig
    created: int


class _FlatConfig(msgspec.Struct, frozen=True):
    format: str | None = None
    quantization: str | None = None
    parameters: str | None = None
    architecture: str | None = None
    size: str | None = None
    gguf: dict[str, str] | None = None
    safetensors: dict[str, str] | None = None
    diffusers: dict[str, str] | None = None
    context_size: int | None = None


class _FlatDocument(msgspec.Struct, frozen=True):
    config: _FlatConfig | None = None


class _ModelPackConfig(msgspec.Struct, frozen=True, rename="camel"):
    format: str | None = None
    quantization: str | None = None
    param_size: str | None = None
    architecture: str | None = None
    context_size: int | None = msgspec.field(default=None, name="context_size")  # ours: the format has no field for it


class _ModelPackDocument(msgspec.Struct, frozen=True):
    config: _ModelPackConfig | None = None


def build_config(config: ModelConfig, layers: Sequence[Layer], created: int, kind: str = CONFIG_TYPE) -> bytes:
    """A config blob of the media type `kind`. `created` in Unix seconds. Equal arguments give equal bytes."""
    time = datetime.datetime.fromtimestamp(created, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    digests = [layer.digest for layer in layers]
    if kind != MODELPACK_CONFIG_TYPE:
        root = {"type": "rootfs", "diff_ids": digests}
        return msgspec.json.encode({"config": config, "descriptor": {"created": time}, "rootfs": root})
    fields = {
        "architecture": config.architecture,
        "format": config.format,
        "paramSize": config.parameters,
        "quantization": config.quantization,
        "context_size": config.context_size,
    }
    return msgspec.json.encode(
        {
            "descriptor": {"createdAt": time},
            "config": {name: value for name, value in fields.items() if value},
            "modelfs": {"type": "layers", "diffIds": digests},
        }
    )


def parse_config(raw: bytes, manifest: Manifest) -> StoredConfig:
    """Read the config blob of a manifest.

    Raises:
        Unsupported: the manifest names another kind of config.
        StoreError: the bytes are not such a config.
    """
    kind = manifest.config.media_type
    if kind not in CONFIG_TYPES:
        raise Unsupported(
            f"The model's config has the type '{kind[:200]}'; supported are {', '.join(CONFIG_TYPES)}. "
            "A newer version may be able to read it."
        )
    try:
        document = msgspec.json.decode(raw, type=dict[str, Any])
        read = _read_modelpack if _is_modelpack(kind, document) else _read_flat
        return read(document, manifest)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise StoreError(f"The model's config cannot be understood: {error}.") from error


def _is_modelpack(kind: str, document: Mapping[str, Any]) -> bool:
    if kind == MODELPACK_CONFIG_TYPE:
        return True
    parts = [document, *(part for part in document.values() if isinstance(part, dict))]
    return any(key in part for key in _MODELPACK_KEYS for part in parts)


def _read_flat(document: Mapping[str, Any], manifest: Manifest) -> StoredConfig:
    flat = msgspec.convert(document, _FlatDocument).config or _FlatConfig()
    config = ModelConfig(
        format=flat.format or "",
        quantization=flat.quantization or "",
        parameters=flat.parameters or "",
        architecture=flat.architecture or "",
        size=flat.size or "",
        gguf=flat.gguf or {},
        safetensors=flat.safetensors or {},
        diffusers=flat.diffusers or {},
        context_size=_context_size(flat.context_size),
    )
    return StoredConfig(config, _created(document, "created"))


def _read_modelpack(document: Mapping[str, Any], manifest: Manifest) -> StoredConfig:
    pack = msgspec.convert(document, _ModelPackDocument).config or _ModelPackConfig()
    weights = weight_layers(manifest, pack.format or "")
    config = ModelConfig(
        format=pack.format or "",
        quantization=pack.quantization or "",
        parameters=pack.param_size or "",
        architecture=pack.architecture or "",
        size=format_size(sum(layer.size for layer in weights)) if weights else "",
        context_size=_context_size(pack.context_size),
    )
    return StoredConfig(config, _created(document, "createdAt"))


def _context_size(size: int | None) -> int | None:
    return size if 0 < (size or 0) <= MAX_CONTEXT_SIZE else None


def _created(document: Mapping[str, Any], key: str) -> int:
    descriptor = document.get("descriptor")
    text = descriptor.get(key) if isinstance(descriptor, dict) else None
    try:
        time = msgspec.convert(text, datetime.datetime)
    except msgspec.ValidationError:
        return 0
    if time.tzinfo is None:
        time = time.replace(tzinfo=datetime.timezone.utc)
    return max(0, int(time.timestamp()))
