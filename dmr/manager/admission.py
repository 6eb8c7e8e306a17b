"""Which model may take memory now, and which have to make room for it.

What is counted: each engine has a claim, the estimate of what it takes in all (weights, context, buffers). The pages
that it holds by itself (anonymous memory: cells, buffers, repacked weights) are missing in what the kernel calls free
already; the rest of its claim is owed to it. The weights that it maps are in that rest whether they have been read or
not, since the kernel counts their pages as free in both cases. So there is room for

    what is free - the sum of what is owed to engines that stay + what engines that go hold by themselves

of which a margin stays free as long as there is any choice. Only what does not fit without that margin is refused.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from dmr.errors import DmrError, ModelLoadFailed, Unavailable
from dmr.manager.loaded_model import LoadedModel
from dmr.manager.memory_need import MemoryNeed
from dmr.memory.context_planner import describe_bytes, without_margin
from dmr.memory.free_memory import Free, anonymous_bytes, free_memory

LOOK_AGAIN = 1.0  # seconds: other programs give memory back without telling
RETRY_AFTER = 5.0  # seconds, for those who have waited in vain

logger = logging.getLogger("dmr.manager")


class AdmissionRules(NamedTuple):
    limit: int = 0  # bytes for all engines together, whatever the system says; 0 = what it says, negative = no bound
    max_models: int = 0  # 0 = any number
    patience: float = 20.0  # seconds that a model waits for others to become idle


class Admission:
    def __init__(
        self,
        rules: AdmissionRules,
        engines: Callable[[], Iterable[LoadedModel]],
        evict: Callable[[LoadedModel], object],
        measure: Callable[[], Free | None] = free_memory,
        held_by: Callable[[int], int] = anonymous_bytes,
    ) -> None:
        """`engines`: all that hold memory or are owed some, the ending ones too. `held_by`: bytes, of a process."""
        self._rules = rules
        self._engines = engines
        self._evict = evict
        self._measure = measure
        self._held_by = held_by
        self._changed = asyncio.Event()

    def notify(self) -> None:
        """An engine has become idle, or is gone."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def admit(self, model: LoadedModel, need: MemoryNeed | None) -> None:
        """Give the model its claim, as soon as others have made room for it; they may still be ending then.

        `need` None: nobody knows, or its memory is not the host's: only the number of models counts.

        Raises:
            ModelLoadFailed: it cannot fit; the numbers say how much is missing.
            Unavailable: it could, but those in the way are in use.
        """
        deadline = time.monotonic() + self._rules.patience
        has_told = False
        while True:
            room = _Room(self, model)
            victims = room.make(need, is_patient=time.monotonic() < deadline)
            if victims is not None:
                model.claim = max(1, min(need.full, max(need.least, room.bytes_without(victims))) if need else 1)
                for victim in victims:
                    logger.info("unloading %s: %s needs its memory", victim.reference, model.reference)
                    self._evict(victim)
                return
            if not has_told:
                logger.info("%s waits for memory", model.reference)
                has_told = True
            await self._wait(deadline)

    def has_room(self, need: MemoryNeed | None) -> bool:
        """Whether one more engine fits while all others stay."""
        stay = [engine for engine in self._engines() if engine.claim and not engine.is_ended]
        if 0 < self._rules.max_models <= len(stay):
            return False
        left = self._left(stay, [])
        return need is None or left is None or need.full <= without_margin(left.num_bytes)

    async def _wait(self, deadline: float) -> None:
        try:
            await asyncio.wait_for(self._changed.wait(), max(0.0, min(LOOK_AGAIN, deadline - time.monotonic())))
        except asyncio.TimeoutError:
            return

    def evict_one(self, model: LoadedModel) -> bool:
        """Make some room for a model whose engine has found too little; False: nobody is idle."""
        idle = [engine for engine in self._others(model) if engine.is_evictable]
        if not idle:
            return False
        victim = min(idle, key=lambda engine: engine.last_used)
        logger.info("unloading %s: %s found too little memory", victim.reference, model.reference)
        self._evict(victim)
        return True

    def owed_to_others(self, model: LoadedModel) -> int:
        """Bytes of what is free that are meant for others."""
        return sum(self._owed(engine) for engine in self._others(model))

    def free_bytes(self) -> int:
        """That engines can still take; negative = there is no bound that anybody knows of."""
        found = self._left(list(self._engines()), [])
        return -1 if found is None else max(0, found.num_bytes)

    def granted_context_bytes(self, model: LoadedModel, need: MemoryNeed) -> int:
        """What a limit leaves to its context; 0 = there is no limit."""
        return max(1, model.claim - need.weights) if self._rules.limit > 0 else 0

    def _others(self, model: LoadedModel) -> list[LoadedModel]:
        return [engine for engine in self._engines() if engine is not model and engine.claim and not engine.is_ended]

    def _left(self, stay: Sequence[LoadedModel], go: Sequence[LoadedModel]) -> Free | None:
        """What there would be for another one; None = there is no bound."""
        if self._rules.limit < 0:
            return None
        if self._rules.limit > 0:
            taken = sum(max(engine.claim, self._held(engine)) for engine in stay)
            return Free(self._rules.limit - taken, "what DMR_MEMORY_LIMIT allows")
        free = self._measure()
        if free is None:
            return None
        change = sum(map(self._held, go)) - sum(map(self._owed, stay))
        return free._replace(num_bytes=free.num_bytes + change)

    def _owed(self, engine: LoadedModel) -> int:
        return max(0, engine.claim - self._held(engine))

    def _held(self, engine: LoadedModel) -> int:
        return self._held_by(engine.process.pid) if engine.process is not None and engine.process.is_alive else 0


