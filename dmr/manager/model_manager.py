"""Which models are loaded, for whom, and for how long. Runs on one event loop, so its state needs no locks."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Sequence
from pathlib import Path

from dmr.config import Settings
from dmr.errors import Conflict, ModelLoadFailed, ShuttingDown, Unavailable
from dmr.manager.engine_process import COMMAND, EngineProcess
from dmr.store.store import ModelStore
from dmr.types import ModelRecord, Removal, RunningModel
from dmr.wire import EngineInfo, EngineSpec

EVICTION_INTERVAL = 1.0  # seconds between looks for idle models

logger = logging.getLogger("dmr.manager")


class LoadedModel:
    """A model with an engine, loading or ready. `num_leases` counts who holds or awaits it."""

    def __init__(self, model_id: str, reference: str, process: EngineProcess, keep_alive: float) -> None:
        self.model_id = model_id
        self.reference = reference
        self.process = process
        self.keep_alive = keep_alive
        self.num_leases = 0
        self.loaded_at = time.time()
        self.last_used = time.time()
        self.supervision: asyncio.Task[None] | None = None

    @property
    def is_loading(self) -> bool:
        return not self.process.ready.done()

    def is_expired(self, now: float) -> bool:
        idle = self.num_leases == 0 and not self.is_loading
        return idle and 0 <= self.keep_alive <= now - self.last_used

    def describe(self) -> RunningModel:
        return RunningModel(
            id=self.model_id,
            reference=self.reference,
            state="loading" if self.is_loading else "ready",
            num_active=self.num_leases,
            loaded_at=self.loaded_at,
            last_used=self.last_used,
            keep_alive=self.keep_alive,
            pid=self.process.pid,
        )


class ModelManager:
    def __init__(
        self, settings: Settings, store: ModelStore, runtime_dir: Path, engine_command: Sequence[str] = COMMAND
    ) -> None:
        self._settings = settings
        self._store = store
        self._runtime_dir = runtime_dir
        self._engine_command = engine_command
        self._loaded: dict[str, LoadedModel] = {}  # by model id
        self._locks: dict[str, asyncio.Lock] = {}  # by model id: one start or removal at a time
        self._ending: set[asyncio.Task[None]] = set()  # engines that still hold memory
        self._socket_numbers = itertools.count(1)
        self._stopping = False

    async def acquire(self, reference: str, keep_alive: float | None) -> LoadedModel:
        """A lease on the model; it may still be loading, see `wait_ready`. Give it back with `release`.

        Raises:
            ModelNotFound, InvalidReference, ModelLoadFailed, ShuttingDown
        """
        record = await asyncio.to_thread(self._store.get, reference)
        # Concurrent first requests start one engine.
        async with self._lock(record.id):
            if self._stopping:
                raise ShuttingDown("The server is stopping.")
            model = self._loaded.get(record.id)
            if model is None or not model.process.is_alive:
                model = await self._start(record, reference)
            model.num_leases += 1
        if keep_alive is not None:
            model.keep_alive = keep_alive
        return model

    async def wait_ready(self, model: LoadedModel) -> EngineInfo:
        """Raises ModelLoadFailed with the engine's own reason, Unavailable if it was unloaded meanwhile."""
        return await asyncio.shield(model.process.ready)

    def release(self, model: LoadedModel) -> None:
        model.num_leases -= 1
        model.last_used = time.time()
        if model.is_expired(model.last_used):
            self._end(model)

    async def evict_idle(self) -> None:
        """Runs for ever: ends the engines whose keep-alive is over."""
        while True:
            await asyncio.sleep(EVICTION_INTERVAL)
            for model in list(self._loaded.values()):
                if model.is_expired(time.time()):
                    logger.info("unloading %s: idle for %g s", model.reference, model.keep_alive)
                    self._end(model)

    def running(self) -> tuple[RunningModel, ...]:
        return tuple(model.describe() for model in self._loaded.values() if model.process.is_alive)

    async def unload(self, references: tuple[str, ...] | None) -> int:
        """End idle engines; busy ones are left alone. Returns how many ended."""
        models = list(self._loaded.values())
        if references is not None:
            records = [await asyncio.to_thread(self._store.get, reference) for reference in references]
            models = [self._loaded[model_id] for model_id in {record.id for record in records} & self._loaded.keys()]
        ends = [self._end(model) for model in models if model.num_leases == 0]
        await asyncio.gather(*ends)
        return len(ends)

    async def import_model(self, path: Path, reference: str) -> ModelRecord:
        return await asyncio.to_thread(self._store.import_gguf, path, reference, True)

    async def remove(self, reference: str, force: bool) -> Removal:
        """Remove a name or a model. A model in use stays, unless `force`.

        Raises:
            ModelNotFound, Conflict
        """
        record = await asyncio.to_thread(self._store.get, reference)
        async with self._lock(record.id):
            model = self._loaded.get(record.id)
            if model is not None and model.num_leases > 0 and len(record.tags) <= 1 and not force:
                raise Conflict(f"The model '{reference}' is in use; remove it with force, or wait.")
            removal = await asyncio.to_thread(self._store.remove, reference, force)
            model = self._loaded.get(record.id)
            if model is not None and removal.deleted:
                await self._end(model)
        return removal

    async def stop(self) -> None:
        """End all engines."""
        self._stopping = True
        for model in list(self._loaded.values()):
            self._end(model)
        await asyncio.gather(*self._ending)

    def _lock(self, model_id: str) -> asyncio.Lock:
        return self._locks.setdefault(model_id, asyncio.Lock())

    async def _start(self, record: ModelRecord, reference: str) -> LoadedModel:
        files = await asyncio.to_thread(self._store.files, record.id)
        spec = EngineSpec(
            reference=reference,
            weights=tuple(map(str, files.weights)),
            chat_template=str(files.chat_template) if files.chat_template else None,
            socket=str(self._runtime_dir / f"engine-{next(self._socket_numbers)}.sock"),
            settings=self._settings.engine,
            log_level=self._settings.log_level,
        )
        if self._ending:  # the memory they hold is needed
            await asyncio.wait(self._ending)
        try:
            process = await EngineProcess.start(spec, self._engine_command)
        except OSError as error:
            raise Unavailable(f"No engine can be started: {error}.") from error
        model = LoadedModel(record.id, reference, process, self._settings.keep_alive)
        self._loaded[record.id] = model
        if self._stopping:  # since a moment ago
            await self._end(model)
            raise ShuttingDown("The server is stopping.")
        model.supervision = asyncio.ensure_future(self._supervise(model))
        return model

    def _end(self, model: LoadedModel) -> asyncio.Task[None]:
        """From now on a new request starts a new engine; the task is done when this one is gone."""
        self._forget(model)
        task = asyncio.ensure_future(model.process.stop())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task

    async def _supervise(self, model: LoadedModel) -> None:
        """Keep to the time that a model may take to load, and notice when its engine has ended."""
        seconds = self._settings.load_timeout
        await asyncio.wait({model.process.ready}, timeout=seconds)
        if model.is_loading:
            model.process.give_up(
                ModelLoadFailed(f"The model '{model.reference}' did not load within {seconds:g} seconds.")
            )
        if model.process.has_failed:
            self._end(model)
        await model.process.wait_ended()
        self._forget(model)

    def _forget(self, model: LoadedModel) -> None:
        if self._loaded.get(model.model_id) is model:
            del self._loaded[model.model_id]
