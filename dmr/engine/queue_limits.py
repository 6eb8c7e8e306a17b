"""How many sequences an engine holds, of all clients and of each, and when there will be room again."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from dmr.config import EngineSettings
from dmr.errors import Overloaded, TooManyRequests

NUM_REMEMBERED = 64  # ends of sequences that the pace is measured by
MAX_INTERVAL = 0.25  # seconds after which it is worth asking again, however slow it goes


class QueueLimits:
    """Counts sequences in flight: those that run and those that wait. Not for several threads at once.

    One client may have all the places to run, and a share of those to wait: so there is always one for another client.
    Who has nothing in flight is never refused for the size of its request alone.
    """

    def __init__(self, settings: EngineSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = settings.max_queue
        self._num_running = min(settings.max_num_seqs, settings.max_queue)
        self._most_of_client = self._num_running + int((self._most - self._num_running) * settings.queue_share)
        self._clock = clock
        self._num = 0
        self._num_of_client: dict[str, int] = {}
        self._busy_since = 0.0
        self._ends: deque[float] = deque(maxlen=NUM_REMEMBERED)  # since then, latest last

    @property
    def num_sequences(self) -> int:
        return self._num

    def enter(self, client: str, num_sequences: int) -> None:
        """Count in a request. A client without a name has no share of its own.

        Raises:
            TooManyRequests: its client has its share.
            Overloaded: there is no room for anybody.
        """
        held = self._num_of_client.get(client, 0)
        excess = held + num_sequences - self._most_of_client
        if client and held and excess > 0:
            # Of the places that become free, this client's are as many as it has of all.
            has_share = TooManyRequests(
                f"You have {held} sequences in progress already, and one client may have {self._most_of_client}.",
                retry_after=self._seconds_for(excess * self._num / held),
            )
            has_share.interval_ms = self._interval_ms(held / self._num) if held >= self._most_of_client else 0
            raise has_share
        excess = self._num + num_sequences - self._most
        if self._num and excess > 0:
            is_full = Overloaded(
                f"{self._num} sequences are in progress already; try again in a moment.",
                retry_after=self._seconds_for(excess),
            )
            is_full.interval_ms = self._interval_ms() if self._num >= self._most else 0
            raise is_full
        if not self._num:
            self._busy_since = self._clock()
            self._ends.clear()
        self._num += num_sequences
        self._num_of_client[client] = held + num_sequences

    def leave(self, client: str, num_sequences: int) -> None:
        """A request has ended, however it did."""
        self._num -= num_sequences
        left = self._num_of_client.pop(client) - num_sequences
        if left:
            self._num_of_client[client] = left
        self._ends.extend([self._clock()] * min(num_sequences, NUM_REMEMBERED))

    def seconds_to_drain(self) -> float:
        """How long it takes until nobody waits, if nobody comes."""
        return self._seconds_for(self._num - self._num_running)

    def _interval_ms(self, share: float = 1.0) -> int:
        """Between two places that become free, of which who asks gets this share: no use in asking more often."""
        interval = self._seconds_for_one() / share
        return max(1, round(1000 * min(MAX_INTERVAL, interval or MAX_INTERVAL)))

    def _seconds_for(self, num_places: float) -> float:
        """How long it takes, as things went of late, until so many places have become free; at least a second."""
        interval = self._seconds_for_one()
        if not interval:  # nothing is known but that nothing has ended for so long
            return max(1.0, self._clock() - self._busy_since)
        return max(1.0, num_places * interval)

    def _seconds_for_one(self) -> float:
        """Between two ends, of late; 0 if there were none."""
        if not self._ends:
            return 0.0
        began = self._ends[0] if len(self._ends) == NUM_REMEMBERED else self._busy_since
        return (self._clock() - began) / len(self._ends)
