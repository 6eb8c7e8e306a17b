"""From a model that somebody wants to an engine that is ready."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from dmr.config import Settings
from dmr.errors import DmrError, ModelLoadFailed, Unavailable
from dmr.manager.admission import Admission
from dmr.manager.choices import EngineChoices
from dmr.manager.context_limits import ContextLimit
from dmr.manager.engine_process import EngineProcess
from dmr.manager.graphics import Graphics
from dmr.manager.loaded_model import LoadedModel
from dmr.manager.memory_need import MemoryNeed, memory_need
from dmr.store.store import ModelFiles, ModelStore
from dmr.wire import EngineSpec

logger = logging.getLogger("dmr.manager")


class Loader:
    def __init__(
        self,
        settings: Settings,
        choices: EngineChoices,
        store: ModelStore,
        runtime_dir: Path,
        engine_command: Sequence[str],
        admission: Admission,
        ending: set[LoadedModel],
    ) -> None:
        """`ending`: engines that still hold memory that others wait for."""
        self._settings = settings
        self._choices = choices
        self._store = store
        self._runtime_dir = runtime_dir
        self._engine_command = engine_command
        self._admission = admission
        self._ending = ending
        self._graphics = Graphics()
        self._limits: dict[str, ContextLimit] = {}  # by model id
        self._socket_numbers = itertools.count(1)

    def limit(self, model_id: str) -> ContextLimit:
        return self._limits.setdefault(model_id, ContextLimit())

    def forget(self, model_id: str) -> None:
        self._limits.pop(model_id, None)

    async def load(self, model: LoadedModel) -> float:
        """Bring it an engine that is ready; returns the seconds that this engine took.

        An engine that finds too little memory is started again after an idle one has gone, and one that cannot have the
        context it was started for is followed by one with less.

        Raises:
            ModelLoadFailed, StoreError, Unavailable
        """
        files = await model.unless_ended(asyncio.to_thread(self._store.files, model.record.id))
        while True:
            try:
                await self._admit(model, files)
                began = time.monotonic()
                await self._start(model, files)
                await self._until_loaded(model)
            except ModelLoadFailed as error:
                if model.is_ended or not await self._can_try_again(model, error):
                    raise
            else:
                self.limit(model.model_id).works(model.planned_context)
                return time.monotonic() - began

    async def has_room_beside(self, model: LoadedModel) -> bool:
        """Whether one more engine would fit, of this model as it is to be, without anybody's going."""
        try:
            files = await asyncio.to_thread(self._store.files, model.record.id)
            need = await self._need(model, files)
        except (DmrError, OSError):
            return False
        # Of a device's memory nobody knows; where nothing is to be counted there is always room.
        is_known = need is not None or self._settings.memory_limit < 0
        return is_known and self._admission.has_room(need)

    async def _admit(self, model: LoadedModel, files: ModelFiles) -> None:
        need = await model.unless_ended(self._need(model, files))
        await model.unless_ended(self._admission.admit(model, need))
        model.context_bytes = model.settings.context_bytes
        if need is not None and model.settings.context_size == 0 and not model.context_bytes:
            model.context_bytes = self._admission.granted_context_bytes(model, need)

    async def _need(self, model: LoadedModel, files: ModelFiles) -> MemoryNeed | None:
        """None: its memory is not the host's."""
        if self._settings.memory_limit < 0 or (
            self._settings.memory_limit == 0 and await self._graphics.computes(model.settings)
        ):
            return None
        usual = self._choices.usual_context(model.record, model.plan)
        return await asyncio.to_thread(memory_need, files.weights, model.settings, usual, files.mmproj)

    async def _start(self, model: LoadedModel, files: ModelFiles) -> None:
        """The process starts while those that make room for it are still ending; it loads nothing before."""
        spec = self._spec(model, files)
        try:
            process = await EngineProcess.spawn(spec, self._engine_command)
        except OSError as error:
            raise Unavailable(f"No engine can be started: {error}.") from error
        model.process = process
        try:
            await model.unless_ended(self._until_room())
        except DmrError:
            await process.stop()
            raise
        owed = self._admission.owed_to_others(model)
        process.spec = msgspec.structs.replace(spec, reserved_bytes=owed)
        await process.begin()

    async def _until_room(self) -> None:
        await asyncio.gather(*(model.wait_gone() for model in self._ending))

    def _spec(self, model: LoadedModel, files: ModelFiles) -> EngineSpec:
        return EngineSpec(
            reference=model.reference,
            weights=tuple(map(str, files.weights)),
            chat_template=str(files.chat_template) if files.chat_template else None,
            socket=str(self._runtime_dir / f"engine-{next(self._socket_numbers)}.sock"),
            settings=msgspec.structs.replace(model.settings, context_bytes=model.context_bytes),
            log_level=model.plan.log_level or self._settings.log_level,
            embedding=model.plan.embedding,
            projector=str(files.mmproj) if files.mmproj else None,
            reranking=model.plan.reranking,
        )

    async def _until_loaded(self, model: LoadedModel) -> None:
        """Wait for the engine, within the time that a model may take.

        Raises ModelLoadFailed with the reason, Unavailable when it was ended meanwhile.
        """
        assert model.process is not None
        ready, seconds = model.process.ready, self._settings.load_timeout
        await model.unless_ended(asyncio.wait({ready}, timeout=seconds))
        if not ready.done():
            error = ModelLoadFailed(f"The model '{model.reference}' did not load within {seconds:g} seconds.")
            model.process.give_up(error)
        ready.result()

    async def _can_try_again(self, model: LoadedModel, error: ModelLoadFailed) -> bool:
        """After a failure, if there is something to do about it: then it has been done."""
        process, lacks_memory = model.process, error.needed_bytes is not None
        if process is not None:
            await process.stop()
        size = model.planned_context
        # Where it was not let in nobody was found who could go.
        if not (lacks_memory and process is not None and self._admission.evict_one(model)):
            if size <= self._choices.usual_context(model.record, model.plan):
                return False
            limit = self.limit(model.model_id)
            limit.fails(size, time.monotonic(), error.fitting_context or 0)
            smaller = limit.attainable(size, time.monotonic())
            logger.warning("%s did not load with a context of %d tokens: it gets less", model.reference, size)
            model.settings = self._choices.engine_settings(model.record, model.plan, smaller)
        model.process, model.claim = None, 0
        return not model.is_ended
