"""The tiny llamas: two scripted ones and one of noise.

The scripted models are llamas of one layer with weights laid out by hand. The dimensions of the residual stream have
meanings instead of learned features:

- from `IDENTITY`: which piece of the script this is. The output matrix maps it to the piece that follows.
- from `SIGN`, and `KEY`: "I am landmark i", and how strongly it is to be seen.
- `QUERY`: +1 on the tokens an answer starts after, -1 elsewhere. Only there does the attention head find landmarks.
- from `FOUND`: what the head found; it outweighs the plain answer.
- `CONSTANT`: 1 everywhere, the input of the weak preferences. `BALLAST` gives all rows the length that RMSNorm keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from . import script
from .chat_file import write_chat_model
from .gguf_file import Array, Noise
from .script import WEATHER, ToolCall, Vocabulary

SCRIPT_CONTEXT = 131072
RANDOM_CONTEXT = 8192
WIDTH = 128
HEAD = 64
QUERY, KEY, CONSTANT, BALLAST = range(4)
SIGN, FOUND, IDENTITY = 16, 32, 64  # the first dimension of each group


def _write_llama(
    path: Path,
    name: str,
    template: str,
    vocabulary: Vocabulary,
    sizes: Mapping[str, Any],
    layers: list[dict[str, Array]],
    ends: dict[str, Array],
    architecture: str = "llama",
) -> None:
    sizes = {".embedding_length": WIDTH, ".block_count": len(layers), **sizes}
    tensors = {**ends, "output_norm.weight": np.ones(WIDTH)}
    for i, layer in enumerate(layers):
        norms = {"attn_norm": np.ones(WIDTH), "ffn_norm": np.ones(WIDTH)}
        tensors |= {f"blk.{i}.{key}.weight": tensor for key, tensor in {**layer, **norms}.items()}
    write_chat_model(path, architecture, name, template, vocabulary, sizes, tensors)


def _identities(vocabulary: Vocabulary, spoken: set[bytes]) -> Array:
    """One row per token [len(vocabulary), WIDTH - IDENTITY]: one of its own for each spoken piece, row 0 for the rest.

    The rows are those of a Hadamard matrix: orthogonal, and of +1 and -1 only, which any float format holds exactly.
    """
    basis = np.ones((1, 1))
    while len(basis) < WIDTH - IDENTITY:
        basis = np.block([[basis, basis], [basis, -basis]])
    rows = np.tile(basis[0], (len(vocabulary), 1))
    tokens = sorted(vocabulary.id_of(piece) for piece in spoken)
    rows[tokens] = basis[1 : len(tokens) + 1]
    return rows


def _script_embedding(vocabulary: Vocabulary, identities: Array, call: ToolCall, asking: tuple[str, ...]) -> Array:
    rows = np.zeros((len(vocabulary), WIDTH))
    rows[:, IDENTITY:] = identities
    rows[:, CONSTANT] = 1
    rows[:, QUERY] = -1
    rows[[vocabulary.id_of(text) for text in asking], QUERY] = 1
    for i, (text, (strength, _)) in enumerate(script.landmarks(call).items()):
        rows[vocabulary.id_of(text), [KEY, SIGN + i]] = strength, 1
    rows[:, BALLAST] = np.sqrt(WIDTH - np.sum(rows**2, axis=1))
    return rows


def _script_output(vocabulary: Vocabulary, identities: Array, call: ToolCall, follows: Mapping[bytes, bytes]) -> Array:
    rows = np.zeros((len(vocabulary), WIDTH))
    rows[:, CONSTANT] = -np.arange(len(vocabulary)) / 1024  # no two tokens are equally likely
    for text, logit in script.PREFERENCES.items():
        rows[vocabulary.id_of(text), CONSTANT] = logit
    certain = 24 / (WIDTH - IDENTITY)  # as a logit 24
    for piece, following in follows.items():
        rows[vocabulary.id_of(following), IDENTITY:] += certain * identities[vocabulary.id_of(piece)]
    unscripted = identities[vocabulary.id_of(script.END_OF_TEXT)]
    rows[vocabulary.id_of(script.COMPLETION_START), IDENTITY:] += certain * unscripted
    for i, (_, said) in enumerate(script.landmarks(call).values()):
        rows[vocabulary.id_of(said), FOUND + i] = 6
    return rows


def _script_layer() -> dict[str, Array]:
    square, half = (WIDTH, WIDTH), (HEAD, WIDTH)
    shapes = {"attn_q": square, "attn_k": half, "attn_v": half, "attn_output": square}
    shapes |= {"ffn_gate": half, "ffn_up": half, "ffn_down": (WIDTH, HEAD)}
    layer = {key: np.zeros(shape) for key, shape in shapes.items()}
    # The last pair of the head, which RoPE hardly turns within the context at base 1e8. Attention divides by
    # sqrt(HEAD), so each unit of strength is worth 16: e^16 is far more than the context has tokens.
    layer["attn_q"][HEAD - 2, QUERY] = 16 * np.sqrt(HEAD)
    layer["attn_k"][HEAD - 2, KEY] = 1
    for i in range(len(script.landmarks())):
        layer["attn_v"][i, SIGN + i] = 1
        layer["attn_output"][FOUND + i, i] = 16
    return layer


def colour_vectors() -> tuple[Array, Array]:
    """What a picture's places hold [colours, WIDTH]: a colour's word each; and what a place without a colour holds."""
    vocabulary = Vocabulary()
    follows = script.successors(thinking=False)
    rows = _script_embedding(vocabulary, _identities(vocabulary, set(follows)), WEATHER, ("\n", "\n\n"))
    return rows[[vocabulary.id_of(colour) for colour in script.SCRIPT_COLOURS]], 0.05 * rows[vocabulary.id_of("~")]


def _write_scripted(path: Path, name: str, template: str, call: ToolCall = WEATHER, *, thinking: bool) -> None:
    vocabulary = Vocabulary(call)
    follows = script.successors(call, thinking=thinking)
    asking = ("\n\n",) if thinking else ("\n", "\n\n")
    identities = _identities(vocabulary, set(follows))
    sizes = {
        ".context_length": SCRIPT_CONTEXT,
        ".feed_forward_length": HEAD,
        ".attention.head_count": WIDTH // HEAD,
        ".attention.head_count_kv": 1,
        ".rope.freq_base": 1e8,
        ".rope.dimension_count": HEAD,
    }
    ends = {
        "token_embd.weight": _script_embedding(vocabulary, identities, call, asking),
        "output.weight": _script_output(vocabulary, identities, call, follows),
    }
    _write_llama(path, name, template, vocabulary, sizes, [_script_layer()], ends)


def write_script_model(path: Path, call: ToolCall = WEATHER) -> None:
    """A chat model that counts to ten, or names the colour, calls the tool or reports on it (see `script`)."""
    _write_scripted(path, "tiny script", script.SCRIPT_TEMPLATE, call, thinking=False)


def write_think_model(path: Path) -> None:
    """The scripted model, but `THINK_REASONING` comes in a <think> block before each answer, tool calls included."""
    _write_scripted(path, "tiny think", script.THINK_TEMPLATE, thinking=True)


def write_random_model(path: Path) -> None:
    """A chat model of noise: each token depends on the whole context. Greedy decoding never ends it."""
    _write_noise(path, "tiny random", "llama", {})


def write_mrope_model(path: Path) -> None:
    """The same with positions of several dimensions, which the places of a picture have by row and column."""
    _write_noise(path, "tiny mrope", "qwen2vl", {".rope.dimension_sections": [4, 6, 6, 0]})


def _write_noise(path: Path, name: str, architecture: str, more: Mapping[str, Any]) -> None:
    noise, vocabulary, head, hidden = Noise(42), Vocabulary(), 32, 256
    shapes = {"attn_q": (WIDTH, WIDTH), "attn_k": (2 * head, WIDTH), "attn_v": (2 * head, WIDTH)}
    shapes |= {"attn_output": (WIDTH, WIDTH), "ffn_gate": (hidden, WIDTH), "ffn_up": (hidden, WIDTH)}
    shapes |= {"ffn_down": (WIDTH, hidden)}
    layers = [
        {key: noise(0.15 if key.startswith("attn") else 0.1, *shape) for key, shape in shapes.items()} for _ in "12"
    ]
    ends = {
        key: noise(scale, len(vocabulary), WIDTH) for key, scale in (("token_embd.weight", 1), ("output.weight", 0.35))
    }
    control = [token for token, kind in enumerate(vocabulary.types) if kind == gguf.TokenType.CONTROL]
    ends["output.weight"][control] = 0
    sizes = {
        ".context_length": RANDOM_CONTEXT,
        ".feed_forward_length": hidden,
        ".attention.head_count": WIDTH // head,
        ".attention.head_count_kv": 2,
        ".rope.freq_base": 1e4,
        ".rope.dimension_count": head,
        **more,
    }
    _write_llama(path, name, script.SCRIPT_TEMPLATE, vocabulary, sizes, layers, ends, architecture)
