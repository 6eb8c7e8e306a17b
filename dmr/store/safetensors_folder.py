"""What a model in safetensors consists of: which files hold weights, and which ones the converter reads beside them."""

from __future__ import annotations

import json
from pathlib import Path

TEXT_ENDINGS = (".json", ".txt", ".model", ".jinja", ".tiktoken")
MAX_CONFIG_BYTES = 4 << 20
_VISION_KEYS = ("vision_config", "vision_encoder", "vit_config")


def is_weights(path: str) -> bool:
    """Of the topmost folder, by the names that llama.cpp's converter looks for; Mistral's own copy of them is left."""
    return "/" not in path and path.startswith("model") and path.endswith(".safetensors")


def has_vision(folder: Path) -> bool:
    """Whether the model's own description speaks of a part that sees."""
    try:
        with (folder / "config.json").open("rb") as file:
            description = json.loads(file.read(MAX_CONFIG_BYTES))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(description, dict) and any(key in description for key in _VISION_KEYS)
