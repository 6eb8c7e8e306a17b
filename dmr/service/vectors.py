"""What is done to embeddings after the model."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from dmr.errors import InvalidRequest

_FLOAT = np.dtype("<f4")


def check_dimensions(dimensions: int | None, embedding_size: int) -> None:
    """`embedding_size`: how many the model has. Raises InvalidRequest."""
    if dimensions is not None and not 1 <= dimensions <= embedding_size:
        raise InvalidRequest(
            f"{dimensions} dimensions were asked for; this model's embeddings have 1 to {embedding_size}.",
            param="dimensions",
        )


def cut(vectors: Iterable[bytes], dimensions: int | None, normalize: bool) -> tuple[bytes, ...]:
    """The first so many dimensions of each; of length 1 again if they are to be normalized.

    Raises:
        InvalidRequest: the model has fewer.
    """
    if dimensions is None:
        return tuple(vectors)
    return tuple(_cut(vector, dimensions, normalize) for vector in vectors)


def _cut(vector: bytes, dimensions: int, normalize: bool) -> bytes:
    check_dimensions(dimensions, len(vector) // _FLOAT.itemsize)
    part = np.frombuffer(vector, _FLOAT)[:dimensions]
    length = float(np.linalg.norm(part)) if normalize else 1.0
    return (part / np.float32(length) if length > 0 else part).astype(_FLOAT).tobytes()
