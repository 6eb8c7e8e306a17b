"""Alarms that hardly ever go off: one thread for all of a process, since to start one for each costs every request."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple


class _Alarm(NamedTuple):
    due: float  # of the monotonic clock
    act: Callable[[], None]


class Alarms:
    """Its thread starts with the first alarm, so a process may fork before. For any number of threads."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._pending: dict[int, _Alarm] = {}
        self._next_key = 0
        self._looks_at = math.inf  # when the thread wakes by itself
        self._has_thread = False

    @contextmanager
    def after(self, seconds: float, act: Callable[[], None]) -> Iterator[None]:
        """Call `act`, which must not block or raise, unless the block ends before. It is not called after that."""
        key = self._add(_Alarm(time.monotonic() + seconds, act))
        try:
            yield
        finally:
            with self._condition:
                self._pending.pop(key, None)

    def _add(self, alarm: _Alarm) -> int:
        with self._condition:
            self._next_key += 1
            self._pending[self._next_key] = alarm
            if not self._has_thread:
                self._has_thread = True
                threading.Thread(target=self._run, name="alarms", daemon=True).start()
            elif alarm.due < self._looks_at:  # seldom: alarms of one length come in order
                self._condition.notify()
            return self._next_key

    def _run(self) -> None:
        with self._condition:
            while True:
                now = time.monotonic()
                for key, alarm in list(self._pending.items()):
                    if alarm.due <= now:
                        del self._pending[key]
                        alarm.act()
                self._looks_at = min((alarm.due for alarm in self._pending.values()), default=math.inf)
                self._condition.wait(None if math.isinf(self._looks_at) else max(0.0, self._looks_at - now))
