"""Models of noise whose memory is not that of a llama: a sliding window, a recurrent state, or a state and attention.

As with the llama of noise, each token depends on all before it, and greedy decoding never ends. Only what it depends on
is kept in another way.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from . import script
from .chat_file import write_chat_model
from .gguf_file import Array, Noise
from .script import Vocabulary

MEMORY_CONTEXT = 4096
WINDOW = 32  # tokens that the window model's first layer sees
WIDTH = 64
_HEADS = 4
_HEAD = WIDTH // _HEADS
_INNER = 2 * WIDTH  # of a recurrent layer
_STATE = 8
_RANK = 8
_KERNEL = 4


def write_window_model(path: Path) -> None:
    """Two layers of attention; the first sees the last `WINDOW` tokens only."""
    noise = Noise(11)
    layers = []
    for _ in range(2):
        layer = _attention(noise) | _feed_forward(noise)
        norms = {"attn_q_norm.weight": _HEAD, "attn_k_norm.weight": _HEAD}
        norms |= {"post_attention_norm.weight": WIDTH, "post_ffw_norm.weight": WIDTH}
        layers.append(layer | {key: np.ones(size) for key, size in norms.items()})
    sizes = {
        **_sizes(len(layers), 2),
        ".attention.key_length": _HEAD,
        ".attention.value_length": _HEAD,
        ".attention.sliding_window": WINDOW,
        ".attention.sliding_window_pattern": 2,
    }
    # The architecture multiplies the embedding by 8, and what a layer adds is always of the same size.
    _write(path, "gemma3", "tiny window", noise, sizes, layers, spread=1 / 16)


def write_recurrent_model(path: Path) -> None:
    """Two recurrent layers and no attention: what was read is in a state of fixed size."""
    noise = Noise(12)
    layers = [_recurrent(noise) | {"attn_norm.weight": np.ones(WIDTH)} for _ in range(2)]
    _write(path, "mamba", "tiny recurrent", noise, {**_sizes(len(layers), 0), **_STATE_SIZES}, layers)


def write_hybrid_model(path: Path) -> None:
    """A recurrent layer, then one of attention."""
    noise = Noise(13)
    norms = {"ssm_dt_norm.weight": _RANK, "ssm_b_norm.weight": _STATE, "ssm_c_norm.weight": _STATE}
    recurrent = _recurrent(noise) | {key: np.ones(size) for key, size in norms.items()}
    layers = [recurrent | _feed_forward(noise), _attention(noise) | _feed_forward(noise)]
    sizes = {**_sizes(len(layers), 2), **_STATE_SIZES, ".attention.head_count_kv": [0, 2]}
    _write(path, "jamba", "tiny hybrid", noise, sizes, layers)


_STATE_SIZES = {
    ".ssm.conv_kernel": _KERNEL,
    ".ssm.inner_size": _INNER,
    ".ssm.state_size": _STATE,
    ".ssm.time_step_rank": _RANK,
}


def _sizes(num_layers: int, num_kv_heads: int) -> dict[str, Any]:
    sizes: dict[str, Any] = {
        ".context_length": MEMORY_CONTEXT,
        ".embedding_length": WIDTH,
        ".block_count": num_layers,
        ".feed_forward_length": 2 * WIDTH if num_kv_heads else 0,
        ".attention.head_count": _HEADS if num_kv_heads else 0,
    }
    if num_kv_heads:
        sizes |= {".attention.head_count_kv": num_kv_heads, ".rope.dimension_count": _HEAD, ".rope.freq_base": 1e4}
    return sizes


def _attention(noise: Noise) -> dict[str, Array]:
    shapes = {"attn_q": WIDTH, "attn_k": 2 * _HEAD, "attn_v": 2 * _HEAD, "attn_output": WIDTH}
    weights = {f"{key}.weight": noise(0.4, size, WIDTH) for key, size in shapes.items()}
    return weights | {"attn_norm.weight": np.ones(WIDTH)}


def _feed_forward(noise: Noise) -> dict[str, Array]:
    hidden = 2 * WIDTH
    shapes = {"ffn_gate": (hidden, WIDTH), "ffn_up": (hidden, WIDTH), "ffn_down": (WIDTH, hidden)}
    return {f"{key}.weight": noise(0.12, *shape) for key, shape in shapes.items()} | {"ffn_norm.weight": np.ones(WIDTH)}


def _recurrent(noise: Noise) -> dict[str, Array]:
    """A state that fades slowly: a token is to be felt a hundred tokens later."""
    fading = -np.tile(np.arange(1, _STATE + 1) / 100, (_INNER, 1))
    return {
        "attn_norm.weight": np.ones(WIDTH),
        "ssm_in.weight": noise(0.15, 2 * _INNER, WIDTH),
        "ssm_conv1d.weight": noise(0.5, _INNER, _KERNEL).astype(np.float32),
        "ssm_conv1d.bias": np.zeros(_INNER),
        "ssm_x.weight": noise(0.12, _RANK + 2 * _STATE, _INNER),
        "ssm_dt.weight": noise(0.3, _INNER, _RANK),
        "ssm_dt.bias": np.zeros(_INNER),
        "ssm_a": fading.astype(np.float32),
        "ssm_d": np.ones(_INNER),
        "ssm_out.weight": noise(0.12, WIDTH, _INNER),
    }


def _write(
    path: Path,
    architecture: str,
    name: str,
    noise: Noise,
    sizes: dict[str, Any],
    layers: list[dict[str, Array]],
    spread: float = 1.0,
) -> None:
    """`spread`: the deviation of the embedding's numbers."""
    vocabulary = Vocabulary()
    tensors = {
        "token_embd.weight": noise(spread, len(vocabulary), WIDTH),
        "output.weight": noise(0.5, len(vocabulary), WIDTH),
    }
    control = [token for token, kind in enumerate(vocabulary.types) if kind == gguf.TokenType.CONTROL]
    tensors["output.weight"][control] = 0
    tensors["output_norm.weight"] = np.ones(WIDTH)
    for i, layer in enumerate(layers):
        tensors |= {f"blk.{i}.{key}": tensor for key, tensor in layer.items()}
    write_chat_model(path, architecture, name, script.SCRIPT_TEMPLATE, vocabulary, sizes, tensors)
