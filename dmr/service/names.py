"""Which model a name means that a client asks for: the store's own names go first, then the settings' aliases."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from dmr.config import Alias, other_names
from dmr.errors import InvalidReference, ModelNotFound
from dmr.store.record_cache import RecordCache
from dmr.types import ModelRecord


class Names:
    """Any thread."""

    def __init__(self, records: RecordCache, aliases: Sequence[Alias] = ()) -> None:
        self._records = records
        self._aliases = tuple(aliases)

    def resolve(self, name: str) -> str:
        """A name that the store knows: this one, or what it is an alias of.

        Raises:
            ModelNotFound: the store has neither. InvalidReference: it can be no name, and is no alias.
        """
        try:
            self._records.get(name)
        except (ModelNotFound, InvalidReference):
            others = self.others(name)
            if not others:
                raise
        else:
            return name
        for other in others:
            if self._is_stored(other):
                return other
        raise ModelNotFound(others[-1], alias=name.strip())

    def record(self, name: str) -> ModelRecord:
        """The model that is meant. Raises as `resolve`."""
        return self._records.get(self.resolve(name))

    def others(self, name: str) -> tuple[str, ...]:
        """What a name that the store does not know may mean, the nearest first; empty if it is no alias."""
        return tuple(other_names(self._aliases, name))

    def aliased(self) -> list[ModelRecord]:
        """The models that have aliases without `*`, each once more under that name; not where it hides behind a model.

        In the order of the names.
        """
        exact = sorted(alias.pattern for alias in self._aliases if alias.is_exact)
        found: list[ModelRecord] = []
        for name in exact:
            if not self._is_stored(name):
                stored = next((other for other in self.others(name) if self._is_stored(other)), None)
                if stored is not None:
                    found.append(msgspec.structs.replace(self._records.get(stored), tags=(name,)))
        return found

    def _is_stored(self, name: str) -> bool:
        try:
            self._records.get(name)
        except (ModelNotFound, InvalidReference):
            return False
        return True
