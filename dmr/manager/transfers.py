"""Pulls, pushes and the making of models: each in a thread of its own, one for all who ask for the same.

Lives on one event loop.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import msgspec

from dmr.config import Settings
from dmr.errors import DmrError, InternalError, ShuttingDown
from dmr.manager.places import Places
from dmr.manager.quantizer import Quantizer
from dmr.store.conversion import Converter
from dmr.store.create import create_model
from dmr.store.draft import Quantize
from dmr.store.pull import RegistryOptions, Report
from dmr.store.registry.transport import Cancelled, TransferCancelled
from dmr.store.store import ModelStore
from dmr.store.transfers import pull, push, same_model
from dmr.store.uploads import Uploads
from dmr.types import NewModel, TransferProgress

MAX_TRANSFERS = 4  # at the same time; more wait
MAX_CREATIONS = 2  # beside them
MAX_THREADS = 64  # of those that work, that wait, and that find out that there is nothing to do

logger = logging.getLogger("dmr.manager")

Work = Callable[[Report, Cancelled], None]


class _Key(NamedTuple):
    """Who asks for the same with the same rights shares one transfer."""

    kind: str
    source: str
    target: str
    token: str | None
    insecure: bool
    private: tuple[str, ...] | None


class _Follower:
    """What one who follows a transfer has not been told yet; of each layer the latest only, for those who are slow."""

    def __init__(self, known: Iterable[TransferProgress]) -> None:
        self._messages: list[TransferProgress] = []
        self._layers: dict[str, TransferProgress] = {}
        self._is_over = False
        self._has_news = asyncio.Event()
        for progress in known:
            self.tell(progress)

    def tell(self, progress: TransferProgress) -> None:
        if progress.message:
            self._messages.append(progress)
        else:
            self._layers[progress.layer] = progress
        self._has_news.set()

    def end(self) -> None:
        self._is_over = True
        self._has_news.set()

    async def news(self) -> AsyncGenerator[TransferProgress, None]:
        """All of it, as it comes, until the transfer is over."""
        while True:
            await self._has_news.wait()
            self._has_news.clear()
            is_over, news = self._is_over, [*self._messages, *self._layers.values()]
            self._messages.clear()
            self._layers.clear()
            for progress in news:
                yield progress
            if is_over:
                return


class _Transfer:
    """One running transfer and those who follow it. When the last one leaves it is cancelled."""

    def __init__(self) -> None:
        self.followers: set[_Follower] = set()
        self.latest: dict[str, TransferProgress] = {}  # by layer: a newcomer is told at once how far it is
        self.error: DmrError | None = None
        self.is_over = False
        self.cancelled = threading.Event()
        self.task: asyncio.Task[None] | None = None

    def publish(self, progress: TransferProgress) -> None:
        self.latest[progress.layer] = progress
        for follower in self.followers:
            follower.tell(progress)

    def end(self, error: DmrError | None) -> None:
        self.error = error
        self.is_over = True
        for follower in self.followers:
            follower.end()


class Transfers:
    def __init__(
        self, store: ModelStore, settings: Settings, environ: Mapping[str, str], quantize: Quantize | None = None
    ) -> None:
        """`environ`: where credentials are looked for."""
        self._store = store
        self._settings = settings
        self._environ = environ
        self._running: dict[_Key, _Transfer] = {}
        self._quantize = quantize or Quantizer()
        self._road, self._workshop = Places(MAX_TRANSFERS), Places(MAX_CREATIONS)
        # Of its own: work that takes hours must not hold up whoever looks something up in the store.
        self._threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="transfer")
        Uploads(store.root).sweep()
        self._is_stopping = False

    def pull(
        self, reference: str, token: str | None, insecure: bool, private: tuple[str, ...] | None = None
    ) -> AsyncGenerator[TransferProgress, None]:
        """Ends when the model is in the store. Leaving early cancels, unless others follow.

        `private`: the registries at private addresses that may be asked; None = any.

        Raises: as `dmr.store.transfers.pull`
        """
        options = self._options(token, insecure, private)

        def work(report: Report, cancelled: Cancelled) -> None:
            converter = Converter(self._quantize)
            pull(self._store, reference, options, report, cancelled, self._road.one(cancelled), converter)

        return self._follow(_Key("pull", self._same(reference), "", token, insecure, private), work)

    def push(
        self,
        reference: str,
        target: str,
        token: str | None,
        insecure: bool,
        private: tuple[str, ...] | None = None,
    ) -> AsyncGenerator[TransferProgress, None]:
        options = self._options(token, insecure, private)

        def work(report: Report, cancelled: Cancelled) -> None:
            with self._road.one(cancelled):
                push(self._store, reference, target, options, report, cancelled)

        return self._follow(_Key("push", self._same(reference), self._same(target), token, insecure, private), work)

    def create(self, new: NewModel) -> AsyncGenerator[TransferProgress, None]:
        """Ends when the model is in the store. Leaving early cancels, unless others follow.

        Raises: as `dmr.store.create.create_model`
        """

        def work(report: Report, cancelled: Cancelled) -> None:
            with self._workshop.one(cancelled):
                create_model(self._store, new, self._quantize, report, cancelled)

        return self._follow(_Key("create", msgspec.json.encode(new).decode(), "", None, False, ()), work)

    async def stop(self) -> None:
        """Cancel what is under way; what has come so far stays on the disk."""
        self._is_stopping = True
        running = list(self._running.values())
        for transfer in running:
            transfer.cancelled.set()
        await asyncio.gather(*(transfer.task for transfer in running if transfer.task), return_exceptions=True)
        self._threads.shutdown(wait=False)

    def _options(self, token: str | None, insecure: bool, private: tuple[str, ...] | None) -> RegistryOptions:
        registry = self._settings.registry
        return RegistryOptions(
            insecure or registry.insecure, registry.mirrors, token, self._environ, registry.certificates, private
        )

    def _same(self, name: str) -> str:
        return same_model(name, self._settings.registry.default)

    async def _follow(self, key: _Key, work: Work) -> AsyncGenerator[TransferProgress, None]:
        if self._is_stopping:
            raise ShuttingDown("The server is stopping.")
        transfer = self._running.get(key)
        if transfer is None or transfer.cancelled.is_set():
            transfer = self._running[key] = _Transfer()
            transfer.task = asyncio.ensure_future(self._run(key, transfer, work))
        follower = _Follower(transfer.latest.values())
        transfer.followers.add(follower)
        try:
            async for progress in follower.news():
                yield progress
        finally:
            transfer.followers.discard(follower)
            if not transfer.followers and not transfer.is_over:
                transfer.cancelled.set()
        if transfer.error is not None:
            raise transfer.error

    async def _run(self, key: _Key, transfer: _Transfer, work: Work) -> None:
        loop = asyncio.get_running_loop()

        def report(progress: TransferProgress) -> None:
            loop.call_soon_threadsafe(transfer.publish, progress)

        error: DmrError | None = None
        try:
            await loop.run_in_executor(self._threads, work, report, transfer.cancelled.is_set)
        except TransferCancelled:
            error = ShuttingDown("This was cancelled.")
        except DmrError as failure:
            error = failure
        except Exception:
            logger.exception("a %s failed", key.kind)
            error = InternalError(f"The {key.kind} failed; the server's log has the details.")
        finally:
            if self._running.get(key) is transfer:
                del self._running[key]
            # Reports that are still on their way come before the end.
            loop.call_soon(transfer.end, error)
