"""Projectors whose towers compute: of noise, of any cost, and of the kinds that models treat in ways of their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import llama, memories
from .gguf_file import Array, Noise, write_gguf

MROPE_PATCH = 14  # pixels; four patches are one place
WINDOW_PLACES = 16


def write_mrope_projector(path: Path) -> None:
    """For the model with positions of several dimensions: a place for each 28 x 28 pixels, at least 8 of them."""
    noise, width, blocks = Noise(31), 32, 2
    tensors = _tower(noise, blocks, width, MROPE_PATCH)
    tensors |= {
        "v.patch_embd.weight.1": noise(0.1, width, 3, MROPE_PATCH, MROPE_PATCH).astype(np.float32),
        "mm.0.weight": noise(0.3, 4 * width, 4 * width).astype(np.float32),
        "mm.0.bias": np.zeros(4 * width),
        "mm.2.weight": noise(0.01, llama.WIDTH, 4 * width).astype(np.float32),
        "mm.2.bias": np.zeros(llama.WIDTH),
    }
    sizes = _sizes(blocks, width, 8 * MROPE_PATCH, MROPE_PATCH, llama.WIDTH)
    _write(path, "tiny mrope tower", "qwen2vl_merger", sizes, tensors)


def write_window_projector(path: Path) -> None:
    """For the model with a sliding window: `WINDOW_PLACES` that see each other and are computed together."""
    noise, width, patch, blocks = Noise(32), 32, 14, 1
    side = 8 * patch
    tensors = _tower(noise, blocks, width, patch)
    tensors |= {
        "v.position_embd.weight": noise(0.3, 64, width).astype(np.float32),
        "v.post_ln.weight": np.ones(width),
        "v.post_ln.bias": np.zeros(width),
        "mm.soft_emb_norm.weight": np.ones(width),
        "mm.input_projection.weight": noise(0.5, width, memories.WIDTH).astype(np.float32),
    }
    sizes = _sizes(blocks, width, side, patch, memories.WIDTH) | {"clip.vision.projector.scale_factor": 2}
    _write(path, "tiny indivisible", "gemma3", sizes, tensors)


def write_costly_projector(path: Path, text_width: int, blocks: int, width: int, side: int, patch: int = 14) -> None:
    """Noise of LLaVA's kind, for a text model of any width.

    A picture is made `side` x `side` pixels large and has (side / patch)^2 places; `blocks` of the tower run.
    """
    noise = Noise(33)
    hidden = 2 * width
    tensors = _tower(noise, blocks + 1, width, patch)  # the last one does not run
    tensors |= {
        "v.position_embd.weight": noise(0.3, (side // patch) ** 2, width).astype(np.float32),
        "mm.0.weight": noise(width**-0.5, hidden, width),
        "mm.0.bias": np.zeros(hidden),
        "mm.2.weight": noise(0.1 * hidden**-0.5, text_width, hidden),
        "mm.2.bias": np.zeros(text_width),
    }
    sizes = _sizes(blocks + 1, width, side, patch, text_width, num_heads=max(2, width // 64))
    _write(path, "costly tower", "mlp", sizes, tensors)


def _tower(noise: Noise, blocks: int, width: int, patch: int) -> dict[str, Array]:
    """Blocks in which each place depends on all others."""
    tensors: dict[str, Array] = {"v.patch_embd.weight": noise(0.1, width, 3, patch, patch).astype(np.float32)}
    square, hidden = (width, width), 2 * width
    shapes = {"attn_q": square, "attn_k": square, "attn_v": square, "attn_out": square}
    shapes |= {"ffn_up": (hidden, width), "ffn_down": (width, hidden)}
    for number in range(blocks):
        for key, shape in shapes.items():
            tensors[f"v.blk.{number}.{key}.weight"] = noise(shape[1] ** -0.5, *shape)
            tensors[f"v.blk.{number}.{key}.bias"] = np.zeros(shape[0])
        for key in ("ln1", "ln2"):
            tensors[f"v.blk.{number}.{key}.weight"] = np.ones(width)
            tensors[f"v.blk.{number}.{key}.bias"] = np.zeros(width)
    return tensors


def _sizes(blocks: int, width: int, side: int, patch: int, text_width: int, num_heads: int = 2) -> dict[str, Any]:
    return {
        "clip.vision.image_size": side,
        "clip.vision.patch_size": patch,
        "clip.vision.embedding_length": width,
        "clip.vision.feed_forward_length": 2 * width,
        "clip.vision.projection_dim": text_width,
        "clip.vision.block_count": blocks,
        "clip.vision.attention.head_count": num_heads,
        "clip.vision.attention.layer_norm_epsilon": 1e-5,
        "clip.vision.image_mean": [0.5, 0.5, 0.5],
        "clip.vision.image_std": [0.5, 0.5, 0.5],
    }


def _write(path: Path, name: str, kind: str, sizes: Mapping[str, Any], tensors: Mapping[str, Array]) -> None:
    metadata = {
        "general.type": "mmproj",
        "general.name": name,
        "clip.has_vision_encoder": True,
        "clip.projector_type": kind,
        "clip.use_gelu": True,
        **sizes,
    }
    write_gguf(path, "clip", metadata, tensors)
