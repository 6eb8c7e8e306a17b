"""Writing GGUF files so that the same call gives the same bytes on every machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def write_gguf(path: Path, architecture: str, metadata: Mapping[str, Any], tensors: Mapping[str, Array]) -> None:
    """Write one file; keys that begin with "." are the architecture's.

    Float64 matrices become F16 and float16 stays it; all else becomes F32.
    """
    writer = gguf.GGUFWriter(path, architecture)
    add: dict[type, Callable[[str, Any], None]] = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    fixed = {"general.type": "model", "general.file_type": 1, "general.quantization_version": 2}
    for key, value in {**fixed, **metadata}.items():
        add[type(value)](architecture + key if key.startswith(".") else key, value)
    for key, tensor in tensors.items():
        half = tensor.dtype == np.float16 or (tensor.ndim == 2 and tensor.dtype == np.float64)
        writer.add_tensor(key, np.ascontiguousarray(tensor, np.float16 if half else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Noise:
    """Seeded uniform numbers of a given standard deviation. Made of raw bits, since numpy keeps only those for ever."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)

    def __call__(self, deviation: float, *shape: int) -> Array:
        raw = self._bits.random_raw(int(np.prod(shape))) >> np.uint64(40)
        unit = raw.astype(np.float64) / 2**23 - 1
        return np.reshape(deviation * np.sqrt(3) * unit, shape)
