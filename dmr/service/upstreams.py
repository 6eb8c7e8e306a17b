"""The engines beyond this machine: which there are, whether they live, and what models they have."""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Generic, TypeVar

import msgspec

from dmr.config import UpstreamEngine
from dmr.errors import DmrError, InternalError, Unavailable, UpstreamFailed
from dmr.service.upstream_call import UpstreamCall
from dmr.store.registry.trust import trusting_context

PATIENCE = 3.0  # seconds that an engine has to tell of itself
FRESH = 15.0  # seconds that what it told holds
FRESH_FAILURE = 3.0  # seconds that its silence holds
OLD = 60.0  # seconds after which it says nothing any more
MAX_LIST_BYTES = 8 << 20
MAX_THREADS = 16

log = logging.getLogger("dmr.service")
T = TypeVar("T")


class UpstreamState(msgspec.Struct, frozen=True):
    is_up: bool
    detail: str  # what went wrong, or how many models there are


class _Listed(msgspec.Struct):
    id: str


class _Page(msgspec.Struct):
    data: list[_Listed]


class Upstream:
    """One engine. Safe for any number of threads; it is asked for its state when somebody wants to know, not before."""

    def __init__(
        self, engine: UpstreamEngine, key: str, trusts: Callable[[], ssl.SSLContext], clock: Callable[[], float]
    ) -> None:
        self.engine = engine
        self._key = key
        self._trusts = trusts
        self._clock = clock
        self._models = _Remembered(self._ask_models, FRESH, FRESH_FAILURE, clock)
        self._health = _Remembered(self._ask_health, FRESH, FRESH_FAILURE, clock) if engine.health else None
        self._unreached: tuple[float, DmrError] | None = None  # when a request could not be sent, and why
        self._is_unwell = False  # when it was asked last it was silent, or said itself that it cannot answer

    def call(self) -> UpstreamCall:
        """A request that is yet to be sent. Raises Unavailable if the engine was silent a moment ago."""
        failure = self._recent_failure
        if failure is not None:
            raise Unavailable(f"{failure.message} It is tried again in a moment.", retry_after=FRESH_FAILURE)
        return UpstreamCall(self.engine, self._key, self._trusts)

    def note_unreached(self, error: DmrError) -> None:
        """A request could not be sent, so for a moment others need not try."""
        self._unreached = (self._clock(), error)

    @property
    def _recent_failure(self) -> DmrError | None:
        if self._unreached is not None and self._clock() - self._unreached[0] < FRESH_FAILURE:
            return self._unreached[1]
        if self._health is not None:
            return self._health.recent_failure
        # One that only has no list of models may still answer requests.
        return self._models.recent_failure if self._is_unwell else None

    def models(self) -> tuple[str, ...]:
        """The names that may be asked for. While it is silent, those that it told last."""
        if self.engine.models:
            return self.engine.models
        try:
            return self._models.get()
        except DmrError:
            return self._models.last_value or ()

    def state(self, *, is_urgent: bool = False) -> UpstreamState:
        """`is_urgent`: rather told as it was a moment ago than waited for."""
        try:
            if self._health is not None:
                self._health.get(waits=not is_urgent)
                return UpstreamState(True, "healthy")
            num_models = len(self._models.get(waits=not is_urgent))
            return UpstreamState(True, "1 model" if num_models == 1 else f"{num_models} models")
        except DmrError as error:
            return UpstreamState(False, error.message)

    def _ask_models(self) -> tuple[str, ...]:
        try:
            page = msgspec.json.decode(self._get("/v1/models"), type=_Page)
        except msgspec.MsgspecError as error:
            raise UpstreamFailed(f"The engine '{self.engine.name}' has no list of models: {error}.") from None
        return tuple(model.id for model in page.data)

    def _ask_health(self) -> bool:
        self._get(self.engine.health)
        return True

    def _get(self, path: str) -> bytes:
        wait = min(PATIENCE, self.engine.connect_timeout)
        hasty = msgspec.structs.replace(self.engine, timeout=PATIENCE, connect_timeout=wait)
        call = UpstreamCall(hasty, self._key, self._trusts)
        self._is_unwell = True
        try:
            call.send("GET", path, {"Accept": "application/json"})
            self._is_unwell = call.status >= 500
            if call.status >= 400:
                raise UpstreamFailed(f"The engine '{self.engine.name}' answers {path} with status {call.status}.")
            return call.read_all(MAX_LIST_BYTES)
        finally:
            call.close()


