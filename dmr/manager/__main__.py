"""`python -m dmr.manager --beat-fd N`: listens on `DMR_RUNTIME_DIR`/manager.sock until its standard input closes.

Meanwhile it says once a second, through the pipe that it was given, that it lives.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dmr.config import Settings, read_settings
from dmr.config.outside import unknown_variables
from dmr.errors import DmrError, InternalError
from dmr.log_file import ENGINE_LOG, SERVICE_LOG, add_log_file, engine_output
from dmr.manager.beats import beat_for_ever
from dmr.manager.engine_process import COMMAND
from dmr.manager.loaded_model import LoadedModel
from dmr.manager.model_manager import ModelManager
from dmr.manager.store_changes import StoreChanges
from dmr.manager.transfers import Transfers
from dmr.store.archive import ReceivedArchive
from dmr.store.configurations import ConfigurationFile
from dmr.store.store import ModelStore
from dmr.types.preparation import prepare_types
from dmr.wire import (
    AcquireLease,
    AdoptModel,
    ConfigurationReset,
    Configured,
    ConfigureModel,
    Counted,
    CreateModel,
    Imported,
    ImportModel,
    LeaseGranted,
    ListRunning,
    ListStatistics,
    LoadProgress,
    ManagerCommand,
    ManagerReply,
    Pong,
    PullModel,
    PurgeModels,
    PushModel,
    Removed,
    RemoveModel,
    RepackageModel,
    ResetConfiguration,
    Running,
    Tagged,
    TagModel,
    TransferDone,
    TransferStep,
    Unloaded,
    UnloadModels,
    WireError,
    manager_command_decoder,
    pack,
    read_frame,
    until_closed,
)

SOCKET_NAME = "manager.sock"
PROGRESS_INTERVAL = 0.5  # seconds between two lines about a load

logger = logging.getLogger("dmr.manager")


class ManagerServer:
    """One connection is one command; a lease lasts as long as its connection."""

    def __init__(self, manager: ModelManager, transfers: Transfers, changes: StoreChanges) -> None:
        self._manager = manager
        self._transfers = transfers
        self._changes = changes

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            command = await read_frame(reader, manager_command_decoder)
            if isinstance(command, AcquireLease):
                await self._lease(command, reader, writer)
            elif isinstance(command, (PullModel, PushModel, CreateModel)):
                await self._transfer(command, reader, writer)
            elif command is not None:
                writer.write(pack(await self._obey(command)))
        except DmrError as error:
            writer.write(pack(WireError.of(error)))
        except Exception:
            logger.exception("a command failed")
            writer.write(pack(WireError.of(InternalError("The model manager failed."))))
        finally:
            with contextlib.suppress(OSError):
                writer.close()
                await writer.wait_closed()

    async def _obey(self, command: ManagerCommand) -> ManagerReply:
        if isinstance(command, ImportModel):
            return Imported(await self._changes.import_model(Path(command.path), command.reference))
        if isinstance(command, TagModel):
            return Tagged(await self._changes.tag(command.source, command.target))
        if isinstance(command, AdoptModel):
            archive = ReceivedArchive(command.manifest, command.name)
            return Tagged(await self._changes.adopt(archive, command.reference))
        if isinstance(command, RepackageModel):
            return Tagged(await self._changes.repackage(command.base, command.wish))
        if isinstance(command, PurgeModels):
            return Removed(await self._changes.purge(command.force))
        if isinstance(command, RemoveModel):
            return Removed(await self._manager.remove(command.reference, command.force))
        if isinstance(command, ConfigureModel):
            return Configured(await self._manager.configure(command.reference, command.mode, command.change))
        if isinstance(command, ResetConfiguration):
            return ConfigurationReset(await self._manager.reset_configuration(command.reference, command.mode))
        if isinstance(command, UnloadModels):
            return Unloaded(await self._manager.unload(command.references))
        if isinstance(command, ListRunning):
            return Running(self._manager.running(), self._manager.sockets())
        if isinstance(command, ListStatistics):
            return Counted(self._manager.statistics())
        return Pong()

    async def _transfer(
        self,
        command: PullModel | PushModel | CreateModel,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        if isinstance(command, CreateModel):
            steps = self._transfers.create(command.new)
        elif isinstance(command, PullModel):
            steps = self._transfers.pull(command.reference, command.token, command.insecure, command.private)
        else:
            steps = self._transfers.push(
                command.reference, command.target, command.token, command.insecure, command.private
            )
        gone = asyncio.ensure_future(until_closed(reader))
        try:
            async with contextlib.aclosing(steps):
                while not gone.done():
                    following = asyncio.ensure_future(anext(steps, None))
                    changes: set[asyncio.Future[Any]] = {following, gone}
                    await asyncio.wait(changes, return_when=asyncio.FIRST_COMPLETED)
                    if not following.done():
                        following.cancel()
                        await asyncio.wait({following})
                        return
                    step = following.result()
                    writer.write(pack(TransferDone() if step is None else TransferStep(step)))
                    if step is None:
                        return
        finally:
            gone.cancel()

    async def _lease(self, command: AcquireLease, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        gone = asyncio.ensure_future(until_closed(reader))
        try:
            model = await self._acquire(command, gone)
            if model is not None:
                try:
                    await self._hold(model, gone, writer)
                finally:
                    self._manager.release(model)
        finally:
            gone.cancel()

    async def _acquire(self, command: AcquireLease, gone: asyncio.Future[None]) -> LoadedModel | None:
        """A lease, or None if who wanted it has left before: it may have to wait until others are done."""
        acquiring = asyncio.ensure_future(
            self._manager.acquire(command.reference, command.keep_alive, command.context_size, command.preload)
        )
        either: set[asyncio.Future[Any]] = {acquiring, gone}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not acquiring.done():
            acquiring.cancel()
            await asyncio.wait({acquiring})
        return None if acquiring.cancelled() else acquiring.result()

    async def _hold(self, model: LoadedModel, gone: asyncio.Future[None], writer: asyncio.StreamWriter) -> None:
        await self._report_until_ready(model, gone, writer)
        if not gone.done():
            info = await self._manager.wait_ready(model)
            writer.write(pack(LeaseGranted(model.model_id, model.socket, info)))
            await self._until_over(model, gone)
            if not gone.done():
                writer.write(pack(WireError.of(model.parting_words())))
                await gone

    async def _until_over(self, model: LoadedModel, gone: asyncio.Future[None]) -> None:
        """Until the lease is given back, or the engine is no more."""
        engine_gone = asyncio.ensure_future(model.wait_gone())
        try:
            await asyncio.wait({gone, engine_gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            engine_gone.cancel()

    async def _report_until_ready(
        self, model: LoadedModel, gone: asyncio.Future[None], writer: asyncio.StreamWriter
    ) -> None:
        while model.is_loading and not gone.done():
            changes: set[asyncio.Future[Any]] = {model.ready, gone}
            await asyncio.wait(changes, timeout=PROGRESS_INTERVAL, return_when=asyncio.FIRST_COMPLETED)
            if model.is_loading:
                writer.write(pack(LoadProgress(model.progress)))


async def run_manager(
    settings: Settings, runtime_dir: Path, engine_command: Sequence[str] = COMMAND, beat_pipe: int | None = None
) -> None:
    """Serve until SIGTERM, or until standard input closes: then whoever started us is gone."""
    prepare_types()
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    life_line = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(life_line), sys.stdin)
    store = ModelStore(settings.models_path, settings.registry.default)
    manager = ModelManager(settings, store, runtime_dir, engine_command)
    transfers = Transfers(store, settings, os.environ)
    path = runtime_dir / SOCKET_NAME
    path.unlink(missing_ok=True)
    changes = StoreChanges(store, manager)
    listener = await asyncio.start_unix_server(ManagerServer(manager, transfers, changes).serve, path, backlog=1024)
    eviction = asyncio.ensure_future(manager.evict_idle())
    collection = asyncio.ensure_future(changes.collect_for_ever())
    cut = asyncio.ensure_future(until_closed(life_line))
    cut.add_done_callback(lambda _: stopped.set())
    # Until the loop itself ends: also while engines are ended, it is not to be taken for one that hangs.
    beating = None if beat_pipe is None else asyncio.ensure_future(beat_for_ever(beat_pipe))
    await stopped.wait()
    eviction.cancel()
    collection.cancel()
    listener.close()
    await transfers.stop()
    await manager.stop()
    path.unlink(missing_ok=True)
    if beating is not None:
        beating.cancel()


def main(beat_pipe: int | None = None) -> int:
    settings = read_settings()
    logging.basicConfig(level=settings.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    if settings.log_dir is not None:
        add_log_file(logging.getLogger(), settings.log_dir / SERVICE_LOG)
        add_log_file(engine_output, settings.log_dir / ENGINE_LOG, form="%(message)s")
    for name in unknown_variables(os.environ, (engine.api_key_env for engine in settings.upstreams)):
        logger.warning("%s is set, but there is no such setting", name)
    try:
        ModelStore(settings.models_path).models()
        ConfigurationFile(settings.models_path).read()
    except DmrError as error:
        logger.error("MODELS_PATH=%s cannot be used: %s", settings.models_path, error.message)
        return 1
    if settings.runtime_dir is None:
        logger.error("DMR_RUNTIME_DIR is not set; the manager is started by the server, not by hand.")
        return 2
    asyncio.run(run_manager(settings, settings.runtime_dir, beat_pipe=beat_pipe))
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--beat-fd", type=int)
    sys.exit(main(parser.parse_args().beat_fd))
