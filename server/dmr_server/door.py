"""Refusals that are given again at the door: without a thread, and without asking the engine whose queue is full.

An engine that refuses says how often a place becomes free (`interval_ms`). So often one request is let in; whoever asks
for the same meanwhile gets the same answer. As long as none of those is refused in turn, more and more are let in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Union

import falcon
from gunicorn.util import http_date  # type: ignore[import-untyped]

from dmr.errors import DmrError, Overloaded, TooManyRequests
from dmr_server.asked import Asked, asked_in
from dmr_server.middleware import fresh_request_id
from dmr_server.recording.draft import draft_of

MAX_KNOWN = 1024  # refusals that are remembered at a time
DOUBLING = 0.1  # seconds without a refusal inside, after which twice as many are let in
OPEN = 0.001  # seconds between two that are let in, below which all are
# What is asked for there may be answered without a place in a queue.
_ELSEWHERE = "/responses"

Full = Union[Overloaded, TooManyRequests]
Tell = Callable[[int], None]


class Refused:
    """What was answered, ready to be answered again."""

    def __init__(self, status: str, headers: Mapping[str, str], body: bytes, request_id: str) -> None:
        """`request_id`: of that answer; each has its own, in its headers and perhaps in its body."""
        own = {"Server": "gunicorn", "Date": http_date(), "Connection": "close"}
        lines = (f"{name}: {value}\r\n" for name, value in {**own, **headers, "content-length": len(body)}.items())
        self._answer = f"HTTP/1.1 {status}\r\n{''.join(lines)}\r\n".encode("latin-1") + body
        self._request_id = request_id.encode()

    def again(self) -> bytes:
        """One more answer. Its connection is closed: whoever is refused gives its place back."""
        return self._answer.replace(self._request_id, fresh_request_id().encode())


class _Known:
    """`interval`: seconds between two that are let in. `tell` gets how many were refused here, in the end."""

    def __init__(self, refused: Refused, interval: float, now: float, tell: Tell) -> None:
        self.tell = tell
        self.count = 0
        self.refresh(refused, interval, now)

    def refresh(self, refused: Refused, interval: float, now: float) -> None:
        """One was refused inside."""
        self.refused = refused
        self.interval = interval
        self._since = now
        self._next_in = now + interval

    def lets_in(self, now: float) -> bool:
        self.widen(now)
        if now < self._next_in:
            self.count += 1
            return False
        self._next_in = now + self.interval
        return True

    def widen(self, now: float) -> None:
        while now - self._since >= DOUBLING and self.interval >= OPEN:
            self._since += DOUBLING
            self.interval /= 2


class Door:
    """What is known is written by the threads that serve, and read by the one that accepts connections."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[tuple[Asked, str | None], _Known] = {}
        self.checks_keys = False  # only who was let in may learn that a queue is full
        self.num_workers = 1  # that let others in as well

    @property
    def is_watched(self) -> bool:
        """Whether anything could be refused here."""
        return bool(self._known)

    def remember(self, asked: Asked, address: str, error: Full, told: Refused, tell: Tell) -> None:
        """`told` is what the client at `address` was told of the error. `tell` gets how often it was given again."""
        interval = self.num_workers * error.interval_ms / 1000
        key = self._key_of(asked, address, is_for_all=isinstance(error, Overloaded))
        known = self._known.get(key)
        if known is not None:
            known.refresh(told, interval, self._clock())
        elif len(self._known) < MAX_KNOWN:
            self._known[key] = _Known(told, interval, self._clock(), tell)

    def refusal(self, asked: Asked, address: str) -> Refused | None:
        """What to answer; None = let it in. On the thread that accepts."""
        now = self._clock()
        for is_for_all in (True, False):
            known = self._known.get(self._key_of(asked, address, is_for_all))
            if known is not None and not known.lets_in(now):
                return known.refused
        return None

    def tidy(self) -> None:
        """Forget what is over. On the thread that accepts."""
        now = self._clock()
        for key, known in list(self._known.items()):
            known.widen(now)
            if known.interval < OPEN:
                self._known.pop(key, None)
                if known.count:
                    known.tell(known.count)

    def _key_of(self, asked: Asked, address: str, is_for_all: bool) -> tuple[Asked, str | None]:
        """Of whom it does not matter: credentials, where nobody asks for any; the address of those who have some."""
        if is_for_all:
            return (asked if self.checks_keys else asked._replace(credentials="")), None
        return asked, "" if asked.credentials else address


current = Door()  # of this process


class Remembering:
    """Middleware, before the one that records: when this one sees an answer it is complete, and counted."""

    def __init__(self, door: Door, *, checks_keys: bool, num_workers: int) -> None:
        self._door = door
        door.checks_keys = checks_keys
        door.num_workers = num_workers

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, resource: object, req_succeeded: bool
    ) -> None:
        error: DmrError | None = getattr(req.context, "error", None)
        draft = draft_of(req)
        if not isinstance(error, (Overloaded, TooManyRequests)) or not error.interval_ms or draft is None:
            return
        asked = asked_in(req.env, draft.model)
        if asked is None or resp.data is None or req.path.endswith(_ELSEWHERE):
            return
        told = Refused(str(resp.status), resp.headers, resp.data, req.context.request_id)
        self._door.remember(asked, str(req.remote_addr), error, told, req.context.count_again)
