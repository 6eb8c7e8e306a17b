"""Query parameters that are true or false, by Go's words for it, as upstream takes them."""

from __future__ import annotations

import falcon

from dmr.errors import InvalidRequest

_TRUE = frozenset(["1", "t", "T", "true", "TRUE", "True"])
_FALSE = frozenset(["0", "f", "F", "false", "FALSE", "False"])


def flag(req: falcon.Request, name: str) -> bool:
    """Raises InvalidRequest, in upstream's words, if it is neither."""
    value = req.get_param(name)  # of several the last
    if value is None or value == "" or value in _FALSE:
        return False
    if value in _TRUE:
        return True
    raise InvalidRequest(f'invalid {name} parameter: "{value}" is not a valid boolean', param=name)
