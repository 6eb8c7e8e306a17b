"""The llama architecture in numpy: what a model must compute, without native code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class NumpyLlama:
    """A llama read from a GGUF file of `tiny_models`; tokenizes by its special pieces and else byte by byte."""

    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        self.fields = {key: field.contents() for key, field in reader.fields.items()}
        self.tensors: dict[str, Array] = {tensor.name: tensor.data.astype(np.float64) for tensor in reader.tensors}
        self.tokens: list[str] = self.fields["tokenizer.ggml.tokens"]
        self.types: list[int] = self.fields["tokenizer.ggml.token_type"]
        self.specials = {text: i for i, text in enumerate(self.tokens) if self.types[i] != gguf.TokenType.NORMAL}
        self.specials["\n\n"] = self.tokens.index("\u010a\u010a")
        self.end = self.fields["tokenizer.ggml.eos_token_id"]

    def encode(self, text: str) -> list[int]:
        """Tokens of the text, with fewer merges than BPE makes: the scripts do not depend on them."""
        pattern = "|".join(re.escape(piece) for piece in sorted(self.specials, key=len, reverse=True))
        parts = re.split(f"({pattern})", text)
        return [t for part in parts for t in ([self.specials[part]] if part in self.specials else part.encode())]

    def decode(self, tokens: list[int]) -> str:
        names = {token: text for text, token in self.specials.items()}
        return b"".join(names[token].encode() if token in names else bytes([token]) for token in tokens).decode()

    def logits(self, tokens: list[int]) -> Array:
        """The logits [vocabulary] of what follows these tokens."""
        x = self.tensors["token_embd.weight"][tokens]
        for i in range(self.fields["llama.block_count"]):
            x = x + self._attention(_norm(x), f"blk.{i}.")
            gate, up, down = (self.tensors[f"blk.{i}.ffn_{key}.weight"] for key in ("gate", "up", "down"))
            normed = _norm(x)
            hidden = normed @ gate.T
            x = x + (hidden / (1 + np.exp(-hidden)) * (normed @ up.T)) @ down.T
        return np.asarray(_norm(x)[-1] @ self.tensors["output.weight"].T)

    def generate(self, prompt: str, max_tokens: int = 40) -> list[int]:
        """The likeliest tokens, without the end-of-turn token."""
        tokens = self.encode(prompt)
        start = len(tokens)
        while len(tokens) < start + max_tokens and (token := int(np.argmax(self.logits(tokens)))) != self.end:
            tokens.append(token)
        return tokens[start:]

    def chat(self, user: str, *, before: str = "", after: str = "") -> str:
        prompt = f"{before}<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n{after}"
        return self.decode(self.generate(prompt))

    def _attention(self, x: Array, block: str) -> Array:
        query, key, value, output = (self.tensors[f"{block}attn_{k}.weight"] for k in ("q", "k", "v", "output"))
        num_heads = self.fields["llama.attention.head_count"]
        group = num_heads // self.fields["llama.attention.head_count_kv"]
        size = len(query) // num_heads
        q, k, v = ((x @ w.T).reshape(len(x), -1, size).swapaxes(0, 1) for w in (query, key, value))
        q, k = self._rope(q), np.repeat(self._rope(k), group, axis=0)
        scores = q @ k.swapaxes(1, 2) / np.sqrt(size) + np.triu(np.full((len(x), len(x)), -np.inf), 1)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        mixed = weights @ np.repeat(v, group, axis=0)
        return np.asarray(mixed.swapaxes(0, 1).reshape(len(x), -1) @ output.T)

    def _rope(self, x: Array) -> Array:
        half = x.shape[-1] // 2
        angles = np.outer(np.arange(x.shape[1]), self.fields["llama.rope.freq_base"] ** -(np.arange(half) / half))
        turned = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)
        return np.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)


def _norm(x: Array) -> Array:
    return np.asarray(x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6))
