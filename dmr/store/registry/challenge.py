"""What a registry wants to know before it answers: the WWW-Authenticate header (RFC 7235, and the token scheme)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

_PARAMETER = re.compile(r'([A-Za-z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
MAX_HEADER = 4096


class Challenge(NamedTuple):
    """`scheme` in lower case."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenge(header: str) -> Challenge | None:
    """The first challenge of the header that is understood; None if there is none."""
    scheme, _, rest = header[:MAX_HEADER].strip().partition(" ")
    if scheme.lower() not in ("bearer", "basic"):
        return None
    parameters = {name.lower(): quoted.replace('\\"', '"') or plain for name, quoted, plain in _PARAMETER.findall(rest)}
    return Challenge(scheme.lower(), parameters)
