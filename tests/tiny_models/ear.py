"""A projector that tells noise from silence: half a minute of it becomes places that hold one colour's vector.

The tower is Whisper's with one block of zeros, which lets pass what the convolutions have found: how loud it is at a
moment, as the mean over all pitches. A matrix makes of that a way from the vector of silence to the one of noise.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from . import llama, script
from .gguf_file import write_gguf

NOISE, SILENCE = "RED", "WHITE"  # what a scripted model answers to a sound
_PITCHES = 128
_HIDDEN = 16
_MOMENTS = 1500  # of 30 seconds
# The mean of a moment's logarithms is -0.8 in silence, and above 0 where it is loud.
_QUIET, _GAIN = -0.4, 20.0
_LOUD = 25.0  # what a moment of noise makes of that


def write_script_ear(path: Path) -> None:
    """For the scripted models."""
    vectors, _ = llama.colour_vectors()
    noise, silence = (vectors[script.SCRIPT_COLOURS.index(colour)] for colour in (NOISE, SILENCE))
    first, second = np.zeros((_HIDDEN, _PITCHES, 3), np.float16), np.zeros((_HIDDEN, _HIDDEN, 3), np.float16)
    first[0, :, 1] = _GAIN / _PITCHES
    second[0, 0, 1] = 1
    threshold = np.zeros((_HIDDEN, 1), np.float32)
    threshold[0] = -_GAIN * _QUIET
    way = np.zeros((len(noise), _HIDDEN), np.float32)
    way[:, 0] = (noise - silence) / _LOUD
    tensors = {
        "a.conv1d.1.weight": first,
        "a.conv1d.1.bias": threshold,
        "a.conv1d.2.weight": second,
        "a.conv1d.2.bias": np.zeros((_HIDDEN, 1), np.float32),
        "a.position_embd.weight": np.zeros((_MOMENTS, _HIDDEN), np.float32),
        "mm.a.fc.weight": way,
        "mm.a.fc.bias": silence,
    }
    for key, shape in {"ffn_up": (2 * _HIDDEN, _HIDDEN), "ffn_down": (_HIDDEN, 2 * _HIDDEN)}.items():
        tensors[f"a.blk.0.{key}.weight"] = np.zeros(shape)
        tensors[f"a.blk.0.{key}.bias"] = np.zeros(shape[0])
    for key in ("attn_q", "attn_k", "attn_v", "attn_out"):
        tensors[f"a.blk.0.{key}.weight"] = np.zeros((_HIDDEN, _HIDDEN))
        if key != "attn_k":  # Whisper's has none
            tensors[f"a.blk.0.{key}.bias"] = np.zeros(_HIDDEN)
    for key in ("ln1", "ln2"):
        tensors[f"a.blk.0.{key}.weight"] = np.ones(_HIDDEN)
        tensors[f"a.blk.0.{key}.bias"] = np.zeros(_HIDDEN)
    metadata = {
        "general.type": "mmproj",
        "general.name": "tiny ear",
        "clip.has_audio_encoder": True,
        "clip.projector_type": "qwen2a",
        "clip.use_gelu": True,
        "clip.audio.num_mel_bins": _PITCHES,
        "clip.audio.embedding_length": _HIDDEN,
        "clip.audio.feed_forward_length": 2 * _HIDDEN,
        "clip.audio.projection_dim": len(noise),
        "clip.audio.block_count": 1,
        "clip.audio.attention.head_count": 2,
        "clip.audio.attention.layer_norm_epsilon": 1e-5,
    }
    write_gguf(path, "clip", metadata, tensors)
