"""Under which names the layers of a model lie in a repository: such that a pull by the same name finds them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

import msgspec

from dmr.errors import Unsupported
from dmr.store.hugging_face.names import HubModel
from dmr.store.manifest import (
    CHAT_TEMPLATE_TYPE,
    DEFAULTS_TYPES,
    FILEPATH_ANNOTATION,
    GGUF_TYPE,
    LICENSE_TYPES,
    MMPROJ_TYPE,
    MODELPACK_GGUF_TYPE,
    Layer,
    Manifest,
)
from dmr.types import ModelConfig

_GGUF_SUFFIX = re.compile(r"[-_.]GGUF$", re.IGNORECASE)


class PushedFile(msgspec.Struct, frozen=True):
    path: str
    layer: Layer


def name_files(manifest: Manifest, config: ModelConfig, target: HubModel) -> list[PushedFile]:
    """Of GGUF models the names tell repository and quantization; files with paths of their own keep these.

    Raises:
        Unsupported: a layer has no place in a repository, or two have the same.
    """
    base = _GGUF_SUFFIX.sub("", target.repository.rpartition("/")[2])
    label = target.quantization or config.quantization.rpartition("/")[2]
    stem = f"{base}-{label}" if label and label.lower() not in base.lower() else base
    weights = [layer for layer in manifest.layers if layer.media_type in (GGUF_TYPE, MODELPACK_GGUF_TYPE)]
    weights = [layer for layer in weights if "mmproj" not in layer.file_name.lower()]
    files: dict[str, PushedFile] = {}
    for layer in manifest.layers:
        if layer.media_type in DEFAULTS_TYPES:
            continue  # what a repository has no file for
        path = _weight_name(weights, layer, stem) if layer in weights else _other_name(layer, base, files)
        if path in files:
            raise Unsupported(f"The model has two files called {path}, which a repository cannot hold.")
        files[path] = PushedFile(path, layer)
    if not files:
        raise Unsupported("The model has no files that could be pushed to the hub.")
    return list(files.values())


def _weight_name(weights: list[Layer], layer: Layer, stem: str) -> str:
    if len(weights) == 1:
        return f"{stem}.gguf"
    return f"{stem}-{weights.index(layer) + 1:05}-of-{len(weights):05}.gguf"


def _other_name(layer: Layer, base: str, taken: Mapping[str, PushedFile]) -> str:
    if layer.media_type == MMPROJ_TYPE:
        return f"mmproj-{base}.gguf"
    if layer.media_type == CHAT_TEMPLATE_TYPE:
        return "chat_template.jinja"
    path = PurePosixPath((layer.annotations or {}).get(FILEPATH_ANNOTATION, ""))
    if layer.media_type in LICENSE_TYPES:
        return _free(path.name or "LICENSE", taken)
    if not path.name or path.is_absolute() or ".." in path.parts or path.parts[0] == ".git":
        raise Unsupported(f"A part of the model ({layer.media_type[:100]}) has no name that a repository can hold.")
    return str(path)


def _free(name: str, taken: Mapping[str, PushedFile]) -> str:
    number = 2
    free = name
    while free in taken:
        free, number = f"{name}-{number}", number + 1
    return free
