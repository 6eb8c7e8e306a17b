"""Which models are loaded, for whom, and for how long. Runs on one event loop, so its state needs no locks."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from dmr.config import EngineSettings, Settings
from dmr.errors import Conflict, DmrError, ModelLoadFailed, ShuttingDown, Unavailable
from dmr.manager.context_limits import ContextLimit, default_context, possible_context
from dmr.manager.engine_process import COMMAND, EngineProcess
from dmr.store.record_cache import RecordCache
from dmr.store.store import ModelStore
from dmr.types import ModelRecord, Removal, RunningModel
from dmr.wire import EngineInfo, EngineSpec

EVICTION_INTERVAL = 1.0  # seconds between looks for idle models
PATIENCE = 60.0  # seconds that a wish for more context, and all behind it, wait for an engine that is in use
PATIENCE_PAUSE = 300.0  # seconds after which they may wait for the same engine again

logger = logging.getLogger("dmr.manager")


class LoadedModel:
    """A model with an engine, loading or ready. `num_leases` counts who holds or awaits it."""

    def __init__(self, record: ModelRecord, reference: str, process: EngineProcess, keep_alive: float) -> None:
        self.record = record
        self.model_id = record.id
        self.size = record.size
        self.reference = reference
        self.process = process  # another one after a larger context could not be had
        self.ready: asyncio.Future[EngineInfo] = asyncio.get_running_loop().create_future()
        self.keep_alive = keep_alive
        self.num_leases = 0
        self.loaded_at = time.time()
        self.last_used = time.time()
        self._is_ended = False
        self.is_idle = asyncio.Event()  # nobody holds or awaits it
        self.is_idle.set()
        self._wait_until = self._wait_again_at = 0.0  # of the monotonic clock

    @property
    def is_loading(self) -> bool:
        return not self.ready.done()

    @property
    def is_alive(self) -> bool:
        return self.is_loading or self.process.is_alive

    @property
    def planned_context(self) -> int:
        """Tokens that its engine was started for."""
        return self.process.spec.settings.context_size or default_context(self.record)

    @property
    def context_size(self) -> int:
        """Tokens; 0 while it loads."""
        if self.is_loading or self.ready.exception() is not None:
            return 0
        return self.ready.result().context_size

    def has_context(self, num_tokens: int) -> bool:
        """Whether it holds so many tokens, or was started for so many and can hold no more."""
        return num_tokens <= max(self.context_size, self.planned_context)

    def settle(self, error: DmrError | None = None) -> None:
        """Answer `ready` as the process has answered, or with an error."""
        failure = error or self.process.ready.exception()
        if failure is None:
            self.ready.set_result(self.process.ready.result())
        else:
            self.ready.set_exception(failure)
            self.ready.exception()  # nobody may be waiting any more

    def end(self) -> None:
        """Nobody wants it any more: no other process shall take this one's place."""
        self._is_ended = True

    def is_ended(self) -> bool:
        return self._is_ended

    def take(self) -> None:
        self.num_leases += 1
        self.is_idle.clear()

    def give_back(self) -> None:
        self.num_leases -= 1
        self.last_used = time.time()
        if self.num_leases == 0:
            self.is_idle.set()
            self._wait_again_at = 0.0

    def patience(self) -> float:
        """Seconds that may be waited for it from now on. Those who wait share them, so nobody is held up for long."""
        now = time.monotonic()
        if now >= self._wait_again_at:
            self._wait_until = now + PATIENCE
            self._wait_again_at = self._wait_until + PATIENCE_PAUSE
        return self._wait_until - now

    async def until_free(self) -> bool:
        """Wait until nobody uses this engine any more, or until it has ended; False if that took too long."""
        ends = [asyncio.ensure_future(self.is_idle.wait()), asyncio.ensure_future(self.process.wait_ended())]
        try:
            done, _ = await asyncio.wait(ends, timeout=max(0, self.patience()), return_when=asyncio.FIRST_COMPLETED)
            return bool(done)
        finally:
            for end in ends:
                end.cancel()

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
            context_size=self.context_size,
            size=self.size,
        )


