"""Writing the file of a chat model of any architecture, with the vocabulary of the tiny models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import script
from .gguf_file import Array, write_gguf
from .script import Vocabulary


def write_chat_model(
    path: Path,
    architecture: str,
    name: str,
    template: str,
    vocabulary: Vocabulary,
    sizes: Mapping[str, Any],
    tensors: Mapping[str, Array],
) -> None:
    """`sizes`: the metadata that the architecture wants; keys that begin with "." are its own."""
    metadata = {
        "general.name": name,
        ".vocab_size": len(vocabulary),
        ".attention.layer_norm_rms_epsilon": 1e-6,
        **sizes,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": vocabulary.tokens,
        "tokenizer.ggml.token_type": vocabulary.types,
        "tokenizer.ggml.merges": vocabulary.merges,
        "tokenizer.ggml.bos_token_id": vocabulary.id_of(script.END_OF_TEXT),
        "tokenizer.ggml.eos_token_id": vocabulary.id_of(script.END),
        "tokenizer.ggml.padding_token_id": vocabulary.id_of(script.END_OF_TEXT),
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": template,
    }
    write_gguf(path, architecture, metadata, tensors)
