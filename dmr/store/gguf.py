"""Reads the header of a GGUF file (versions 2 and 3, little-endian), however hostile the file is.

Layout: ggml's docs/gguf.md. Where llama.cpp would refuse a file or abort on it, it is refused here, with a reason.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Union

import msgspec

from dmr.errors import InvalidModelFile
from dmr.store.ggml_tables import TENSOR_TYPES
from dmr.store.gguf_cursor import GGUFCursor, open_regular_file

MAX_KEYS = 65_536
MAX_KEY_BYTES = 65_535
MAX_TENSORS = 131_072
MAX_TENSOR_NAME_BYTES = 63  # GGML_MAX_NAME counts the final NUL
MAX_DIMENSIONS = 4
MAX_KEPT_ELEMENTS = 1024  # longer arrays, such as vocabularies, are passed over
MAX_NESTING = 4
NESTED_COST = 20  # an element that is an array takes the time of this many strings
DEFAULT_ALIGNMENT = 32

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_STRING, _ARRAY, _UINT32 = 8, 9, 4
_SCALARS: Mapping[int, str] = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_SMALLEST_KEY = 8 + 1 + 4 + 1  # bytes: length, name, type, value
_SMALLEST_TENSOR = 8 + 4 + 4 + 8  # bytes: length of the name, dimensions, type, offset


class SkippedArray(msgspec.Struct, frozen=True):
    """An array that was too long to keep. `element_type` is GGUF's number for it."""

    element_type: int
    length: int


Value = Union[bool, int, float, str, tuple["Value", ...], SkippedArray]