class ModelManager:
    def __init__(
        self, settings: Settings, store: ModelStore, runtime_dir: Path, engine_command: Sequence[str] = COMMAND
    ) -> None:
        self._settings = settings
        self._store = store
        self._records = RecordCache(store)
        self._runtime_dir = runtime_dir
        self._engine_command = engine_command
        self._loaded: dict[str, LoadedModel] = {}  # by model id
        self._locks: dict[str, asyncio.Lock] = {}  # by model id: one start or removal at a time
        self._queues: dict[str, asyncio.Lock] = {}  # by model id: who has asked for a lease first gets it first
        self._limits: dict[str, ContextLimit] = {}  # by model id
        self._ending: set[asyncio.Task[None]] = set()  # engines that still hold memory
        self._supervisions: set[asyncio.Task[None]] = set()
        self._socket_numbers = itertools.count(1)
        self._stopping = False

    async def acquire(self, reference: str, keep_alive: float | None, context_size: int | None = None) -> LoadedModel:
        """A lease on the model; it may still be loading, see `wait_ready`. Give it back with `release`.

        With `context_size`, an engine that holds fewer tokens is replaced by one that holds as many, or the most that
        the model can have: as soon as nobody uses it, and until then all further leases wait behind this one. Who
        has waited in vain for PATIENCE seconds gets the engine as it is, and so do those behind.

        Raises:
            ModelNotFound, InvalidReference, ModelLoadFailed, ShuttingDown
        """
        record = self._records.known(reference)
        if record is None:
            record = await asyncio.to_thread(self._records.get, reference)
        wanted = None if context_size is None else possible_context(record, context_size)
        async with self._queues.setdefault(record.id, asyncio.Lock()):
            while (model := await self._grant(record, reference, wanted)) is None:
                smaller = self._loaded.get(record.id)
                if smaller is not None and not await smaller.until_free():
                    logger.warning("%s is in use and keeps its context: %s tokens are not to be had", reference, wanted)
                    wanted = None
        if keep_alive is not None:
            model.keep_alive = keep_alive
        return model

    async def wait_ready(self, model: LoadedModel) -> EngineInfo:
        """Raises ModelLoadFailed with the engine's own reason, Unavailable if it was unloaded meanwhile."""
        return await asyncio.shield(model.ready)

    def release(self, model: LoadedModel) -> None:
        model.give_back()
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
        return tuple(model.describe() for model in self._loaded.values() if model.is_alive)

    def sockets(self) -> tuple[str, ...]:
        """Where the engines of `running` listen, in the same order. To ask one there is no use of its model."""
        return tuple(model.process.spec.socket for model in self._loaded.values() if model.is_alive)

    async def unload(self, references: tuple[str, ...] | None) -> int:
        """End idle engines; busy ones are left alone. Returns how many ended.

        Raises:
            ModelNotFound, InvalidReference
            Conflict: one that was named is in use; the idle ones have ended.
        """
        models = list(self._loaded.values())
        if references is not None:
            records = [await asyncio.to_thread(self._store.get, reference) for reference in references]
            models = [self._loaded[model_id] for model_id in {record.id for record in records} & self._loaded.keys()]
        busy = sorted(model.reference for model in models if model.num_leases > 0)
        ends = [self._end(model) for model in models if model.num_leases == 0]
        await asyncio.gather(*ends)
        if busy and references is not None:
            names = ", ".join(f"'{name}'" for name in busy)
            raise Conflict(f"In use and not unloaded: {names}. Try again when the requests under way are done.")
        return len(ends)

    async def import_model(self, path: Path, reference: str) -> ModelRecord:
        return await asyncio.to_thread(self._store.import_gguf, path, reference, True)

    async def tag(self, source: str, target: str) -> ModelRecord:
        """Raises ModelNotFound, InvalidReference."""
        return await asyncio.to_thread(self._store.tag, source, target)

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
        await asyncio.gather(*self._ending, *self._supervisions)

    def _lock(self, model_id: str) -> asyncio.Lock:
        return self._locks.setdefault(model_id, asyncio.Lock())

    async def _grant(self, record: ModelRecord, reference: str, wanted: int | None) -> LoadedModel | None:
        """A lease, or None as long as a smaller engine is in use. Who gives up waiting leaves no half-made engine."""
        granting = asyncio.ensure_future(self._grant_locked(record, reference, wanted))
        try:
            return await asyncio.shield(granting)
        except asyncio.CancelledError:
            granting.add_done_callback(self._take_back)
            raise

    def _take_back(self, granting: asyncio.Future[LoadedModel | None]) -> None:
        if not granting.cancelled() and granting.exception() is None and (model := granting.result()) is not None:
            self.release(model)

    async def _grant_locked(self, record: ModelRecord, reference: str, wanted: int | None) -> LoadedModel | None:
        # Concurrent first requests start one engine.
        async with self._lock(record.id):
            if self._stopping:
                raise ShuttingDown("The server is stopping.")
            model = self._loaded.get(record.id)
            keep_alive = self._settings.keep_alive
            if wanted is not None:
                wanted = self._limit(record.id).attainable(wanted, time.monotonic())
            if model is not None and model.is_alive and wanted is not None and not model.has_context(wanted):
                if model.num_leases > 0:
                    return None
                logger.info("restarting %s with a context of %d tokens", reference, wanted)
                keep_alive = model.keep_alive
                self._end(model)
                model = None
            if model is None or not model.is_alive:
                model = await self._start(record, reference, wanted, keep_alive)
            model.take()
        return model

    async def _start(
        self, record: ModelRecord, reference: str, context_size: int | None, keep_alive: float
    ) -> LoadedModel:
        process = await self._start_process(record, reference, context_size)
        model = LoadedModel(record, reference, process, keep_alive)
        self._loaded[record.id] = model
        supervision = asyncio.ensure_future(self._supervise(model))
        self._supervisions.add(supervision)
        supervision.add_done_callback(self._supervisions.discard)
        if self._stopping:  # since a moment ago
            await self._end(model)
            raise ShuttingDown("The server is stopping.")
        return model

    async def _start_process(self, record: ModelRecord, reference: str, context_size: int | None) -> EngineProcess:
        files = await asyncio.to_thread(self._store.files, record.id)
        spec = EngineSpec(
            reference=reference,
            weights=tuple(map(str, files.weights)),
            chat_template=str(files.chat_template) if files.chat_template else None,
            socket=str(self._runtime_dir / f"engine-{next(self._socket_numbers)}.sock"),
            settings=self._engine_settings(record, context_size),
            log_level=self._settings.log_level,
        )
        if self._ending:  # the memory they hold is needed
            await asyncio.wait(self._ending)
        try:
            return await EngineProcess.start(spec, self._engine_command)
        except OSError as error:
            raise Unavailable(f"No engine can be started: {error}.") from error

    def _engine_settings(self, record: ModelRecord, context_size: int | None) -> EngineSettings:
        settings = self._settings.engine
        # An engine that chooses for itself takes less where memory is short; one that is told to fails.
        if context_size is None or context_size <= self._usual_context(record):
            return settings
        return msgspec.structs.replace(settings, context_size=context_size)

    def _usual_context(self, record: ModelRecord) -> int:
        """Tokens of an engine that nobody has asked for more."""
        return self._settings.engine.context_size or default_context(record)

    def _limit(self, model_id: str) -> ContextLimit:
        return self._limits.setdefault(model_id, ContextLimit())

    def _end(self, model: LoadedModel) -> asyncio.Task[None]:
        """From now on a new request starts a new engine; the task is done when this one is gone."""
        self._forget(model)
        model.end()
        task = asyncio.ensure_future(model.process.stop())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task

    async def _supervise(self, model: LoadedModel) -> None:
        """See to it that a model loads, and notice when its engine has ended."""
        try:
            await self._load(model)
        except DmrError as error:
            model.settle(error)
        else:
            model.settle()
        if model.ready.exception() is not None:
            self._end(model)
        await model.process.wait_ended()
        self._forget(model)

    async def _load(self, model: LoadedModel) -> None:
        """Wait for the engine. When it cannot have the context it was started for, one with less takes its place.

        Raises what starting that one raises.
        """
        limit = self._limit(model.model_id)
        while isinstance(error := await self._loading_error(model), ModelLoadFailed):
            size = model.planned_context
            if size <= self._usual_context(model.record) or model.is_ended():
                return
            limit.fails(size, time.monotonic(), error.fitting_context or 0)
            smaller = limit.attainable(size, time.monotonic())
            logger.warning("%s did not load with a context of %d tokens: it gets less", model.reference, size)
            await model.process.stop()
            if model.is_ended():
                return
            model.process = await self._start_process(model.record, model.reference, smaller)
            if model.is_ended():  # before it could be seen that there is one more
                await self._end(model)
        if not model.process.has_failed:
            limit.works(model.planned_context)

    async def _loading_error(self, model: LoadedModel) -> BaseException | None:
        """Why the engine has not loaded, within the time that a model may take; None if it has."""
        seconds = self._settings.load_timeout
        ready = model.process.ready
        await asyncio.wait({ready}, timeout=seconds)
        if not ready.done():
            model.process.give_up(
                ModelLoadFailed(f"The model '{model.reference}' did not load within {seconds:g} seconds.")
            )
        return ready.exception()

    def _forget(self, model: LoadedModel) -> None:
        if self._loaded.get(model.model_id) is model:
            del self._loaded[model.model_id]
