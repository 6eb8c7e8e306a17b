"""Which requests have waited or run for too long."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from dmr.engine.engine import Request


class Expired(NamedTuple):
    request: Request
    has_begun: bool  # False: it only waited


class Deadlines:
    """Every request has the same time, so they are due in the order in which they came: nothing needs to be sorted.

    Looking costs the same however many requests there are.
    """

    def __init__(self, queue_timeout: float, request_timeout: float) -> None:
        """Seconds that a request may wait for its first step, and that it may take in all; 0 = any time."""
        self._queue_timeout = queue_timeout
        self._request_timeout = request_timeout
        self._to_begin: OrderedDict[Request, float] = OrderedDict()  # to the time when it is due
        self._to_end: OrderedDict[Request, float] = OrderedDict()

    def add(self, request: Request, now: float) -> None:
        """`now`: seconds of a clock that never goes back."""
        if self._queue_timeout:
            self._to_begin[request] = now + self._queue_timeout
        if self._request_timeout:
            self._to_end[request] = now + self._request_timeout

    def forget(self, request: Request) -> None:
        self._to_begin.pop(request, None)
        self._to_end.pop(request, None)

    def take_expired(self, now: float) -> list[Expired]:
        """Those that are due; they are forgotten."""
        late: list[Expired] = []
        for request in _take_due(self._to_end, now):
            late.append(Expired(request, True))
            self.forget(request)
        for request in _take_due(self._to_begin, now):
            if not request.started:
                late.append(Expired(request, False))
                self.forget(request)
        return late


def _take_due(due: OrderedDict[Request, float], now: float) -> list[Request]:
    taken: list[Request] = []
    while due and next(iter(due.values())) <= now:
        taken.append(due.popitem(last=False)[0])
    return taken
