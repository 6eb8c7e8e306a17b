"""Work on a loaded model: a lease is taken, and taken again when the engine has just died."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator
from typing import NamedTuple, TypeVar, Union

from dmr.client import EngineUnreachable, Lease, ManagerClient
from dmr.errors import EngineCrashed, InternalError
from dmr.types import Tick

MAX_ATTEMPTS = 5  # to reach an engine that has just died
RETRY_DELAY = 0.1  # seconds

T = TypeVar("T")
Work = Callable[[Lease, float], Generator[T, None, None]]  # of a lease and the seconds that it took to get it


class Wish(NamedTuple):
    """Which model is needed, and how."""

    model: str
    keep_alive: float | None = None
    context_size: int | None = None
    preload: bool = False  # the loading goes on even if nobody waits for it


class Leasing:
    """Safe for any number of threads."""

    def __init__(self, manager: ManagerClient) -> None:
        self._manager = manager

    def use(self, wish: Wish, work: Work[T]) -> Generator[Union[T, Tick], None, None]:
        """What `work` yields; Tick while the model loads.

        Raises, beside what `work` does:
            ModelNotFound, ModelLoadFailed, Unavailable
            EngineCrashed: with its last words, as far as they are known.
        """
        began = time.monotonic()
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                lease = yield from self.acquire(wish)
                with contextlib.closing(lease):
                    yield from self._work(lease, work, time.monotonic() - began)
                return
            except EngineUnreachable as error:
                # It died a moment ago; the manager starts another as soon as it has noticed.
                if attempt == MAX_ATTEMPTS:
                    raise EngineCrashed(error.message) from error
                time.sleep(RETRY_DELAY * attempt)

    def _work(self, lease: Lease, work: Work[T], seconds: float) -> Generator[T, None, None]:
        try:
            yield from work(lease, seconds)
        except EngineUnreachable:
            raise
        except EngineCrashed as error:
            raise lease.post_mortem() or error from error

    def acquire(self, wish: Wish) -> Generator[Tick, None, Lease]:
        """A lease, which the caller closes; yields Tick until it is there."""
        with contextlib.closing(self._manager.acquire(*wish)) as leases:
            return (yield from wait_for(leases))


def wait_for(replies: Generator[Union[T, None], None, None]) -> Generator[Tick, None, T]:
    """The first reply that is one; yields Tick for each None before it."""
    for reply in replies:
        if reply is not None:
            return reply
        yield Tick()
    raise InternalError("Another process ended the conversation without an answer.")