class _Room:
    """A look at what is there, for one model."""

    def __init__(self, admission: Admission, model: LoadedModel) -> None:
        self._admission = admission
        self._rules = admission._rules
        self._model = model
        self._others = admission._others(model)
        self._ending = [engine for engine in admission._engines() if engine is not model and engine.is_ended]
        self._idle = sorted((e for e in self._others if e.is_evictable), key=lambda engine: engine.last_used)
        self._busy = [e for e in self._others if not e.is_evictable and (e.is_loading or e.num_leases)]

    def make(self, need: MemoryNeed | None, is_patient: bool) -> list[LoadedModel] | None:
        """Who has to go, as few as possible and the least recently used first; None: wait for those that are in use.

        Raises: as `Admission.admit`
        """
        if need is None:
            victims = self._victims(0, with_margin=False)
        else:
            victims = self._victims(need.full)
            if victims is None:
                victims = self._victims(need.half)
        if victims is not None:
            return victims
        if need is not None:
            victims = self._victims(need.least, with_margin=False)
        if is_patient and self._is_worth_waiting(need, victims is not None):
            return None
        if victims is None:
            raise self._refusal(need)
        return victims

    def _is_worth_waiting(self, need: MemoryNeed | None, has_little: bool) -> bool:
        """Whether more would fit if those that are in use became idle. `has_little`: the least fits now."""
        if not any(not engine.is_pinned for engine in self._busy):
            return False
        removable = [engine for engine in self._others if not engine.is_pinned]
        if need is None:
            return self._fits(0, removable, with_margin=False)
        return self._fits(need.half if has_little else need.least, removable, with_margin=has_little)

    def bytes_without(self, victims: Sequence[LoadedModel]) -> int:
        left = self._left(victims)
        return 1 << 62 if left is None else left.num_bytes

    def _victims(self, num_bytes: int, with_margin: bool = True) -> list[LoadedModel] | None:
        for count in range(len(self._idle) + 1):
            victims = self._idle[:count]
            if self._fits(num_bytes, victims, with_margin):
                break
        else:
            return None
        for victim in victims[::-1]:  # whoever need not go after all
            others = [engine for engine in victims if engine is not victim]
            if self._fits(num_bytes, others, with_margin):
                victims = others
        return victims

    def _fits(self, num_bytes: int, victims: Sequence[LoadedModel], with_margin: bool) -> bool:
        if 0 < self._rules.max_models <= len(self._others) - len(victims):
            return False
        left = self._left(victims)
        if left is None:
            return True
        has_margin = with_margin and self._rules.limit == 0
        return num_bytes <= (without_margin(left.num_bytes) if has_margin else left.num_bytes)

    def _left(self, victims: Sequence[LoadedModel]) -> Free | None:
        stay = [engine for engine in self._others if engine not in victims]
        return self._admission._left(stay, [*self._ending, *victims])

    def _refusal(self, need: MemoryNeed | None) -> DmrError:
        name = self._model.reference
        if need is None or not self._lacks_memory(need):
            return self._too_many(f"The model '{name}' cannot be loaded beside {len(self._others)} others")
        left = self._left(self._idle)
        assert left is not None
        missing = need.least - left.num_bytes
        message = (
            f"The model '{name}' needs {need.describe()}, and {describe_bytes(max(0, left.num_bytes))} of {left.of} "
            f"can be had: at least {describe_bytes(missing)} are missing."
        )
        in_the_way = self._in_the_way(need)
        if in_the_way and any(not engine.is_pinned for engine in self._busy):
            return Unavailable(f"{message} {in_the_way}", retry_after=RETRY_AFTER)
        fitting = need.fitting_context(left.num_bytes)
        advice = in_the_way or (
            f"A context of {fitting} tokens would fit."
            if fitting
            else "No context would fit: take a smaller quantization or end other programs. DMR_MEMORY_LIMIT says how "
            "much may be used, -1 that nothing is counted."
        )
        return ModelLoadFailed.for_want_of_memory(f"{message} {advice}", need.least, max(0, left.num_bytes), fitting)

    def _lacks_memory(self, need: MemoryNeed) -> bool:
        left = self._left(self._idle)
        return left is not None and need.least > left.num_bytes

    def _in_the_way(self, need: MemoryNeed) -> str:
        """Who would have to go so that it fits; empty: nobody, since it does not fit at all."""
        everybody = self._left(self._others)
        if everybody is None or need.least > everybody.num_bytes:
            return ""
        used = [engine for engine in self._busy if not engine.is_pinned]
        pinned = [engine for engine in self._others if engine.is_pinned]
        parts = []
        if used:
            parts.append(f"In use: {_listed(used)}; try again when they are idle.")
        if pinned:
            parts.append(f"Kept loaded for ever: {_listed(pinned)}; unload what is not needed.")
        return " ".join(parts)

    def _too_many(self, message: str) -> DmrError:
        text = f"{message}: DMR_MAX_LOADED_MODELS={self._rules.max_models}."
        if any(not engine.is_pinned for engine in self._busy):
            return Unavailable(f"{text} They are in use; try again when one is idle.", retry_after=RETRY_AFTER)
        return ModelLoadFailed(f"{text} They are kept loaded for ever; unload one of them.")


def _listed(engines: Iterable[LoadedModel]) -> str:
    return ", ".join(f"'{engine.reference}' ({describe_bytes(engine.claim)})" for engine in engines)
