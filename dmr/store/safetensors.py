"""Reads the header of a safetensors file, however hostile the file is: eight bytes of length, then a JSON object."""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import Union

import msgspec

from dmr.errors import InvalidModelFile
from dmr.store.gguf_cursor import open_regular_file

MAX_HEADER_BYTES = 100_000_000  # as the format's own reader has it
MAX_METADATA_BYTES = 1 << 20  # of the texts that are kept


class _Tensor(msgspec.Struct, frozen=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class SafetensorsHeader(msgspec.Struct, frozen=True):
    """`types` are the element types in use, e.g. {"BF16"}; `metadata` what the file says of itself."""

    num_tensors: int
    num_parameters: int
    types: frozenset[str]
    metadata: dict[str, str]


def read_safetensors_header(path: Path) -> SafetensorsHeader:
    """Raises InvalidModelFile: it is no such file, or a damaged one."""
    with open_regular_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(8) or b""
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise InvalidModelFile(f"{path} is not a safetensors file, or is cut off.")
        raw = file.read(length) or b""
    try:
        entries = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        metadata = msgspec.json.decode(entries.pop("__metadata__", b"null"), type=Union[dict[str, str], None]) or {}
        tensors = [msgspec.json.decode(entry, type=_Tensor) for entry in entries.values()]
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidModelFile(f"The header of {path} cannot be understood: {error}.") from error
    for tensor in tensors:
        start, end = tensor.data_offsets
        if not 0 <= start <= end <= size - 8 - length or any(extent < 0 for extent in tensor.shape):
            raise InvalidModelFile(f"{path} is cut off, or its header is wrong: a tensor lies outside of it.")
    if sum(len(key) + len(text) for key, text in metadata.items()) > MAX_METADATA_BYTES:
        metadata = {}
    return SafetensorsHeader(
        num_tensors=len(tensors),
        num_parameters=sum(math.prod(tensor.shape) for tensor in tensors),
        types=frozenset(tensor.dtype for tensor in tensors),
        metadata=metadata,
    )
