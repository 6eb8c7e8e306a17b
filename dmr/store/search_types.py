"""What a search finds."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

MAX_DESCRIPTION = 50  # characters; upstream's


class Found(msgspec.Struct, frozen=True, rename="pascal"):
    """A model of a hub; in JSON with upstream's names. `size` in bytes of what a pull brings, 0 if unknown."""

    name: str  # that it can be pulled by
    description: str
    downloads: int
    stars: int
    source: str
    official: bool
    updated_at: str
    backend: str  # the engines that can run it: "llama.cpp", "vllm", both with a comma, or "unknown"
    size: int = 0


Measure = Callable[[Found], Found]  # finds out the size; may raise DmrError


def shortened(text: str) -> str:
    """One line, as long as a table has room for."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_DESCRIPTION else f"{line[: MAX_DESCRIPTION - 3]}..."


def backends_of(has_gguf: bool, has_safetensors: bool) -> str:
    names = [name for name, is_there in (("llama.cpp", has_gguf), ("vllm", has_safetensors)) if is_there]
    return ", ".join(names) or "unknown"
