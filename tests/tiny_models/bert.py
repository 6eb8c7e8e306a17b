"""The tiny BERTs: an embedder (mean pooling) and a reranker (rank pooling), both with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from .gguf_file import Array, Noise, write_gguf

EMBED_CONTEXT = 512
EMBED_SIZE = 64
_LAYERS = 2
_HEADS = 4
_WORD_START = "\u2581"

INFILL_TOKENS = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|repo_name|>", "<|file_sep|>")
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_WORDS = """
all and are as at be but by can do for from had has have he her his how if in into is it its my no not of on or our she
so that the their them then there they this to was we were what when where which who why will with you your
apple baker bird boat bread bridge butter car cat cheese child city cloud coffee cook dog fish flower forest friend
garden horse house kitchen lake letter market moon morning mountain night ocean orange paper queen rain river road
school ship snow star street sun table tea teacher train tree village water wind winter window
data file memory model network number question answer search server test token word
big black blue brown cold fast good green happy hot long new old red short slow small warm white young
drinks eats flies grows likes reads runs sees sings sleeps swims walks writes
"""


def _vocabulary() -> list[str]:
    """WordPiece as llama.cpp wants it: a word's first piece bears the sign, what continues it does not."""
    characters = [chr(code) for code in range(0x21, 0x7F) if not chr(code).isupper()]
    words = [_WORD_START + word for word in _WORDS.split()]
    return [*_SPECIAL, *(_WORD_START + c for c in characters), *characters, *words, "ed", "er", "ing", "ly"]


def _metadata(name: str, vocabulary: list[str], pooling: gguf.PoolingType) -> dict[str, Any]:
    is_control = [token in _SPECIAL or token in INFILL_TOKENS for token in vocabulary]
    kinds = [gguf.TokenType.CONTROL if control else gguf.TokenType.NORMAL for control in is_control]
    return {
        "general.name": name,
        ".context_length": EMBED_CONTEXT,
        ".embedding_length": EMBED_SIZE,
        ".block_count": _LAYERS,
        ".feed_forward_length": EMBED_SIZE,
        ".attention.head_count": _HEADS,
        ".attention.layer_norm_epsilon": 1e-12,
        ".attention.causal": False,
        ".pooling_type": int(pooling),
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.tokens": vocabulary,
        "tokenizer.ggml.token_type": [int(kind) for kind in kinds],
        gguf.Keys.Tokenizer.PAD_ID: _SPECIAL.index("[PAD]"),
        gguf.Keys.Tokenizer.UNK_ID: _SPECIAL.index("[UNK]"),
        gguf.Keys.Tokenizer.BOS_ID: _SPECIAL.index("[CLS]"),
        gguf.Keys.Tokenizer.SEP_ID: _SPECIAL.index("[SEP]"),
        gguf.Keys.Tokenizer.MASK_ID: _SPECIAL.index("[MASK]"),
    }


def _norm(key: str) -> dict[str, Array]:
    return {f"{key}.weight": np.ones(EMBED_SIZE), f"{key}.bias": np.zeros(EMBED_SIZE)}


def _dense(key: str, weight: Array) -> dict[str, Array]:
    return {f"{key}.weight": weight, f"{key}.bias": np.zeros(len(weight))}


def _body(noise: Noise, num_tokens: int, mixing: float) -> dict[str, Array]:
    """Everything below the head. `mixing` is the deviation of the layers' weights; the embedding's is 1."""
    tensors = {
        "token_embd.weight": noise(1, num_tokens, EMBED_SIZE),
        # These two are added to activations as they are, and ggml aborts on adding F16 to F32.
        "position_embd.weight": noise(0.02, EMBED_CONTEXT, EMBED_SIZE).astype(np.float32),
        "token_types.weight": np.zeros((2, EMBED_SIZE), np.float32),
        **_norm("token_embd_norm"),
    }
    for block in (f"blk.{i}." for i in range(_LAYERS)):
        for key in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down"):
            tensors |= _dense(block + key, noise(mixing, EMBED_SIZE, EMBED_SIZE))
        tensors |= _norm(block + "attn_output_norm") | _norm(block + "layer_output_norm")
    return tensors


def write_embed_model(path: Path, *, has_infill_tokens: bool = False) -> None:
    """Vectors of `EMBED_SIZE`, mostly the mean of the words' own: texts that share words are near each other."""
    vocabulary = [*_vocabulary(), *(INFILL_TOKENS if has_infill_tokens else ())]
    metadata = _metadata("tiny embed", vocabulary, gguf.PoolingType.MEAN)
    write_gguf(path, "bert", metadata, _body(Noise(5), len(vocabulary), mixing=0.02))


def write_rerank_model(path: Path, *, declares_pooling: bool = True) -> None:
    """One score for each pair of query and document; it depends on both and means nothing.

    `declares_pooling` false: only the head tells that this is a reranker, as in many files that people have.
    """
    vocabulary, noise = _vocabulary(), Noise(7)
    metadata = _metadata("tiny rerank", vocabulary, gguf.PoolingType.RANK)
    tensors = _body(noise, len(vocabulary), mixing=0.2)
    tensors |= _dense("cls", noise(0.125, EMBED_SIZE, EMBED_SIZE)) | _dense("cls.output", noise(0.5, 1, EMBED_SIZE))
    metadata[".classifier.output_labels"] = ["score"]
    if not declares_pooling:
        del metadata[".pooling_type"]
    write_gguf(path, "bert", metadata, tensors)
