"""Vectors as JSON."""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np
import orjson
from msgspec import Meta

JsonArray = Annotated[msgspec.Raw, Meta(extra_json_schema={"type": "array", "items": {"type": "number"}})]


class NotFinite(ValueError):
    """A vector holds what is no number, or has no end."""


def json_array(vector: bytes) -> JsonArray:
    """`vector`: 32-bit floats, little-endian. Each is told by as few digits as tell it from all others.

    Raises:
        NotFinite
    """
    numbers = np.frombuffer(vector, "<f4")
    if not np.isfinite(numbers).all():
        raise NotFinite
    return msgspec.Raw(orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY))
