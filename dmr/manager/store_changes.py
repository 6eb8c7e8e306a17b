"""What changes the store beside transfers: each change is made in a thread, away from the event loop."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from dmr.errors import DmrError
from dmr.manager.model_manager import ModelManager
from dmr.store.archive import ReceivedArchive, adopt_archive
from dmr.store.repackage import repackage_model
from dmr.store.store import ModelStore
from dmr.types import ModelRecord, Removal, Repackaging

COLLECT_INTERVAL = 24 * 3600.0  # seconds

logger = logging.getLogger("dmr.manager")


class StoreChanges:
    def __init__(self, store: ModelStore, manager: ModelManager) -> None:
        self._store = store
        self._manager = manager

    async def import_model(self, path: Path, reference: str) -> ModelRecord:
        """Raises InvalidReference, InvalidModelFile, StoreError."""
        return await asyncio.to_thread(self._store.import_gguf, path, reference, True)

    async def tag(self, source: str, target: str) -> ModelRecord:
        """Raises ModelNotFound, InvalidReference."""
        return await asyncio.to_thread(self._store.tag, source, target)

    async def adopt(self, archive: ReceivedArchive, reference: str) -> ModelRecord:
        """Raises InvalidReference, StoreError."""
        return await asyncio.to_thread(adopt_archive, self._store, archive, reference)

    async def repackage(self, base: str, wish: Repackaging) -> ModelRecord:
        """Raises ModelNotFound, InvalidReference, InvalidRequest, InvalidModelFile, StoreError."""
        return await asyncio.to_thread(repackage_model, self._store, base, wish)

    async def purge(self, force: bool) -> Removal:
        """Remove all models, and end their engines.

        Raises:
            Conflict: one is in use, here or by another process, and not `force`. Then all models stay.
            StoreError
        """
        models = await asyncio.to_thread(self._store.models)
        async with self._manager.without_engines([model.id for model in models], force):
            return await asyncio.to_thread(self._store.purge, force)

    async def collect_for_ever(self) -> None:
        """At once and then every day, give back the space of what no model needs."""
        while True:
            try:
                await asyncio.to_thread(self._store.collect)
            except DmrError as error:
                logger.warning("the store was not tidied: %s", error.message)
            await asyncio.sleep(COLLECT_INTERVAL)
