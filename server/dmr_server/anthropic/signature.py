"""The signature of a thinking block: opaque to clients, and where a thought is kept that they do not want to see.

With `display: "omitted"` a block's text is empty, yet clients send its signature back with the history. The thought is
packed into it, so that the model sees what it thought and the prompt's beginning stays the same.
"""

from __future__ import annotations

import base64
import zlib

from dmr_server.unpacking import Unpacker

_PLAIN = "dmr1"  # the text is in the block
_PACKED = "dmr1z."  # the text is here


def plain_signature() -> str:
    return _PLAIN


def packed_signature(thinking: str) -> str:
    packed = zlib.compress(thinking.encode("utf-8", "replace"))
    return _PACKED + base64.urlsafe_b64encode(packed).decode("ascii")


def thinking_in(signature: str, unpacker: Unpacker) -> str:
    """The thought that a signature holds; "" for one that holds none, is not ours or is damaged.

    Raises PayloadTooLarge.
    """
    if not signature.startswith(_PACKED):
        return ""
    try:
        packed = base64.urlsafe_b64decode(signature[len(_PACKED) :].encode("ascii"))
        return unpacker.unpack(packed).decode("utf-8")
    except (ValueError, zlib.error):
        return ""
