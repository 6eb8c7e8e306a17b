"""What a model's config says about a GGUF file, in upstream's short strings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from dmr.store.ggml_tables import FILE_TYPE_GUESSED, FILE_TYPES, TENSOR_TYPES
from dmr.store.gguf import GGUFHeader, SkippedArray, Value
from dmr.types import ModelConfig

MAX_SHOWN_ELEMENTS = 50
MAX_CONTEXT_SIZE = 2**31 - 1  # tokens; readers of the config keep it in 32 bits


def describe_gguf(
    header: GGUFHeader, file_size: int, more_shards: Sequence[tuple[GGUFHeader, int]] = ()
) -> ModelConfig:
    """The config of the model whose first file has this header; further shards as (header, file size in bytes).

    `size` is that of the weights, without the headers: the API document's sample shows a layer of 270 590 880 bytes
    as "256.35MiB".
    """
    shards = [(header, file_size), *more_shards]
    return ModelConfig(
        format="gguf",
        quantization=_quantization([shard for shard, _ in shards]),
        parameters=format_count(sum(shard.num_parameters for shard, _ in shards)),
        architecture=header.text("general.architecture"),
        size=format_size(sum(max(0, size - shard.data_offset) for shard, size in shards)),
        gguf={key: text for key, value in header.metadata.items() if (text := _as_text(value)) is not None},
        context_size=_context_size(header),
    )


def format_count(count: int) -> str:
    """134515008 -> "134.52M": base 1000, two decimals, no space."""
    return _short(count, 1000, ("", "K", "M", "B", "T", "Q"))


def format_size(num_bytes: int) -> str:
    """96186000 -> "91.73MiB": base 1024, two decimals, no space."""
    return _short(num_bytes, 1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"))


def _short(amount: int, base: int, units: Sequence[str]) -> str:
    if amount < base:
        return f"{amount}{units[0]}"
    scaled, power = float(amount), 0
    while round(scaled, 2) >= base and power < len(units) - 1:
        scaled, power = scaled / base, power + 1
    return f"{scaled:.2f}{units[power]}"


def _quantization(headers: Sequence[GGUFHeader]) -> str:
    file_type = headers[0].integer("general.file_type")
    if file_type is not None and (name := FILE_TYPES.get(file_type & ~FILE_TYPE_GUESSED)):
        return name
    return _commonest_type(headers)


def _commonest_type(headers: Sequence[GGUFHeader]) -> str:
    elements: Counter[int] = Counter()
    for header in headers:
        for tensor in header.tensors:
            elements[tensor.type] += tensor.num_elements
    block = TENSOR_TYPES.get(elements.most_common(1)[0][0]) if elements else None
    return block.name if block else "unknown"


def _as_text(value: Value) -> str | None:
    if isinstance(value, SkippedArray) or (isinstance(value, tuple) and len(value) > MAX_SHOWN_ELEMENTS):
        return None
    if isinstance(value, tuple):
        return ", ".join(_as_text(element) or "" for element in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:f}" if isinstance(value, float) else str(value)


def _context_size(header: GGUFHeader) -> int | None:
    size = header.integer(f"{header.text('general.architecture')}.context_length")
    return size if size is not None and 0 < size <= MAX_CONTEXT_SIZE else None
