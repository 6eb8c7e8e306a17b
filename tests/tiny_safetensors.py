"""A llama of a few kilobytes in safetensors, written byte by byte: the standard library is enough."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

HIDDEN, FEED_FORWARD, HEADS, KV_HEADS, LAYERS, CONTEXT = 32, 64, 4, 2, 2, 128
WORDS = ("▁one", "▁two", "▁three", "▁red", "▁green", "▁blue")

_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6  # kinds of pieces, as SentencePiece numbers them


def write_tiny_llama(folder: Path, num_files: int = 1) -> None:
    """What a model on a hub consists of: config.json, tokenizer.model, tokenizer_config.json and its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = _pieces()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(pieces),
        "hidden_size": HIDDEN,
        "intermediate_size": FEED_FORWARD,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "num_hidden_layers": LAYERS,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "chat_template": template}))
    (folder / "tokenizer.model").write_bytes(_sentencepiece(pieces))
    tensors = list(_shapes(len(pieces)).items())
    for number in range(num_files):
        name = "model.safetensors" if num_files == 1 else f"model-{number + 1:05}-of-{num_files:05}.safetensors"
        (folder / name).write_bytes(_safetensors(dict(tensors[number::num_files])))


def _shapes(vocabulary: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, HIDDEN)}
    kv = HIDDEN // HEADS * KV_HEADS
    for layer in range(LAYERS):
        for name, shape in {
            "input_layernorm": (HIDDEN,),
            "post_attention_layernorm": (HIDDEN,),
            "self_attn.q_proj": (HIDDEN, HIDDEN),
            "self_attn.k_proj": (kv, HIDDEN),
            "self_attn.v_proj": (kv, HIDDEN),
            "self_attn.o_proj": (HIDDEN, HIDDEN),
            "mlp.gate_proj": (FEED_FORWARD, HIDDEN),
            "mlp.up_proj": (FEED_FORWARD, HIDDEN),
            "mlp.down_proj": (HIDDEN, FEED_FORWARD),
        }.items():
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    return {**shapes, "model.norm.weight": (HIDDEN,), "lm_head.weight": (vocabulary, HIDDEN)}


def _safetensors(shapes: dict[str, tuple[int, ...]]) -> bytes:
    """Eight bytes of length, a JSON header, and the numbers as BF16."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = bytearray()
    generator = random.Random(1)
    for name, shape in shapes.items():
        count = 1
        for size in shape:
            count *= size
        begin = len(data)
        for _ in range(count):
            data += struct.pack("<f", generator.uniform(-0.1, 0.1))[2:]  # the upper half of a float32 is a BF16
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + bytes(data)


def _pieces() -> list[tuple[str, float, int]]:
    special = [("<unk>", 0.0, _UNKNOWN), ("<s>", 0.0, _CONTROL), ("</s>", 0.0, _CONTROL)]
    bytes_ = [(f"<0x{number:02X}>", 0.0, _BYTE) for number in range(256)]
    letters = [(letter, -float(rank), _NORMAL) for rank, letter in enumerate("▁abcdefghijklmnopqrstuvwxyz", 1)]
    return special + bytes_ + letters + [(word, -0.5, _NORMAL) for word in WORDS]


def _sentencepiece(pieces: list[tuple[str, float, int]]) -> bytes:
    """A ModelProto: field 1 holds the pieces, field 2 says that it is a BPE with fall-back to bytes."""
    proto = b""
    for text, score, kind in pieces:
        piece = _field(1, text.encode()) + b"\x15" + struct.pack("<f", score)
        proto += _field(1, piece + (b"" if kind == _NORMAL else b"\x18" + _varint(kind)))
    model_type, byte_fallback = b"\x18\x02", _varint(35 << 3) + b"\x01"
    return proto + _field(2, model_type + byte_fallback)


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])
