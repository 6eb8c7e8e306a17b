"""The base of every value type."""

from __future__ import annotations

import msgspec


class Value(msgspec.Struct, frozen=True, omit_defaults=True):
    """Frozen; equal content is equal."""
