"""What a model in safetensors consists of: which files hold weights, and which ones the converter reads beside them."""

from __future__ import annotations

import json
import re
from pathlib import Path

_TEXT_ENDINGS = (".json", ".txt", ".model", ".jinja", ".tiktoken")
_MODULE = re.compile(r"[0-9]+_[A-Za-z]+")  # folders of sentence transformers: how they pool stands there
MAX_CONFIG_BYTES = 4 << 20
_VISION_KEYS = ("vision_config", "vision_encoder", "vit_config")


def is_weights(path: str) -> bool:
    """Of the topmost folder, by the names that llama.cpp's converter looks for; Mistral's own copy of them is left."""
    return "/" not in path and path.startswith("model") and path.endswith(".safetensors")


def is_text(path: str) -> bool:
    """A small file that the converter may read: of the topmost folder, or of a part that has a folder of its own."""
    folder, _, name = path.rpartition("/")
    return (not folder or _MODULE.fullmatch(folder) is not None) and name.lower().endswith(_TEXT_ENDINGS)


def has_vision(folder: Path) -> bool:
    """Whether the model's own description speaks of a part that sees."""
    try:
        with (folder / "config.json").open("rb") as file:
            description = json.loads(file.read(MAX_CONFIG_BYTES))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(description, dict) and any(key in description for key in _VISION_KEYS)
