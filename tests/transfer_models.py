"""Models of every kind that travels, made of a few bytes, and the calls that let them travel."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from unit.store.gguf_bytes import Tensor, gguf_bytes

from dmr.store import manifest as types
from dmr.store.digest import Digest
from dmr.store.layout import Layout
from dmr.store.pull import RegistryOptions, adopt
from dmr.store.reference import parse_reference
from dmr.store.store import ModelStore
from dmr.store.transfers import pull
from dmr.types import TransferProgress

NOBODY = RegistryOptions(environ={})
MIB = 1 << 20
MODELPACK_MANIFEST_TYPE = "application/vnd.cncf.model.manifest.v1+json"
DOCUMENT_TYPE = "application/vnd.cncf.model.doc.v1.raw"


def bring(store: ModelStore, name: str, options: RegistryOptions = NOBODY) -> list[TransferProgress]:
    """Pull, and return what was reported."""
    reports: list[TransferProgress] = []
    pull(store, name, options, reports.append)
    return reports


def weights(num_mib: int = 3, seed: int = 0, **metadata: Any) -> bytes:
    """A GGUF file with so many MiB of a tensor."""
    data = bytes((index + seed) % 256 for index in range(256)) * (num_mib * MIB // 256)
    tensor = Tensor(f"t{seed}", (num_mib * MIB // 4,), data=data)
    return gguf_bytes({"general.architecture": "llama", **metadata}, tensors=[tensor])


def plain_model(store: ModelStore, folder: Path, name: str) -> None:
    """One GGUF layer of 3 MiB."""
    path = folder / "model.gguf"
    path.write_bytes(weights())
    store.import_gguf(path, name)


def whole_model(store: ModelStore, folder: Path, name: str) -> None:
    """Two shards, a vision projector, a chat template and two licences."""
    for number in range(2):
        data = weights(2, number, **{"split.no": number, "split.count": 2, "split.tensors.count": 2})
        (folder / f"model-{number + 1:05}-of-00002.gguf").write_bytes(data)
    projector, template = folder / "mmproj.gguf", folder / "template.jinja"
    projector.write_bytes(gguf_bytes({"general.architecture": "clip"}))
    template.write_text("{{ messages[0].content }}")
    licenses = [folder / "LICENSE", folder / "NOTICE"]
    for path in licenses:
        path.write_text(f"You may. ({path.name})")
    store.import_gguf(
        folder / "model-00001-of-00002.gguf", name, mmproj=projector, chat_template=template, licenses=licenses
    )


def model_with_paths(store: ModelStore, folder: Path, name: str) -> None:
    """Config v0.2: a layer for each file, with its path."""
    config = {
        "config": {"format": "gguf", "parameters": "786.43K", "architecture": "llama", "size": "3.00MiB"},
        "descriptor": {"created": "2026-01-02T03:04:05Z"},
    }
    layers = [
        (types.GGUF_TYPE, weights(), "weights/model.gguf"),
        ("application/vnd.docker.ai.model.file", b'{"a": 1}', "config.json"),
        ("application/vnd.docker.ai.model.file", b"# Model", "docs/README.md"),
    ]
    _put(store, name, (types.CONFIG_V02_TYPE, config), layers)


def packed_model(store: ModelStore, folder: Path, name: str) -> None:
    """A CNCF ModelPack."""
    config = {
        "descriptor": {"createdAt": "2026-01-02T03:04:05Z", "family": "llama"},
        "config": {"architecture": "llama", "format": "gguf", "paramSize": "786.43K", "quantization": "F32"},
        "modelfs": {"type": "layers", "diffIds": []},
    }
    layers = [(types.MODELPACK_GGUF_TYPE, weights(), "model.gguf"), (DOCUMENT_TYPE, b"# Model", "README.md")]
    _put(store, name, (types.MODELPACK_CONFIG_TYPE, config), layers, artifactType=MODELPACK_MANIFEST_TYPE)


MODELS: Mapping[str, Callable[[ModelStore, Path, str], None]] = {
    "classic": plain_model,
    "everything": whole_model,
    "v0.2": model_with_paths,
    "ModelPack": packed_model,
}


def _put(
    store: ModelStore,
    name: str,
    config: tuple[str, Mapping[str, Any]],
    layers: list[tuple[str, bytes, str]],
    **more: str,
) -> None:
    """Write a model into a store as somebody else's tool would have made it."""
    layout = Layout(store.root)

    def descriptor(media_type: str, data: bytes, **rest: Any) -> dict[str, Any]:
        return {"mediaType": media_type, "digest": layout.blobs.put_bytes(data), "size": len(data), **rest}

    document = {
        "schemaVersion": 2,
        "mediaType": types.MANIFEST_TYPE,
        **more,
        "config": descriptor(config[0], json.dumps(config[1]).encode()),
        "layers": [
            descriptor(kind, data, annotations={types.FILEPATH_ANNOTATION: path}) for kind, data, path in layers
        ],
    }
    adopt(layout, json.dumps(document, indent=3).encode(), parse_reference(name), 10)


def blobs_of(store: ModelStore, name: str) -> dict[str, bytes]:
    """All files of a model by digest, its manifest among them."""
    layout, model_id = Layout(store.root), Digest(store.get(name).id)
    raw = layout.read_raw_manifest(model_id)
    digests = types.parse_manifest(raw).digests
    return {model_id: raw, **{digest: layout.blobs.path_of(digest).read_bytes() for digest in digests}}
