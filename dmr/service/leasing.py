"""Work on a loaded model: a lease is taken, and taken again when the engine has just died.

While the manager is asked for the lease, the engine that was granted last time gets the work already: mostly it is
granted again. Nothing of what it says is passed on before that is known, and it is given up when the lease is not there
soon: the engine may be what others wait for.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator
from typing import Generic, NamedTuple, Protocol, TypeVar, Union

from dmr.client import EngineUnreachable, Lease, ManagerClient
from dmr.errors import DmrError, EngineCrashed, InternalError
from dmr.types import Tick
from dmr.wire import EngineInfo

MAX_ATTEMPTS = 5  # to reach an engine that has just died
RETRY_DELAY = 0.1  # seconds
MAX_GRANTED = 64  # engines that are remembered


class Granted(Protocol):
    """A loaded model."""

    @property
    def socket(self) -> str: ...
    @property
    def info(self) -> EngineInfo: ...


T = TypeVar("T")
Waited = Callable[[], float]  # the seconds that it took to get the lease, or has taken so far
Work = Callable[[Granted, Waited], Generator[T, None, None]]


class Wish(NamedTuple):
    """Which model is needed, and how."""

    model: str
    keep_alive: float | None = None
    context_size: int | None = None
    preload: bool = False  # the loading goes on even if nobody waits for it


class _Place(NamedTuple):
    """Where a lease was. No two engines have the same of all this."""

    model_id: str
    socket: str
    info: EngineInfo

    @classmethod
    def of(cls, lease: Lease) -> _Place:
        return cls(lease.model_id, lease.socket, lease.info)


class _Waiting:
    """For a lease, and for nothing else."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._seconds = 0.0

    def until_now(self) -> None:
        """All of the time since the beginning was spent with it."""
        self._seconds = time.monotonic() - self._began

    def add(self, seconds: float) -> None:
        self._seconds += seconds

    def seconds(self) -> float:
        return self._seconds


class _Early(Generic[T]):
    """Work on an engine that has not been granted yet."""

    def __init__(self, place: _Place, events: Generator[T, None, None]) -> None:
        self.place = place
        self._events = events
        self._first: T | None = None
        self._error: BaseException | None = None

    def begin(self) -> None:
        """Up to what comes first. What goes wrong is kept for `events`."""
        try:
            self._first = next(self._events)
        except (DmrError, StopIteration) as error:
            self._error = error

    def events(self) -> Generator[T, None, None]:
        if isinstance(self._error, StopIteration):
            return
        if self._error is not None:
            raise self._error
        assert self._first is not None
        yield self._first
        yield from self._events

    def close(self) -> None:
        self._events.close()


class Leasing:
    """Safe for any number of threads."""

    def __init__(self, manager: ManagerClient) -> None:
        self._manager = manager
        self._granted: dict[tuple[str, int | None], _Place] = {}  # last time, by model and context

    def use(self, wish: Wish, work: Work[T]) -> Generator[Union[T, Tick], None, None]:
        """What `work` yields; Tick while the model loads. `work` may be begun twice, and ended early.

        Raises, beside what `work` does:
            ModelNotFound, ModelLoadFailed, Unavailable
            EngineCrashed: with its last words, as far as they are known.
        """
        waiting = _Waiting()
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                yield from self._attempt(wish, work, waiting)
                return
            except EngineUnreachable as error:
                # It died a moment ago; the manager starts another as soon as it has noticed.
                self._granted.pop((wish.model, wish.context_size), None)
                if attempt == MAX_ATTEMPTS:
                    raise EngineCrashed(error.message) from error
                time.sleep(RETRY_DELAY * attempt)

    def _attempt(self, wish: Wish, work: Work[T], waiting: _Waiting) -> Generator[Union[T, Tick], None, None]:
        with contextlib.ExitStack() as held:
            leases = held.enter_context(contextlib.closing(self._manager.acquire(*wish)))
            lease = next(leases)  # None: the wish is on its way
            waiting.until_now()
            place = self._granted.get((wish.model, wish.context_size))
            early: _Early[T] | None = None
            if lease is None and place is not None:
                early = held.enter_context(contextlib.closing(_Early(place, work(place, waiting.seconds))))
                early.begin()
                began = time.monotonic()
                lease = next(leases)
                waiting.add(time.monotonic() - began)
                if lease is None:
                    early.close()
                    early = None
                    yield Tick()
            if lease is None:
                lease = yield from wait_for(leases)
            held.enter_context(contextlib.closing(lease))
            self._remember(wish, lease)
            if early is not None and early.place == _Place.of(lease):
                yield from self._until_its_end(lease, early.events())
            else:
                if early is not None:
                    early.close()
                waiting.until_now()
                yield from self._until_its_end(lease, work(lease, waiting.seconds))

    def _remember(self, wish: Wish, lease: Lease) -> None:
        key = (wish.model, wish.context_size)
        if len(self._granted) >= MAX_GRANTED and key not in self._granted:
            self._granted.clear()
        self._granted[key] = _Place.of(lease)

    def _until_its_end(self, lease: Lease, events: Generator[T, None, None]) -> Generator[T, None, None]:
        try:
            yield from events
        except EngineUnreachable:
            raise
        except EngineCrashed as error:
            raise lease.post_mortem() or error from error

    def acquire(self, wish: Wish) -> Generator[Tick, None, Lease]:
        """A lease, which the caller closes; yields Tick until it is there."""
        with contextlib.closing(self._manager.acquire(*wish)) as leases:
            return next(leases) or (yield from wait_for(leases))


def wait_for(replies: Generator[Union[T, None], None, None]) -> Generator[Tick, None, T]:
    """The first reply that is one; yields Tick for each None before it."""
    for reply in replies:
        if reply is not None:
            return reply
        yield Tick()
    raise InternalError("Another process ended the conversation without an answer.")
