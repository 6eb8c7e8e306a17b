"""The two families of media types for the parts of a model, and how the layers of one are called in the other."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from dmr.store.manifest import (
    CHAT_TEMPLATE_TYPE,
    CONFIG_TYPE,
    CONFIG_V02_TYPE,
    DDUF_TYPE,
    DEFAULTS_TYPES,
    FILE_TYPE,
    FILEPATH_ANNOTATION,
    GGUF_TYPE,
    LICENSE_TYPE,
    MMPROJ_TYPE,
    MODELPACK_CONFIG_TYPE,
    MODELPACK_DOCUMENT_TYPE,
    MODELPACK_FILE_TYPE,
    MODELPACK_RAW_TYPE,
    MODELPACK_SAFETENSORS_TYPE,
    SAFETENSORS_TYPE,
    Layer,
    Manifest,
    chat_template_layer,
    is_license,
    mmproj_layer,
    weight_layers,
)

DOCKER, CNCF = FORMATS = ("docker", "cncf")


class LayerTypes(NamedTuple):
    gguf: str
    safetensors: str
    dduf: str
    mmproj: str
    chat_template: str
    license: str
    file: str

    @property
    def is_modelpack(self) -> bool:
        return self.gguf == MODELPACK_RAW_TYPE


_DOCKER_TYPES = LayerTypes(
    GGUF_TYPE, SAFETENSORS_TYPE, DDUF_TYPE, MMPROJ_TYPE, CHAT_TEMPLATE_TYPE, LICENSE_TYPE, FILE_TYPE
)
_MODELPACK_TYPES = LayerTypes(
    MODELPACK_RAW_TYPE,
    MODELPACK_RAW_TYPE,
    MODELPACK_RAW_TYPE,
    MODELPACK_RAW_TYPE,
    MODELPACK_FILE_TYPE,
    MODELPACK_DOCUMENT_TYPE,
    MODELPACK_FILE_TYPE,
)


def types_of(config_type: str) -> LayerTypes:
    return _MODELPACK_TYPES if config_type == MODELPACK_CONFIG_TYPE else _DOCKER_TYPES


def type_in_modelpack(media_type: str) -> str:
    """What a layer of this type is called there."""
    return dict(zip(_DOCKER_TYPES, _MODELPACK_TYPES, strict=True)).get(media_type, media_type)


def renamed(manifest: Manifest, model_format: str, to: str) -> tuple[list[Layer], str]:
    """The layers and the config's type in the format `to`, one of `FORMATS`. Each layer gets a path if it has none."""
    types = _MODELPACK_TYPES if to == CNCF else _DOCKER_TYPES
    weights = weight_layers(manifest, model_format)
    roles = [
        (mmproj_layer(manifest), types.mmproj, "model.mmproj"),
        (chat_template_layer(manifest), types.chat_template, "template.jinja"),
    ]
    for number, layer in enumerate(weights, 1):
        name = "model.gguf" if len(weights) == 1 else f"model-{number:05}-of-{len(weights):05}.gguf"
        roles.append((layer, types.gguf, name))
    layers = []
    for layer in manifest.layers:
        media_type, name = next((rest for each, *rest in roles if each is layer), _other(layer, types))
        path = (layer.annotations or {}).get(FILEPATH_ANNOTATION) or name
        annotations = {**(layer.annotations or {}), **({FILEPATH_ANNOTATION: path} if path else {})}
        layers.append(msgspec.structs.replace(layer, media_type=media_type, annotations=annotations or None))
    if to == CNCF:
        return layers, MODELPACK_CONFIG_TYPE
    return layers, CONFIG_TYPE if weights else CONFIG_V02_TYPE


def _other(layer: Layer, types: LayerTypes) -> tuple[str, str]:
    """A layer that is neither GGUF nor what goes with it: its type tells what it is, or else its name."""
    name = layer.file_name.lower()
    if layer.media_type in DEFAULTS_TYPES:
        return layer.media_type, ""
    if is_license(layer):
        return types.license, "LICENSE"
    if layer.media_type in (SAFETENSORS_TYPE, MODELPACK_SAFETENSORS_TYPE) or name.endswith(".safetensors"):
        return types.safetensors, "model.safetensors"
    if layer.media_type == DDUF_TYPE or name.endswith(".dduf"):
        return types.dduf, "model.dduf"
    return types.file, ""
