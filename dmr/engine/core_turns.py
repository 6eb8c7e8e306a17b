"""Two kinds of computation on the same cores, in turns: one that several share, and one that takes every core alone.

A step whose threads had to wait for those of a picture's encoder would take many times as long, and so would the
encoder. So the encoder computes in slices, and between two of them whoever waits goes first.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class CoreTurns:
    """Any number of threads share; one at a time is alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._num_sharing = 0
        self._num_waiting = 0  # to share
        self._is_alone = False
        self._is_next = False  # who wants to be alone waits for those who share, and nobody may join them

    def join(self) -> None:
        """Those who share. Waits while somebody is alone."""
        with self._changed:
            self._num_waiting += 1
            try:
                while self._is_alone or self._is_next:
                    self._changed.wait()
                self._num_sharing += 1
            finally:
                self._num_waiting -= 1
                self._changed.notify_all()

    def leave(self) -> None:
        with self._changed:
            self._num_sharing -= 1
            self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._begin_alone()
        try:
            yield
        finally:
            with self._changed:
                self._is_alone = False
                self._changed.notify_all()

    def give_way(self) -> None:
        """For who is alone: whoever waits to share computes now, once; returns when they have."""
        with self._changed:
            if not self._num_waiting:
                return
            self._is_alone = False
            self._changed.notify_all()
            while self._num_waiting:
                self._changed.wait()
            self._begin_alone()

    def _begin_alone(self) -> None:
        self._is_next = True
        while self._num_sharing:
            self._changed.wait()
        self._is_next, self._is_alone = False, True
