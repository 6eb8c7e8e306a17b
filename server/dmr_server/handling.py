"""What becomes of each documented field: docs/dialects is made from these tables.

Every dialect has a module `handling` with `HANDLING`. A test sends each example: a refused field must give a 400, an
ignored one must change nothing, an honoured one must change what is asked of the engine or what is answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple


class Field(NamedTuple):
    """`example` is a value that differs from the default; `base` are other fields that it needs beside it."""

    status: Literal["honoured", "ignored", "refused"]
    example: Any
    note: str = ""
    base: Mapping[str, Any] = {}


class Route(NamedTuple):
    """One documented endpoint. `body` is the smallest valid request, without `model`."""

    path: str
    summary: str
    body: Mapping[str, Any]
    fields: Mapping[str, Field]
