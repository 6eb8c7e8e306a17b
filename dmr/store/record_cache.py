"""Records of models for those who ask at every request: read again only when the store's index is another."""

from __future__ import annotations

import threading

from dmr.errors import ModelNotFound
from dmr.store.store import ModelStore
from dmr.types import ModelRecord

MAX_REMEMBERED = 1024  # names


class RecordCache:
    """Any thread."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._index = store.root / "models.json"
        self._state: object = None
        self._known: dict[str, ModelRecord | None] = {}  # None = the store has no such model
        self._lock = threading.Lock()

    def get(self, reference: str) -> ModelRecord:
        """Raises ModelNotFound, InvalidReference."""
        known = self._current()
        if reference not in known:
            # Into the map of before the look: one that is older than the index is not asked again.
            try:
                known[reference] = self._store.get(reference)
            except ModelNotFound:
                known[reference] = None
        record = known[reference]
        if record is None:
            raise ModelNotFound(reference.strip())
        return record

    def known(self, reference: str) -> ModelRecord | None:
        """If it was read already: takes no longer than a look at the index's date."""
        return self._current().get(reference)

    def _current(self) -> dict[str, ModelRecord | None]:
        state = self._state_of_index()
        with self._lock:
            if state != self._state or len(self._known) > MAX_REMEMBERED:
                self._state, self._known = state, {}
            return self._known

    def _state_of_index(self) -> object:
        """Something else whenever the file is another one; None = there is none."""
        try:
            found = self._index.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size
