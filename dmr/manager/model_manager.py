"""Which models are loaded, for whom, and for how long. Runs on one event loop, so its state needs no locks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path

from msgspec import UNSET

from dmr.config import Settings
from dmr.errors import Conflict, DmrError, InternalError, ShuttingDown
from dmr.manager.admission import Admission, AdmissionRules
from dmr.manager.choices import EngineChoices
from dmr.manager.configurations import Configurations
from dmr.manager.context_limits import possible_context
from dmr.manager.engine_process import COMMAND
from dmr.manager.lifecycle import Lifecycles
from dmr.manager.loaded_model import LoadedModel
from dmr.manager.loader import Loader
from dmr.store.record_cache import RecordCache
from dmr.store.store import ModelStore
from dmr.types import (
    ConfigurationChange,
    ConfiguredModel,
    ManagerStatistics,
    Mode,
    ModelRecord,
    Removal,
    RunningModel,
)
from dmr.wire import EngineInfo

EVICTION_INTERVAL = 1.0  # seconds between looks for idle models
CANCEL_AFTER = 2.0  # seconds that a load goes on for nobody: clients that try again find it under way

logger = logging.getLogger("dmr.manager")


class ModelManager:
    def __init__(
        self, settings: Settings, store: ModelStore, runtime_dir: Path, engine_command: Sequence[str] = COMMAND
    ) -> None:
        """Raises StoreError: how models are configured cannot be read."""
        self._settings = settings
        self.configurations = Configurations(store)
        self._store = store
        self._records = RecordCache(store)
        self._loaded: dict[str, LoadedModel] = {}  # by model id
        self._retired: set[LoadedModel] = set()  # of which others have taken the place, until their last lease ends
        self._ending: set[LoadedModel] = set()  # whose engines still hold memory
        self._locks: dict[str, asyncio.Lock] = {}  # by model id: a model is not given out while it is removed
        self._queues: dict[str, asyncio.Lock] = {}  # by model id: who has asked for a lease first gets it first
        self._supervisions: set[asyncio.Task[None]] = set()
        self._lifecycles = Lifecycles()
        self._choices = EngineChoices(settings, self.configurations)
        rules = AdmissionRules(settings.memory_limit, settings.max_loaded_models, settings.memory_wait)
        self._admission = Admission(
            rules,
            lambda: [*self._loaded.values(), *self._retired, *self._ending],
            lambda model: self._end(model, "memory"),
        )
        self._loader = Loader(
            settings, self._choices, store, runtime_dir, engine_command, self._admission, self._ending
        )
        self._stopping = False

    # --- leases ------------------------------------------------------------------------------------------------------

    async def acquire(
        self, reference: str, keep_alive: float | None, context_size: int | None = None, preload: bool = False
    ) -> LoadedModel:
        """A lease on the model; it may still be loading, see `wait_ready`. Give it back with `release`.

        With `context_size`, an engine that holds fewer tokens is replaced by one that holds as many, or the most that
        the model can have: as soon as nobody uses it, and until then all further leases wait behind this one. Who
        has waited in vain for PATIENCE seconds gets the engine as it is, and so do those behind. An engine that is
        outdated is waited for in the same way.

        `preload`: it is loaded even if nobody waits for it any more.

        Raises:
            ModelNotFound, InvalidReference, ShuttingDown
            EngineCrashed: its engines have crashed, and it is too early for another one.
        """
        record = self._records.known(reference)
        if record is None:
            record = await asyncio.to_thread(self._records.get, reference)
        wanted = None if context_size is None else possible_context(record, context_size)
        async with self._queues.setdefault(record.id, asyncio.Lock()):
            takes_any = False
            while (model := await self._grant(record, reference, wanted, takes_any)) is None:
                present = self._loaded.get(record.id)
                if present is not None and not await present.until_free():
                    logger.warning("%s is in use and stays as it is for now (wished: %s tokens)", reference, wanted)
                    wanted, takes_any = None, True
        if keep_alive is not None:
            model.keep_alive = keep_alive
            self._admission.notify()
        model.is_preloaded |= preload
        return model

    async def wait_ready(self, model: LoadedModel) -> EngineInfo:
        """Raises ModelLoadFailed with the engine's own reason, Unavailable if it was unloaded meanwhile."""
        return await asyncio.shield(model.ready)

    def release(self, model: LoadedModel) -> None:
        model.give_back()
        if model.num_leases == 0 and (model.is_outdated or model in self._retired):
            self._end(model, "replaced")
        elif model.is_expired(model.idle_since):
            self._end(model, "idle")
        elif model.is_unwanted:
            asyncio.get_running_loop().call_later(CANCEL_AFTER, self._cancel_unwanted, model)
        if model.num_leases == 0:
            self._admission.notify()

    def _cancel_unwanted(self, model: LoadedModel) -> None:
        # Whoever came and left again meanwhile has started a wait of its own.
        if model.is_unwanted and not model.is_ended and time.monotonic() - model.idle_since >= CANCEL_AFTER * 0.99:
            logger.info("%s is not loaded any further: nobody waits for it", model.reference)
            self._end(model, "cancelled")

    async def _grant(
        self, record: ModelRecord, reference: str, wanted: int | None, takes_any: bool
    ) -> LoadedModel | None:
        """A lease, or None as long as an engine is in use that will not do. Concurrent first requests start one.

        `takes_any`: an outdated one will do.
        """
        async with self._locks.setdefault(record.id, asyncio.Lock()):
            if self._stopping:
                raise ShuttingDown("The server is stopping.")
            model = self._loaded.get(record.id)
            keep_alive = self._choices.keep_alive(record)
            if wanted is not None:
                wanted = self._loader.limit(record.id).attainable(wanted, time.monotonic())
            is_small = model is not None and wanted is not None and not model.has_context(wanted)
            if model is not None and model.is_alive and (is_small or (model.is_outdated and not takes_any)):
                if model.num_leases > 0:
                    return None
                logger.info("restarting %s, with %s", reference, f"{wanted} tokens" if is_small else "other settings")
                keep_alive = model.keep_alive
                self._end(model, "replaced")
                model = None
            if model is None or not model.is_alive:
                model = self._begin(record, reference, wanted, keep_alive)
            model.take()
            self._lifecycles.of(record.id, reference).reference = reference
            return model

    def _begin(self, record: ModelRecord, reference: str, wanted: int | None, keep_alive: float) -> LoadedModel:
        """Raises EngineCrashed: it is too early after a crash; ModelLoadFailed: its draft model has gone."""
        self._lifecycles.of(record.id, reference).crashes.check(reference, time.monotonic())
        plan = self._choices.plan(record)
        settings = self._choices.engine_settings(record, plan, wanted)
        model = LoadedModel(record, reference, plan, settings, keep_alive)
        model.can_be_pinned = self._choices.can_be_pinned(record)
        self._loaded[record.id] = model
        supervision = asyncio.ensure_future(self._supervise(model))
        self._supervisions.add(supervision)
        supervision.add_done_callback(self._supervisions.discard)
        return model

    # --- from the beginning of an engine to its end ------------------------------------------------------------------

    async def _supervise(self, model: LoadedModel) -> None:
        """See to it that a model loads, and that its engine is gone at last."""
        lifecycle = self._lifecycles.of(model.model_id, model.reference)
        try:
            model.held = await asyncio.to_thread(self._store.hold, model.model_id)
            seconds = await self._loader.load(model)
        except Exception as error:
            model.fail(_told(error, model))
            lifecycle.num_load_failures += not model.is_ended
        else:
            assert model.process is not None
            lifecycle.loaded(seconds)
            model.succeed(model.process.ready.result())
            self._admission.notify()
            await self._until_its_end(model)
        await self._bury(model)

    async def _until_its_end(self, model: LoadedModel) -> None:
        assert model.process is not None
        try:
            await model.unless_ended(model.process.wait_ended())
        except DmrError:
            return

    async def _bury(self, model: LoadedModel) -> None:
        self._forget(model)
        process = model.process
        if process is not None:
            self._ending.add(model)
            if process.has_crashed:
                now = time.monotonic()
                uptime = now - model.ready_at if model.ready_at else 0.0
                crashes = self._lifecycles.of(model.model_id, model.reference).crashes
                crashes.crashed(process.epitaph, uptime, now)
            await process.stop()
        self._ending.discard(model)
        model.held.close()
        model.set_gone()
        self._admission.notify()

    def _end(self, model: LoadedModel, reason: str) -> None:
        """From now on a new request starts a new engine. `reason`: one of EVICTION_REASONS; see `wait_gone`."""
        self._forget(model)
        if not model.is_ended:
            self._lifecycles.of(model.model_id, model.reference).evictions[reason] += 1
        if not model.is_gone:
            self._ending.add(model)
        model.end()

    def _forget(self, model: LoadedModel) -> None:
        self._retired.discard(model)
        if self._loaded.get(model.model_id) is model:
            del self._loaded[model.model_id]

    async def evict_idle(self) -> None:
        """Runs for ever: ends the engines whose keep-alive is over."""
        while True:
            await asyncio.sleep(EVICTION_INTERVAL)
            for model in list(self._loaded.values()):
                if model.is_expired(time.monotonic()):
                    logger.info("unloading %s: idle for %g s", model.reference, model.keep_alive)
                    self._end(model, "idle")

    # --- how models are configured -----------------------------------------------------------------------------------

    async def configure(self, reference: str, mode: Mode | None, change: ConfigurationChange) -> ConfiguredModel:
        """Keep what the change names, and have the model loaded with it.

        An idle engine is replaced at once. One in use answers on: where there is memory a second one starts beside it
        for whoever comes next, else the next ones wait until it is idle, as for a larger context.

        Raises:
            ModelNotFound, InvalidReference, InvalidRequest, Unsupported, Conflict, StoreError
        """
        record = await asyncio.to_thread(self._store.get, reference)
        configured = await asyncio.to_thread(self.configurations.change, record, reference, mode, change)
        await self._apply(record, reference, change.keep_alive is not UNSET, preloads=True)
        return configured

    async def reset_configuration(self, reference: str | None, mode: Mode | None) -> int:
        """Forget what was configured, for a model (None = all); returns for how many modes. Raises as `configure`."""
        record = None if reference is None else await asyncio.to_thread(self._store.get, reference)
        count = await asyncio.to_thread(self.configurations.reset, record, mode)
        for model in list(self._loaded.values()) if count else ():
            is_meant = record is None or model.model_id == record.id  # others only if they ran as the meant one did
            await self._apply(model.record, model.reference, is_meant, preloads=False)
        return count

    async def _apply(self, record: ModelRecord, reference: str, sets_keep_alive: bool, *, preloads: bool) -> None:
        """Bring what is loaded in line with how the model is configured now. What goes wrong is only logged."""
        self._lifecycles.forgive(record.id)
        async with self._locks.setdefault(record.id, asyncio.Lock()):
            keep_alive = self._choices.keep_alive(record)
            model = self._loaded.get(record.id)
            if model is not None and sets_keep_alive:
                model.keep_alive, model.can_be_pinned = keep_alive, self._choices.can_be_pinned(record)
                self._admission.notify()
            try:
                is_wanted = preloads if model is None else await self._replace(model)
                keep_alive = keep_alive if model is None else model.keep_alive
                if is_wanted and keep_alive != 0 and not self._stopping:
                    self._begin(record, reference, None, keep_alive).is_preloaded = True
            except DmrError as error:
                logger.warning("%s is configured, but not loaded: %s", reference, error.message)

    async def _replace(self, model: LoadedModel) -> bool:
        """Whether another engine is to take its place now: it is not as configured, and out of the way."""
        plan = self._choices.plan(model.record)
        if plan == model.plan or not model.is_alive:
            model.is_outdated = False
            return not model.is_alive
        self._loader.forget(model.model_id)  # other settings, other limits
        if model.num_leases > 0:
            settings = self._choices.engine_settings(model.record, plan, None)
            beside = LoadedModel(model.record, model.reference, plan, settings, model.keep_alive)
            # Two engines of one model are enough: whoever changes it again waits until one is idle.
            has_two = any(each.model_id == model.model_id for each in self._retired)
            if has_two or not await self._loader.has_room_beside(beside):
                model.is_outdated = True
                return False
        if model.num_leases > 0:
            self._forget(model)
            self._retired.add(model)
            logger.info("%s gets a second engine, with other settings, until the first is idle", model.reference)
        else:
            self._end(model, "replaced")
        return True

    # --- what is asked for -------------------------------------------------------------------------------------------

    def running(self) -> tuple[RunningModel, ...]:
        return tuple(model.describe() for model in self._engines() if model.is_alive)

    def sockets(self) -> tuple[str, ...]:
        """Where the engines of `running` listen, in the same order. To ask one there is no use of its model."""
        return tuple(model.socket for model in self._engines() if model.is_alive)

    def _engines(self, model_ids: Collection[str] | None = None) -> list[LoadedModel]:
        """Those that answer or will, of these models (None = all); the ending ones do not."""
        engines = [*self._loaded.values(), *self._retired]
        return [model for model in engines if model_ids is None or model.model_id in model_ids]

    def statistics(self) -> ManagerStatistics:
        return self._lifecycles.statistics(self._loaded, self._admission.free_bytes())

    async def unload(self, references: tuple[str, ...] | None) -> int:
        """End idle engines; busy ones are left alone. Returns how many ended.

        Models that were named may start at once again, however often they have crashed.

        Raises:
            ModelNotFound, InvalidReference
            Conflict: one that was named is in use; the idle ones have ended.
        """
        models = self._engines()
        if references is not None:
            records = [await asyncio.to_thread(self._store.get, reference) for reference in references]
            models = self._engines({record.id for record in records})
            for record in records:
                self._lifecycles.forgive(record.id)
        busy = sorted(model.reference for model in models if model.num_leases > 0)
        idle = [model for model in models if model.num_leases == 0]
        await self._end_all(idle, "unload")
        if busy and references is not None:
            names = ", ".join(f"'{name}'" for name in busy)
            raise Conflict(f"In use and not unloaded: {names}. Try again when the requests under way are done.")
        return len(idle)

    async def remove(self, reference: str, force: bool) -> Removal:
        """Remove a name or a model. A model in use stays, unless `force`.

        Raises:
            ModelNotFound, Conflict
        """
        record = await asyncio.to_thread(self._store.get, reference)
        async with self._locks.setdefault(record.id, asyncio.Lock()):
            if await asyncio.to_thread(self._store.would_delete, reference, force):
                engines = self._engines({record.id})
                if any(model.num_leases > 0 for model in engines) and not force:
                    raise Conflict(f"The model '{reference}' is in use; remove it with force, or wait.")
                await self._end_all(engines, "removed")  # the store lets no model go that somebody holds
            removal = await asyncio.to_thread(self._store.remove, reference, force)
        if removal.deleted:
            self._lifecycles.forget(record.id)
            self._loader.forget(record.id)
        return removal

    @contextlib.asynccontextmanager
    async def without_engines(self, model_ids: Sequence[str], force: bool) -> AsyncIterator[None]:
        """Inside, none of these models is loaded. Raises Conflict: one is in use, and not `force`."""
        async with contextlib.AsyncExitStack() as held:
            for model_id in sorted(set(model_ids)):
                await held.enter_async_context(self._locks.setdefault(model_id, asyncio.Lock()))
            models = self._engines({*model_ids})
            busy = ", ".join(sorted(f"'{model.reference}'" for model in models if model.num_leases > 0))
            if busy and not force:
                raise Conflict(f"In use: {busy}. Wait until the requests under way are done, or use force.")
            await self._end_all(models, "removed")
            yield
            for model_id in model_ids:
                self._lifecycles.forget(model_id)
                self._loader.forget(model_id)

    async def stop(self) -> None:
        """End all engines."""
        self._stopping = True
        for model in self._engines():
            self._end(model, "unload")
        await asyncio.gather(*self._supervisions)

    async def _end_all(self, models: Sequence[LoadedModel], reason: str) -> None:
        """Returns when they are gone."""
        for model in models:
            self._end(model, reason)
        await asyncio.gather(*(model.wait_gone() for model in models))


def _told(error: Exception, model: LoadedModel) -> DmrError:
    if isinstance(error, DmrError):
        return error
    logger.error("%s could not be loaded", model.reference, exc_info=error)
    return InternalError("The model manager failed.")
