"""Requests that are read only to be refused: there is no thread to answer them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import falcon

from dmr.errors import Overloaded

LOOKING = "looking"  # begins the names of the threads that only answer short looks
STAY_RETRY = 10.0  # seconds
_here = threading.local()


@contextmanager
def refusing(retry_after: float) -> Iterator[None]:
    """In this thread every request is refused."""
    _here.retry_after = retry_after
    try:
        yield
    finally:
        del _here.retry_after


class Refusal:
    """Middleware; it comes after what chooses the dialect."""

    def process_resource(
        self, req: falcon.Request, resp: falcon.Response, resource: object, params: dict[str, Any]
    ) -> None:
        refuse_if_full()


def refuse_to_stay() -> None:
    """Raises Overloaded in the few threads that are left for short looks at a full server."""
    if threading.current_thread().name.startswith(LOOKING):
        raise Overloaded("The server is full: what does not end has no place now.", retry_after=STAY_RETRY)


def refuse_if_full() -> None:
    """Raises Overloaded where this thread only refuses."""
    retry_after = getattr(_here, "retry_after", None)
    if retry_after is not None:
        raise Overloaded("The server answers as many requests as it can already.", retry_after=retry_after)
