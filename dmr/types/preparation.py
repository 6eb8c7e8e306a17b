"""msgspec's knowledge of our types, complete before threads need it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import msgspec


def prepare_types() -> None:
    """Look at every struct type that is loaded. Call it before several threads decode or convert.

    msgspec fills what it knows of a type when it is used first; a thread that uses it meanwhile reads what is only half
    there, and the process ends with a segmentation fault (seen with 0.22).
    """
    for kind in _kinds(msgspec.Struct):
        with suppress(TypeError):  # one that can only be encoded
            msgspec.json.Decoder(kind)


def _kinds(root: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    for kind in root.__subclasses__():
        yield kind
        yield from _kinds(kind)
