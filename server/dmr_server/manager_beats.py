"""Whether the manager says anything: its event loop writes a byte into a pipe once a second, and nothing else does."""

from __future__ import annotations

import math
import os
import select

LOOK_INTERVAL = 1.0  # seconds of waiting for the next beat; beats are no further apart
READ_SIZE = 4096  # bytes; more than one beat waits when this process stood still


class ManagerBeats:
    """The pipe of one manager process. Nothing is asked of the manager, so it costs nothing and waits for no lock."""

    def __init__(self, patience: float, first_patience: float, look_interval: float = LOOK_INTERVAL) -> None:
        """`patience`: seconds of silence that are too long; 0 = none are. `first_patience`: as long as it starts."""
        self._patience = max(patience, 2 * look_interval) if patience > 0 else math.inf
        self._first_patience = max(self._patience, first_patience)
        self._look_interval = look_interval
        reading_end, self.writing_end = os.pipe()
        self._file = os.fdopen(reading_end, "rb", buffering=0)
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLIN)

    def close_writing_end(self) -> None:
        """From now on the manager alone has it, so that the pipe ends when the manager does."""
        os.close(self.writing_end)

    def wait_for_silence(self) -> bool:
        """Returns with True when the manager has said nothing for too long, with False when it has ended before.

        Counted in our own looks: while this process or the machine stood still, nobody could be heard.
        """
        num_silent, patience = 0, self._first_patience
        while num_silent * self._look_interval < patience:
            if not self._poll.poll(self._look_interval * 1000):
                num_silent += 1
            elif self._file.read(READ_SIZE):
                num_silent, patience = 0, self._patience
            else:
                return False
        return True

    def close(self) -> None:
        """Idempotent; not while another thread waits in `wait_for_silence`."""
        self._file.close()
