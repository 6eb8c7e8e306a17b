"""One model with an engine, or about to have one. Runs on the manager's event loop, so its state needs no locks."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable
from typing import Any, TypeVar

from dmr.config import EngineSettings
from dmr.errors import DmrError, EngineCrashed, Unavailable
from dmr.manager.context_limits import default_context
from dmr.manager.engine_plan import EnginePlan
from dmr.manager.engine_process import EngineProcess
from dmr.types import ModelRecord, RunningModel
from dmr.wire import EngineInfo

PATIENCE = 60.0  # seconds that a wish for more context, and all behind it, wait for an engine that is in use
PATIENCE_PAUSE = 300.0  # seconds after which they may wait for the same engine again

T = TypeVar("T")


class LoadedModel:
    """`num_leases` counts who holds or awaits it. It has no process while it waits for memory."""

    def __init__(
        self, record: ModelRecord, reference: str, plan: EnginePlan, settings: EngineSettings, keep_alive: float
    ) -> None:
        self.record = record
        self.model_id = record.id
        self.size = record.size
        self.reference = reference
        self.plan = plan
        self.settings = settings  # those of the plan, with as much context as can be had of what was wished
        self.keep_alive = keep_alive
        self.can_be_pinned = True  # False: for ever is what the server does with all, so that it distinguishes none
        self.is_preloaded = False  # it loads even if nobody waits for it
        self.is_outdated = False  # another plan takes its place as soon as nobody uses it
        self.process: EngineProcess | None = None  # another one after a larger context could not be had
        self.ready: asyncio.Future[EngineInfo] = asyncio.get_running_loop().create_future()
        self.context_bytes = 0  # that its context may take; 0 = what is free
        self.claim = 0  # bytes that its engine may take in all; 0 = it has not been let in yet
        self.held = contextlib.ExitStack()  # its files, so that no other process removes them
        self.num_leases = 0
        self.loaded_at = time.time()
        self.last_used = 0.0  # of the clock that people see,
        self.idle_since = 0.0  # and of the one that does not jump
        self.use()
        self.ready_at = 0.0  # of the monotonic clock; 0 = it has not been ready
        self.is_idle = asyncio.Event()  # nobody holds or awaits it
        self.is_idle.set()
        self._ending = asyncio.Event()
        self._gone = asyncio.Event()
        self._wait_until = self._wait_again_at = 0.0  # of the monotonic clock

    @property
    def is_loading(self) -> bool:
        return not self.ready.done()

    @property
    def is_alive(self) -> bool:
        return self.is_loading or (self.process is not None and self.process.is_alive)

    @property
    def is_waiting(self) -> bool:
        """For memory, or for its turn."""
        return self.is_loading and self.process is None

    @property
    def progress(self) -> float:
        """Of loading, 0..1."""
        return self.process.progress if self.process is not None else 0.0

    @property
    def socket(self) -> str:
        return self.process.spec.socket if self.process is not None else ""

    @property
    def planned_context(self) -> int:
        """Tokens that its engine was started for."""
        return self.settings.context_size or default_context(self.record)

    @property
    def context_size(self) -> int:
        """Tokens; 0 while it loads."""
        if self.is_loading or self.ready.exception() is not None:
            return 0
        return self.ready.result().context_size

    def has_context(self, num_tokens: int) -> bool:
        """Whether it holds so many tokens, or was started for so many and can hold no more."""
        return num_tokens <= max(self.context_size, self.planned_context)

    def succeed(self, info: EngineInfo) -> None:
        self.ready_at = time.monotonic()
        self.use()
        self.ready.set_result(info)

    def fail(self, error: DmrError) -> None:
        self.ready.set_exception(error)
        self.ready.exception()  # nobody may be waiting any more

    # --- its end -----------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Nobody wants it any more: its engine stops, and no other takes its place."""
        self._ending.set()

    @property
    def is_ended(self) -> bool:
        return self._ending.is_set()

    async def unless_ended(self, work: Awaitable[T]) -> T:
        """What `work` gives. Raises Unavailable when the model is ended before; the work is cancelled then."""
        working = asyncio.ensure_future(work)
        ending = asyncio.ensure_future(self._ending.wait())
        ends: set[asyncio.Future[Any]] = {working, ending}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if self.is_ended:
                raise self.unloaded()
            return working.result()
        finally:
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)  # a failure that comes too late interests nobody

    def unloaded(self) -> Unavailable:
        return Unavailable(f"The model '{self.reference}' was unloaded while it was loading.")

    def set_gone(self) -> None:
        """It holds no memory any more."""
        self._gone.set()

    async def wait_gone(self) -> None:
        await self._gone.wait()

    @property
    def is_gone(self) -> bool:
        return self._gone.is_set()

    def parting_words(self) -> DmrError:
        """What those are told who were using it when its engine went."""
        if self.is_ended:
            return Unavailable(f"The model '{self.reference}' was unloaded while it was in use.")
        words = self.process.epitaph if self.process is not None else ""
        return EngineCrashed(f"The engine of '{self.reference}' crashed while it served this request: {words}")

    # --- its use -----------------------------------------------------------------------------------------------------

    def take(self) -> None:
        self.num_leases += 1
        self.is_idle.clear()

    def use(self) -> None:
        self.last_used = time.time()
        self.idle_since = time.monotonic()

    def give_back(self) -> None:
        self.num_leases -= 1
        self.use()
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
        ends = [asyncio.ensure_future(self.is_idle.wait()), asyncio.ensure_future(self._gone.wait())]
        try:
            done, _ = await asyncio.wait(ends, timeout=max(0, self.patience()), return_when=asyncio.FIRST_COMPLETED)
            return bool(done)
        finally:
            for end in ends:
                end.cancel()

    @property
    def is_unwanted(self) -> bool:
        """It loads for nobody."""
        return self.is_loading and self.num_leases == 0 and not self.is_preloaded

    @property
    def is_pinned(self) -> bool:
        """Somebody has wished that it stays for ever."""
        return self.keep_alive < 0 and self.can_be_pinned

    @property
    def is_evictable(self) -> bool:
        """Another model may have its memory."""
        return self.num_leases == 0 and not self.is_loading and not self.is_pinned

    def is_expired(self, now: float) -> bool:
        """`now`: of the monotonic clock."""
        idle = self.num_leases == 0 and not self.is_loading
        return idle and 0 <= self.keep_alive <= now - self.idle_since

    def describe(self) -> RunningModel:
        return RunningModel(
            id=self.model_id,
            reference=self.reference,
            state="loading" if self.is_loading else "ready",
            num_active=self.num_leases,
            loaded_at=self.loaded_at,
            last_used=self.last_used,
            keep_alive=self.keep_alive,
            pid=self.process.pid if self.process is not None else 0,
            context_size=self.context_size,
            size=self.size,
            progress=self.progress if self.is_loading else 1.0,
        )
