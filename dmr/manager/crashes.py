"""Engines of one model that died by themselves: how long the next one has to wait."""

from __future__ import annotations

from collections import deque

from dmr.errors import EngineCrashed

SOON = 30.0  # seconds: an engine that has served longer had started well
LONGEST_PAUSE = 60.0  # seconds between two starts
WINDOW = 600.0  # seconds in which so many crashes
MAX_CRASHES = 5  # are too many
QUARANTINE = 600.0  # seconds until it is tried again by itself


class CrashRecord:
    """Times are any clock's seconds.

    The first crash delays nothing: it may have been an unlucky request. Each further one in a row doubles the pause,
    from one second on.
    """

    def __init__(self) -> None:
        self.last_words = ""
        self.num_crashes = 0
        self._in_a_row = 0
        self._times: deque[float] = deque(maxlen=MAX_CRASHES)
        self._not_before = 0.0
        self._is_quarantined = False

    def crashed(self, last_words: str, uptime: float, now: float) -> None:
        """`uptime`: seconds since it was ready; 0 = it had not become ready."""
        self.last_words = last_words
        self.num_crashes += 1
        self._in_a_row = 1 if uptime >= SOON else self._in_a_row + 1
        self._times.append(now)
        self._is_quarantined = len(self._times) == MAX_CRASHES and now - self._times[0] <= WINDOW
        if self._is_quarantined:
            self._not_before = now + QUARANTINE
        elif self._in_a_row > 1:
            self._not_before = now + min(LONGEST_PAUSE, 2.0 ** (self._in_a_row - 2))

    def forgive(self) -> None:
        """Somebody has done something about it: it may start at once."""
        self._in_a_row = 0
        self._times.clear()
        self._not_before = 0.0
        self._is_quarantined = False

    def retry_after(self, now: float) -> float:
        """Seconds until it may start; 0 = at once."""
        return max(0.0, self._not_before - now)

    def is_quarantined(self, now: float) -> bool:
        return self._is_quarantined and self.retry_after(now) > 0

    def check(self, reference: str, now: float) -> None:
        """Raises EngineCrashed with its last words while it may not start."""
        seconds = self.retry_after(now)
        if not seconds:
            return
        if self._is_quarantined:
            reason = (
                f"has crashed {MAX_CRASHES} times within {WINDOW / 60:g} minutes and is in quarantine for another "
                f"{seconds:.0f} s; unload it to have it tried at once"
            )
        else:
            reason = f"has crashed {self._in_a_row} times in a row and is started again in {seconds:.1f} s"
        raise EngineCrashed(
            f"The engine of '{reference}' {reason}. Its last words: {self.last_words or 'none'}",
            retry_after=max(1.0, seconds),
        )
