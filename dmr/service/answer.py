"""An answer while it comes."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from typing import Protocol

from dmr.channels import Channel, Channels
from dmr.client import Readiness
from dmr.errors import DmrError
from dmr.types import Event
from dmr.wire import EngineMessage

__all__ = ["Answer", "Channel", "Channels", "Flow", "Reader"]


class Reader(Protocol):
    """Makes events of an engine's messages."""

    unread: deque[Event]  # of the last message, what its iterator has not given yet

    def read(self, message: EngineMessage) -> list[Event]: ...


class Flow:
    """How the events of an answer can be had without waiting. Filled in by who asks the engine."""

    def __init__(self, *, in_pieces: bool = True) -> None:
        """`in_pieces` false: nothing is made of the answer before its end, so it need not come token by token."""
        self.in_pieces = in_pieces
        self.readiness = Readiness()
        self.reader: Reader | None = None  # None: the events do not follow from one message after the other


class Answer:
    """The events of one request, as an iterator that may wait. Closing it is the abort.

    From its first event but `Tick` on, a loop may serve it beside others, if it `can_be_taken`: after `dont_wait` its
    events are taken, and `fileno` is readable when there are more.
    """

    def __init__(self, events: Generator[Event, None, None], flow: Flow) -> None:
        self._events = events
        self._flow = flow

    def __iter__(self) -> Iterator[Event]:
        return self._events

    def __next__(self) -> Event:
        return next(self._events)

    def close(self) -> None:
        self._events.close()

    @property
    def can_be_taken(self) -> bool:
        return self._flow.reader is not None

    def fileno(self) -> int:
        return self._flow.readiness.fileno()

    def dont_wait(self) -> None:
        """From now on events come from `take` only; after the last one it is to be closed."""
        self._flow.readiness.dont_wait()

    def move(self, channels: Channels, owner: object) -> Channel | None:
        """Ask for the rest on a connection that many answers share; None: there is none. See `Readiness`."""
        return self._flow.readiness.move(channels, owner)

    @property
    def has_moved(self) -> bool:
        """`fileno` tells nothing any more: the channel does."""
        return self._flow.readiness.has_moved

    def take(self) -> Iterator[Event]:
        """The events that have come by now; none is lost before an error. Raises as the iterator does."""
        reader = self._flow.reader
        assert reader is not None
        while reader.unread:
            yield reader.unread.popleft()
        try:
            for message in self._flow.readiness.take():
                yield from reader.read(message)
        except DmrError as error:
            # Whoever holds the lease may know why.
            self._events.throw(error)
