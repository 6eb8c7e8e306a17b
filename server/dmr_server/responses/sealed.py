"""Texts that a client keeps for us and brings back unread: thoughts and compacted histories.

They are opaque, not secret: whoever holds one has read the thought already. A byte in front tells the form.
"""

from __future__ import annotations

import base64
import binascii
import zlib

from dmr_server.unpacking import Unpacker

PLAIN, DEFLATED = b"\x01", b"\x02"
_WORTH_PACKING = 512  # bytes


def seal(text: str) -> str:
    """The text as opaque base64."""
    data = text.encode("utf-8", "surrogatepass")
    packed = DEFLATED + zlib.compress(data) if len(data) >= _WORTH_PACKING else PLAIN + data
    return base64.b64encode(packed).decode("ascii")


def unseal(sealed: str, unpacker: Unpacker) -> str | None:
    """The text again; None when it is not one of ours: another server's, or damaged. Raises PayloadTooLarge."""
    try:
        packed = base64.b64decode(sealed, validate=True)
        kind, data = packed[:1], packed[1:]
        if kind == DEFLATED:
            data = unpacker.unpack(data)
        elif kind != PLAIN:
            return None
        return data.decode("utf-8")
    except (binascii.Error, ValueError, zlib.error):
        return None
