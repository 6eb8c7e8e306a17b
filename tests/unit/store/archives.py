"""Archives as others write them, hostile ones among them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from typing import Any

CONFIG_TYPE = "application/vnd.docker.ai.model.config.v0.1+json"
GGUF_TYPE = "application/vnd.docker.ai.gguf.v3"


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def blob_path(data: bytes) -> str:
    return "blobs/sha256/" + hashlib.sha256(data).hexdigest()


def manifest_of(weights: bytes, config: bytes, /, **changes: Any) -> bytes:
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": CONFIG_TYPE, "digest": digest(config), "size": len(config)},
            "layers": [{"mediaType": GGUF_TYPE, "digest": digest(weights), "size": len(weights)}],
            **changes,
        }
    ).encode()


def tar_of(
    members: Mapping[str, bytes] | Iterable[tuple[tarfile.TarInfo, bytes]], kind: int = tarfile.PAX_FORMAT
) -> bytes:
    file = io.BytesIO()
    pairs = members.items() if isinstance(members, Mapping) else members
    with tarfile.open(fileobj=file, mode="w", format=kind) as tar:
        for name, data in pairs:
            info = name
            if isinstance(name, str):
                info = tarfile.TarInfo(name)
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def upstream_archive(weights: bytes, config: bytes = b'{"config":{"format":"gguf"}}') -> dict[str, bytes]:
    """Blobs first, the manifest last, and nothing else."""
    manifest = manifest_of(weights, config)
    return {blob_path(weights): weights, blob_path(config): config, "manifest.json": manifest}
