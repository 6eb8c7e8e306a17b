"""Writes small GGUF files, good ones and bad ones, independently of the reader under test."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
U32, F32, BOOL, STRING, ARRAY, U64 = 4, 6, 7, 8, 9, 10


class Typed(NamedTuple):
    """A value with GGUF's number for its type; for arrays, `of` is the type of the elements."""

    kind: int
    value: Any
    of: int = 0


class Tensor(NamedTuple):
    name: str
    shape: Sequence[int] = (32,)
    kind: int = 0  # F32
    data: bytes = bytes(128)
    offset: int | None = None  # None = after the one before


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def _value(typed: Typed) -> bytes:
    if typed.kind == STRING:
        return string(typed.value)
    if typed.kind == ARRAY:
        elements = (element if isinstance(element, Typed) else Typed(typed.of, element) for element in typed.value)
        return struct.pack("<IQ", typed.of, len(typed.value)) + b"".join(map(_value, elements))
    return struct.pack("<" + SCALARS[typed.kind], typed.value)


def _guess(value: Any) -> Typed:
    if isinstance(value, Typed):
        return value
    return Typed({str: STRING, bool: BOOL, float: F32}.get(type(value), U32), value)


def gguf_bytes(
    metadata: Mapping[str, Any] | None = None, tensors: Sequence[Tensor] = (Tensor("weight"),), version: int = 3
) -> bytes:
    """A whole file. The default is the smallest model that can be imported."""
    metadata = {"general.architecture": "llama", "llama.context_length": 2048} if metadata is None else metadata
    parts = [struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(metadata))]
    for key, value in metadata.items():
        typed = _guess(value)
        parts.append(string(key) + struct.pack("<I", typed.kind) + _value(typed))
    data = b""
    for tensor in tensors:
        offset = len(data) if tensor.offset is None else tensor.offset
        shape = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        parts.append(string(tensor.name) + shape + struct.pack("<IQ", tensor.kind, offset))
        data += tensor.data + bytes(-len(tensor.data) % 32)
    header = b"".join(parts)
    return header + bytes(-len(header) % 32) + data