class TensorInfo(msgspec.Struct, frozen=True):
    """`shape` is in ggml's order (rows first), `offset` in bytes from the start of the data."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)


class GGUFHeader(msgspec.Struct, frozen=True):
    """All of a GGUF file but its weights. `data_offset` is where those begin, in bytes."""

    version: int
    metadata: Mapping[str, Value]
    tensors: tuple[TensorInfo, ...]
    alignment: int
    data_offset: int

    @property
    def num_tensors(self) -> int:
        return len(self.tensors)

    @property
    def num_parameters(self) -> int:
        return sum(tensor.num_elements for tensor in self.tensors)

    def integer(self, key: str) -> int | None:
        value = self.metadata.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def text(self, key: str) -> str:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else ""


def read_gguf_header(path: Path) -> GGUFHeader:
    """Read and check a header, in bounded time and memory, and that all weights lie within the file.

    Raises:
        InvalidModelFile: not a GGUF file, or a damaged or truncated one; the message says what is wrong.
    """
    with open_regular_file(path) as file:
        try:
            return _read_header(GGUFCursor(file))
        except InvalidModelFile as error:
            raise InvalidModelFile(f"{path} is not a usable GGUF file: {error.message}") from None
        except OSError as error:
            raise InvalidModelFile(f"{path} cannot be read: {error.strerror}.") from error


def _read_header(cursor: GGUFCursor) -> GGUFHeader:
    version = _read_version(cursor)
    num_tensors = _read_count(cursor, "tensors", MAX_TENSORS)
    num_keys = _read_count(cursor, "metadata keys", MAX_KEYS)
    cursor.check_room(num_tensors * _SMALLEST_TENSOR + num_keys * _SMALLEST_KEY, "the header")
    metadata = _read_metadata(cursor, num_keys)
    tensors = _read_tensors(cursor, num_tensors)
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    assert isinstance(alignment, int)  # _check_alignment
    data_offset = -(-cursor.position // alignment) * alignment
    header = GGUFHeader(version, metadata, tensors, alignment, data_offset)
    _check_data(header, cursor.file_size)
    return header


def _read_version(cursor: GGUFCursor) -> int:
    if cursor.file_size < 4 or cursor.unsigned(_U32, "the magic number") != int.from_bytes(b"GGUF", "little"):
        raise InvalidModelFile("it does not begin with 'GGUF'.")
    version = cursor.unsigned(_U32, "the version")
    if version & 0xFFFF == 0 and version:
        raise InvalidModelFile("it is big-endian, which is not supported.")
    if version not in (2, 3):
        raise InvalidModelFile(f"it has version {version}; versions 2 and 3 are supported.")
    return version


def _read_count(cursor: GGUFCursor, what: str, limit: int) -> int:
    count = cursor.unsigned(_U64, f"the number of {what}")
    if count > limit:
        raise InvalidModelFile(f"it claims to have {count} {what}, more than the {limit} allowed.")
    return count


def _read_metadata(cursor: GGUFCursor, num_keys: int) -> dict[str, Value]:
    metadata: dict[str, Value] = {}
    for number in range(num_keys):
        key = _read_name(cursor, f"key {number}", MAX_KEY_BYTES)
        if key in metadata:
            raise InvalidModelFile(f"the key '{key}' occurs twice.")
        kind = cursor.unsigned(_U32, f"the type of '{key}'")
        metadata[key] = _read_value(cursor, kind, key, nesting=0)
        if key == "general.alignment":
            _check_alignment(kind, metadata[key])
    return metadata


def _read_name(cursor: GGUFCursor, what: str, limit: int) -> str:
    try:
        name = cursor.string(what, limit).decode()
    except UnicodeDecodeError:
        raise InvalidModelFile(f"{what} has a name that is not UTF-8.") from None
    if not name or not name.isprintable():
        raise InvalidModelFile(f"{what} has a name that is empty or not printable.")
    return name


def _read_value(cursor: GGUFCursor, kind: int, key: str, nesting: int) -> Value:
    what = f"the value of '{key}'"
    if kind in _SCALARS:
        return cursor.unpack(struct.Struct("<" + _SCALARS[kind]), what)[0]
    if kind == _STRING:
        return cursor.string(what).decode(errors="replace")
    if kind == _ARRAY:
        return _read_array(cursor, key, nesting + 1)
    raise InvalidModelFile(f"{what} has the unknown type {kind}.")


def _read_array(cursor: GGUFCursor, key: str, nesting: int) -> Value:
    what = f"the array '{key}'"
    if nesting > MAX_NESTING:
        raise InvalidModelFile(f"{what} is nested more than {MAX_NESTING} deep.")
    kind = cursor.unsigned(_U32, f"the element type of {what}")
    length = cursor.unsigned(_U64, f"the length of {what}")
    if kind in _SCALARS:
        return _read_scalars(cursor, kind, length, what)
    if kind not in (_STRING, _ARRAY):
        raise InvalidModelFile(f"{what} has elements of the unknown type {kind}.")
    if kind == _STRING and length > MAX_KEPT_ELEMENTS:
        cursor.skip_strings(length, what)
        return SkippedArray(kind, length)
    cursor.check_room(length * 8, what)
    cursor.count_walked(length * (NESTED_COST if kind == _ARRAY else 1))
    if length <= MAX_KEPT_ELEMENTS:
        return tuple(_read_value(cursor, kind, key, nesting) for _ in range(length))
    for _ in range(length):
        _read_value(cursor, kind, key, nesting)
    return SkippedArray(kind, length)


def _read_scalars(cursor: GGUFCursor, kind: int, length: int, what: str) -> Value:
    if length > MAX_KEPT_ELEMENTS:
        cursor.skip(length * struct.calcsize("<" + _SCALARS[kind]), what)
        return SkippedArray(kind, length)
    cursor.count_walked(length)
    return cursor.unpack(struct.Struct(f"<{length}{_SCALARS[kind]}"), what)


def _check_alignment(kind: int, alignment: Value) -> None:
    if kind != _UINT32 or not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise InvalidModelFile("general.alignment is not a 32-bit power of two.")


def _read_tensors(cursor: GGUFCursor, num_tensors: int) -> tuple[TensorInfo, ...]:
    tensors: dict[str, TensorInfo] = {}
    for number in range(num_tensors):
        tensor = _read_tensor(cursor, _read_name(cursor, f"tensor {number}", MAX_TENSOR_NAME_BYTES))
        if tensor.name in tensors:
            raise InvalidModelFile(f"the tensor '{tensor.name}' occurs twice.")
        tensors[tensor.name] = tensor
    return tuple(tensors.values())


def _read_tensor(cursor: GGUFCursor, name: str) -> TensorInfo:
    what = f"tensor '{name}'"
    num_dimensions = cursor.unsigned(_U32, what)
    if num_dimensions > MAX_DIMENSIONS:
        raise InvalidModelFile(f"{what} has {num_dimensions} dimensions, more than {MAX_DIMENSIONS}.")
    shape = tuple(cursor.unsigned(_U64, what) for _ in range(num_dimensions))
    if 0 in shape or math.prod(shape) >= 1 << 63:
        raise InvalidModelFile(f"{what} has the impossible shape {shape}.")
    kind, offset = cursor.unsigned(_U32, what), cursor.unsigned(_U64, what)
    if kind in TENSOR_TYPES and not TENSOR_TYPES[kind].row_fits(shape):
        block = TENSOR_TYPES[kind]
        raise InvalidModelFile(f"{what} has rows of {shape[:1]} elements, which {block.name} blocks do not fill.")
    return TensorInfo(name, shape, kind, offset)


def _check_data(header: GGUFHeader, file_size: int) -> None:
    for tensor in header.tensors:
        if tensor.offset % header.alignment:
            raise InvalidModelFile(f"tensor '{tensor.name}' is not aligned to {header.alignment} bytes.")
        block = TENSOR_TYPES.get(tensor.type)  # a type newer than our table: its size is llama.cpp's to check
        size = block.num_bytes(tensor.shape) if block else 0
        start = header.data_offset + tensor.offset
        if start + size > file_size:
            raise InvalidModelFile(
                f"the file is truncated: tensor '{tensor.name}' needs {size} bytes at offset {start} "
                f"but the file has {file_size}."
            )
