"""Projectors that see colours: a patch of a saturated colour becomes the vector of that colour's word.

The tower is of the kind that LLaVA has: it stops one block early, so with one block nothing of it runs but the first
convolution. That takes the mean red, green and blue of each patch; the two matrices behind it find the corner of the
colour cube and write its vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np

from . import llama, memories, script
from .gguf_file import Array, Noise, write_gguf

PATCH = 28  # pixels; a picture is a square of patches, each a place in the prompt
_HIDDEN = 16
_SHARPNESS = 12.0
_NEAR = 1.3  # of 3, that a patch's colour has in common with a corner: beyond it is that corner
_BLOCK = ("attn_q", "attn_k", "attn_v", "attn_out", "ffn_up", "ffn_down")


def write_colour_projector(path: Path, vectors: Array, blank: Array, side: int = 2) -> None:
    """`vectors` [8, width]: of SCRIPT_COLOURS, in their order. `blank` [width]: of all other patches.

    A picture has `side` * `side` places.
    """
    width = vectors.shape[1]
    convolution = np.zeros((_HIDDEN, 3, PATCH, PATCH), np.float32)
    for channel in range(3):
        convolution[channel, channel] = 1 / PATCH**2
    corners = np.zeros((len(vectors), _HIDDEN))
    for number in range(len(vectors)):
        corners[number, :3] = [_SHARPNESS if number & bit else -_SHARPNESS for bit in (4, 2, 1)]
    gain = _SHARPNESS * (3 - _NEAR)
    tensors = {
        "v.patch_embd.weight": convolution,
        "v.position_embd.weight": np.zeros((side * side, _HIDDEN), np.float32),
        "mm.0.weight": corners.astype(np.float32),
        "mm.0.bias": np.full(len(vectors), -_SHARPNESS * _NEAR),
        "mm.2.weight": (vectors.T / gain).astype(np.float32),
        "mm.2.bias": blank,
    }
    for name in _BLOCK:
        tensors[f"v.blk.0.{name}.weight"] = np.zeros((_HIDDEN, _HIDDEN), np.float32)
        tensors[f"v.blk.0.{name}.bias"] = np.zeros(_HIDDEN)
    for name in ("ln1", "ln2"):
        tensors[f"v.blk.0.{name}.weight"] = np.ones(_HIDDEN)
        tensors[f"v.blk.0.{name}.bias"] = np.zeros(_HIDDEN)
    metadata = {
        "general.type": "mmproj",
        "general.name": "tiny colours",
        "clip.has_vision_encoder": True,
        "clip.projector_type": "mlp",
        "clip.use_gelu": True,
        "clip.vision.image_size": side * PATCH,
        "clip.vision.patch_size": PATCH,
        "clip.vision.embedding_length": _HIDDEN,
        "clip.vision.feed_forward_length": _HIDDEN,
        "clip.vision.projection_dim": width,
        "clip.vision.block_count": 1,
        "clip.vision.attention.head_count": 2,
        "clip.vision.attention.layer_norm_epsilon": 1e-5,
        "clip.vision.image_mean": [0.5, 0.5, 0.5],
        "clip.vision.image_std": [0.5, 0.5, 0.5],
    }
    write_gguf(path, "clip", metadata, tensors)


def write_script_projector(path: Path) -> None:
    """For the scripted models: they answer a picture of one colour with its name in capitals."""
    vectors, blank = llama.colour_vectors()
    write_colour_projector(path, vectors, blank)


def write_random_projector(path: Path) -> None:
    """For the model of noise: 16 places, whose vectors are noise too, another for each colour."""
    vectors = Noise(21)(1.0, len(script.SCRIPT_COLOURS), llama.WIDTH)
    write_colour_projector(path, vectors, Noise(22)(0.1, llama.WIDTH), side=4)


def write_hybrid_projector(path: Path) -> None:
    """For the model with a state and attention: 9 places of noise, another for each colour."""
    vectors = Noise(23)(1.0, len(script.SCRIPT_COLOURS), memories.WIDTH)
    write_colour_projector(path, vectors, Noise(24)(0.1, memories.WIDTH), side=3)


def write_projector_for(weights: Path, path: Path, words: Sequence[str] = script.SCRIPT_COLOURS) -> None:
    """For a real model, whose own vectors of the words it takes. Raises ValueError: a word is no single token."""
    reader = gguf.GGUFReader(weights)
    tokens = {token: number for number, token in enumerate(reader.fields["tokenizer.ggml.tokens"].contents())}
    matrix = next(tensor for tensor in reader.tensors if tensor.name == "token_embd.weight")
    rows = []
    for word in words:
        spelt = next((form for form in _spellings(word) if form in tokens), None)
        if spelt is None:
            raise ValueError(f"{word} is no single token")
        rows.append(tokens[spelt])
    vectors = gguf.quants.dequantize(matrix.data[rows], matrix.tensor_type)
    write_colour_projector(path, vectors, 0.05 * vectors.mean(0))


def _spellings(word: str) -> list[str]:
    """As a token with a space before it, in the vocabularies of GPT-2 and SentencePiece, and without."""
    others = {"magenta": "purple", "cyan": "turquoise"}
    names = (word.lower(), others.get(word.lower(), word.lower()))
    return [mark + name for name in names for mark in ("\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}", "\u2581", "")]
