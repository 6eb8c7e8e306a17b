"""What a GGUF file tells layer by layer. llama.cpp hands out a file's single values only, not its arrays."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_SIZES = {
    0: 1,
    1: 1,
    2: 2,
    3: 2,
    4: 4,
    5: 4,
    6: 4,
    7: 1,
    10: 8,
    11: 8,
    12: 8,
}  # bytes of a value, by GGUF's type number
_INTEGERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 7: "?", 10: "Q", 11: "q"}  # as `struct` names them
_STRING, _ARRAY = 8, 9
_MAX_LAYERS = 4096
_MAX_KEY = 65536  # bytes

LayerArrays = dict[str, tuple[int, ...]]


def read_layer_arrays(path: Path) -> LayerArrays:
    """The arrays of whole numbers and of truth values that stand before the vocabulary, by key.

    For files that llama.cpp has read already.

    Raises:
        ValueError: this is no such file (any more).
        OSError: it cannot be read.
    """
    arrays: LayerArrays = {}
    with path.open("rb") as file:
        magic, _version, _num_tensors, num_keys = struct.unpack("<4sIQQ", _read(file, 24))
        if magic != b"GGUF":
            raise ValueError(f"{path.name} is not a GGUF file")
        for _ in range(num_keys):
            key = _text(file)
            if key.startswith("tokenizer."):  # what is about layers comes first, and this can be long
                break
            array = _value(file)
            if array:
                arrays[key] = array
    return arrays


def _value(file: BinaryIO) -> tuple[int, ...]:
    """Empty for all but arrays of whole numbers."""
    (kind,) = struct.unpack("<I", _read(file, 4))
    if kind == _STRING:
        _skip_text(file)
    elif kind == _ARRAY:
        return _array(file)
    else:
        file.seek(_size(kind), 1)
    return ()


def _array(file: BinaryIO) -> tuple[int, ...]:
    kind, count = struct.unpack("<IQ", _read(file, 12))
    if kind == _STRING:
        for _ in range(count):
            _skip_text(file)
    elif kind in _INTEGERS and count <= _MAX_LAYERS:
        return struct.unpack(f"<{count}{_INTEGERS[kind]}", _read(file, count * _SIZES[kind]))
    else:
        file.seek(count * _size(kind), 1)
    return ()


def _size(kind: int) -> int:
    if kind not in _SIZES:
        raise ValueError(f"the file has a value of the unknown type {kind}")
    return _SIZES[kind]


def _text(file: BinaryIO) -> str:
    (length,) = struct.unpack("<Q", _read(file, 8))
    if length > _MAX_KEY:
        raise ValueError("the file has a key that is too long")
    return _read(file, length).decode(errors="replace")


def _skip_text(file: BinaryIO) -> None:
    (length,) = struct.unpack("<Q", _read(file, 8))
    file.seek(length, 1)


def _read(file: BinaryIO, num_bytes: int) -> bytes:
    data = file.read(num_bytes)
    if len(data) != num_bytes:
        raise ValueError("the file is cut short")
    return data
