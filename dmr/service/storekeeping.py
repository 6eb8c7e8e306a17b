"""Models as archives, models made of other ones, and the store as a whole."""

from __future__ import annotations

from typing import BinaryIO

from dmr.client import ManagerClient
from dmr.store.archive import open_archive, receive_archive
from dmr.store.store import ModelStore
from dmr.store.tar import TarStream
from dmr.types import ModelRecord, Removal, Repackaging, StoreUsage


class Storekeeping:
    """Any thread."""

    def __init__(self, manager: ManagerClient, store: ModelStore) -> None:
        self._manager = manager
        self._store = store

    def load(self, source: BinaryIO, reference: str = "") -> ModelRecord:
        """Take the model of a tar archive into the store. Its name is `reference`, or the one that travels with it.

        Raises:
            InvalidReference, InvalidModelFile, StoreError. What reading the source raises goes through.
        """
        if reference:
            self._store.parse_tag(reference)  # before gigabytes have come
        archive = receive_archive(self._store, source)
        return self._manager.adopt_model(archive.manifest, archive.name, reference)

    def export(self, reference: str) -> TarStream:
        """A model as a tar archive, to be read by one reader and closed. Raises ModelNotFound, InvalidReference."""
        return open_archive(self._store, reference)

    def repackage(self, base: str, wish: Repackaging) -> ModelRecord:
        """Raises ModelNotFound (the base), InvalidReference, InvalidRequest, InvalidModelFile, StoreError."""
        return self._manager.repackage_model(base, wish)

    def purge(self, force: bool) -> Removal:
        """Remove all models. Raises Conflict: one is in use, and not `force`; StoreError."""
        return self._manager.purge_models(force)

    def usage(self) -> StoreUsage:
        return self._store.usage()
