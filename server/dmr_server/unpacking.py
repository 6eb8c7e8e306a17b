"""Unpacking what clients bring back packed: a few bytes may unpack to very many, so one request has one budget."""

from __future__ import annotations

import zlib

from dmr.errors import PayloadTooLarge

MAX_UNPACKED = 16 << 20  # bytes of all packed texts of one request


class Unpacker:
    """Unpacks the texts of one request."""

    def __init__(self, max_bytes: int = MAX_UNPACKED) -> None:
        self._left = max_bytes

    def unpack(self, packed: bytes) -> bytes:
        """What zlib has packed.

        Raises:
            PayloadTooLarge: together with what came before it is more than one request may bring.
            zlib.error: it is damaged or cut short.
        """
        inner = zlib.decompressobj()
        data = inner.decompress(packed, self._left + 1)
        if len(data) > self._left:
            raise PayloadTooLarge(
                "The thoughts and summaries of this request are larger than can be read when unpacked."
            )
        self._left -= len(data)
        if not inner.eof:
            raise zlib.error("it is cut short")
        return data
