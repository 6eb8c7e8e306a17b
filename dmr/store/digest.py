"""SHA-256 digests, the names of everything in the store."""

from __future__ import annotations

import hashlib
import re
from typing import NewType

from dmr.errors import StoreError

Digest = NewType("Digest", str)  # "sha256:" and 64 lower-case hex digits: always safe as a part of a path

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def parse_digest(text: object) -> Digest:
    """Check a digest that came from a file or the network.

    Raises:
        StoreError: it is not a SHA-256 digest.
    """
    if isinstance(text, str) and _DIGEST.fullmatch(text):
        return Digest(text)
    raise StoreError(f"{ascii(text)[:100]} is not a SHA-256 digest.")


def digest_of(data: bytes) -> Digest:
    return Digest(f"sha256:{hashlib.sha256(data).hexdigest()}")


def hex_of(digest: Digest) -> str:
    return digest.removeprefix("sha256:")