class _Remembered(Generic[T]):
    """What was asked last, value or failure. What is no longer fresh is asked anew, beside who uses it meanwhile."""

    def __init__(self, ask: Callable[[], T], fresh: float, fresh_failure: float, clock: Callable[[], float]) -> None:
        self._ask = ask
        self._fresh = fresh
        self._fresh_failure = fresh_failure
        self._clock = clock
        self._asking = threading.Lock()
        self._last: tuple[float, T | None, DmrError | None] | None = None  # a failure keeps the value before it

    def get(self, *, waits: bool = False) -> T:
        """`waits`: until it is fresh; otherwise only if it is `OLD`. Raises DmrError: the failure."""
        if self._last is None or (waits and self._is_stale) or self._age >= OLD:
            with self._asking:
                if self._last is None or self._is_stale:
                    self._renew()
        elif self._is_stale and self._asking.acquire(blocking=False):
            threading.Thread(target=self._renew_beside, name="upstream-state", daemon=True).start()
        assert self._last is not None
        _, value, failure = self._last
        if failure is not None:
            raise failure
        return value  # type: ignore[return-value] # without a failure there is a value

    @property
    def last_value(self) -> T | None:
        return self._last[1] if self._last is not None else None

    @property
    def recent_failure(self) -> DmrError | None:
        """What went wrong a moment ago; what is older says nothing."""
        return None if self._last is None or self._is_stale else self._last[2]

    @property
    def _age(self) -> float:
        assert self._last is not None
        return self._clock() - self._last[0]

    @property
    def _is_stale(self) -> bool:
        assert self._last is not None
        return self._age >= (self._fresh if self._last[2] is None else self._fresh_failure)

    def _renew_beside(self) -> None:
        try:
            self._renew()
        finally:
            self._asking.release()

    def _renew(self) -> None:
        try:
            self._last = (self._clock(), self._ask(), None)
        except DmrError as error:
            self._last = (self._clock(), self.last_value, error)
        except Exception:
            log.exception("an engine could not be asked for its state")
            told = InternalError("Its state cannot be asked for; the log says why.")
            self._last = (self._clock(), self.last_value, told)


class Upstreams:
    """All of them, by their names."""

    def __init__(
        self,
        engines: Iterable[UpstreamEngine] = (),
        environ: Mapping[str, str] | None = None,
        certificates: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`environ` has the keys; `certificates` is a file of authorities to trust beside the system's."""
        variables = environ or {}
        engines = tuple(engines)
        for each in engines:
            if each.api_key_env and not variables.get(each.api_key_env):
                log.warning("%s is not set: the engine '%s' gets no key.", each.api_key_env, each.name)
        trusts = cache(lambda: trusting_context(certificates, variables))
        self._all = {each.name: Upstream(each, variables.get(each.api_key_env, ""), trusts, clock) for each in engines}

    def __bool__(self) -> bool:
        return bool(self._all)

    def get(self, name: str) -> Upstream | None:
        return self._all.get(name)

    def of_model(self, model: str) -> Upstream | None:
        """The first, in the order of the settings, that has a model of exactly this name."""
        return next((each for each in self._all.values() if model in each.models()), None)

    def models(self) -> dict[str, tuple[str, ...]]:
        """The models of each engine."""
        return self._of_each(Upstream.models)

    def states(self, *, is_urgent: bool = False) -> dict[str, UpstreamState]:
        return self._of_each(lambda upstream: upstream.state(is_urgent=is_urgent))

    def _of_each(self, ask: Callable[[Upstream], T]) -> dict[str, T]:
        """All are asked at the same time."""
        if not self._all:
            return {}
        with ThreadPoolExecutor(min(MAX_THREADS, len(self._all)), thread_name_prefix="upstreams") as threads:
            return dict(zip(self._all, threads.map(ask, self._all.values()), strict=True))
