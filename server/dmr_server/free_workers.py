"""Which workers have a free thread. One byte for each in memory that the master and all workers share."""

from __future__ import annotations

import mmap

MOST_WORKERS = 1024  # at a time; who is born so many later has the same byte


class FreeWorkers:
    """Made before the first fork. A worker is named by its age, gunicorn's count of those that were born."""

    def __init__(self) -> None:
        self._are_free = mmap.mmap(-1, MOST_WORKERS)

    def tell(self, age: int, is_free: bool) -> None:
        """By the worker itself; by the master when it is about to be born, and when it is gone."""
        self._are_free[age % MOST_WORKERS] = is_free

    def exist(self) -> bool:
        return self._are_free.find(b"\1", 0) >= 0


current = FreeWorkers()
