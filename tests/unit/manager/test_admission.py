"""Who may take memory, with engines and a machine that are numbers only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from dmr.config import EngineSettings
from dmr.errors import ModelLoadFailed, Unavailable
from dmr.manager import admission
from dmr.manager.admission import Admission, AdmissionRules
from dmr.manager.memory_need import MemoryNeed
from dmr.memory.free_memory import Free
from dmr.memory.memory_costs import OVERHEAD, ModelCosts

MIB = 1 << 20
GIB = 1 << 30
PER_TOKEN = 64 << 10  # bytes


def need(weights: int, context_size: int = 0, usual: int = 8192) -> MemoryNeed:
    """Of a model whose full context takes half a GiB and OVERHEAD."""
    costs = ModelCosts(cell=PER_TOKEN, state=0, activations=0, hidden=0, logits=0)
    settings = EngineSettings(context_size=context_size, max_batch_tokens=1, max_num_seqs=1)
    return MemoryNeed(weights, costs, settings, usual)


def engine(name: str, claim: int, held: int = 0, last_used: float = 0.0, **state: Any) -> Any:
    """Idle unless `leases`; it holds so many bytes by itself, of those that it claims."""
    leases, keep_alive, loading = state.get("leases", 0), state.get("keep_alive", 300.0), state.get("loading", False)
    return SimpleNamespace(
        reference=name,
        claim=claim,
        last_used=last_used,
        num_leases=leases,
        is_pinned=keep_alive < 0,
        is_loading=loading,
        is_ended=state.get("ended", False),
        is_evictable=leases == 0 and keep_alive >= 0 and not loading,
        process=SimpleNamespace(pid=held, is_alive=True),
    )


class Machine:
    """`free`: what the kernel says: the pages of mapped files count as free."""

    def __init__(self, free: int | None, *engines: Any, **rules: Any) -> None:
        self.free = free
        self.engines = [*engines]
        self.evicted: list[str] = []
        self.admission = Admission(
            AdmissionRules(**{"patience": 0.0, **rules}),
            lambda: self.engines,
            self._evict,
            lambda: None if self.free is None else Free(self.free, "the machine's memory"),
            lambda pid: pid,
        )

    def _evict(self, model: Any) -> None:
        self.evicted.append(model.reference)
        model.is_ended = True

    async def admit(self, wish: MemoryNeed | None, name: str = "new") -> Any:
        model = engine(name, 0, loading=True, leases=1)
        self.engines.append(model)
        await self.admission.admit(model, wish)
        return model


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scene(), 10))


def admitted(machine: Machine, wish: MemoryNeed | None) -> Any:
    return asyncio.run(machine.admit(wish))


def test_what_fits_is_let_in_and_claims_what_it_may_take() -> None:
    machine = Machine(8 * GIB)
    model = admitted(machine, need(GIB))
    assert model.claim == need(GIB).full > GIB + 8192 * PER_TOKEN + OVERHEAD
    assert machine.evicted == []


def test_mapped_weights_are_owed_to_their_engine_whether_they_were_read_or_not() -> None:
    # 3 GiB of weights that the kernel counts as free, and 1 GiB of cells that it does not.
    machine = Machine(6 * GIB, engine("old", 4 * GIB, held=GIB, leases=1))
    admitted(machine, need(2 * GIB))
    machine = Machine(6 * GIB, engine("old", 4 * GIB, held=GIB, leases=1))
    with pytest.raises(Unavailable, match="'old'"):
        admitted(machine, need(3 * GIB))
    assert machine.admission.free_bytes() == 3 * GIB


def test_an_engine_that_holds_more_than_it_claims_is_owed_nothing() -> None:
    machine = Machine(4 * GIB, engine("old", GIB, held=3 * GIB, leases=1))
    assert machine.admission.free_bytes() == 4 * GIB


def test_what_is_still_loading_has_its_memory_reserved() -> None:
    machine = Machine(4 * GIB)

    async def scene() -> None:
        await machine.admit(need(2 * GIB), "first")
        with pytest.raises(Unavailable, match="'first'"):
            await machine.admit(need(2 * GIB), "second")

    play(scene)


def test_the_least_recently_used_go_and_no_more_than_needed() -> None:
    engines = [engine(name, GIB, held=GIB, last_used=used) for used, name in enumerate(["a", "b", "c"])]
    machine = Machine(GIB, *engines)
    admitted(machine, need(GIB + 512 * MIB))
    assert machine.evicted == ["a", "b"]


def test_who_need_not_go_stays_even_if_used_longer_ago() -> None:
    small = engine("small", 10 * MIB, held=10 * MIB, last_used=1.0)
    machine = Machine(GIB, small, engine("large", 4 * GIB, held=4 * GIB, last_used=2.0))
    admitted(machine, need(2 * GIB))
    assert machine.evicted == ["large"]


def test_pinned_and_busy_engines_stay() -> None:
    pinned = engine("pinned", 2 * GIB, held=2 * GIB, keep_alive=-1.0)
    busy = engine("busy", 2 * GIB, held=2 * GIB, leases=1)
    idle = engine("idle", 2 * GIB, held=2 * GIB, last_used=9.0)
    machine = Machine(GIB, pinned, busy, idle)
    admitted(machine, need(GIB))
    assert machine.evicted == ["idle"]
    machine = Machine(GIB, pinned, busy)
    with pytest.raises(Unavailable, match=r"In use: 'busy'.*for ever: 'pinned'") as caught:
        admitted(machine, need(GIB))
    assert caught.value.retry_after
    machine = Machine(GIB, pinned)
    with pytest.raises(ModelLoadFailed, match=r"for ever: 'pinned' \(2\.0 GiB\); unload"):
        admitted(machine, need(GIB))


def test_nobody_is_evicted_in_vain() -> None:
    machine = Machine(GIB, engine("idle", GIB, held=GIB))
    with pytest.raises(ModelLoadFailed):
        admitted(machine, need(8 * GIB))
    assert machine.evicted == []


def test_what_can_never_fit_is_told_at_once_with_what_is_missing_and_what_would_fit() -> None:
    machine = Machine(2 * GIB, engine("busy", GIB, held=GIB, leases=1), patience=60.0)
    with pytest.raises(
        ModelLoadFailed, match=r"4\.\d GiB of weights.*at least 2\.\d GiB are missing.*smaller quant"
    ) as caught:
        admitted(machine, need(4 * GIB + 512 * MIB))
    assert caught.value.fitting_context == 0
    with pytest.raises(ModelLoadFailed, match=r"A context of \d+ tokens would fit") as caught:
        admitted(Machine(2 * GIB), need(GIB, context_size=65536))
    fitting = caught.value.fitting_context
    assert fitting is not None
    assert need(GIB, context_size=fitting).full <= 2 * GIB < need(GIB, context_size=fitting + 256).full
    admitted(Machine(2 * GIB), need(GIB, context_size=fitting))


def test_what_fits_without_a_margin_is_not_refused() -> None:
    wish = need(GIB)
    model = admitted(Machine(wish.least), wish)
    assert model.claim == wish.least
    with pytest.raises(ModelLoadFailed):
        admitted(Machine(wish.least - 1), wish)


def test_an_engine_that_chooses_is_content_with_half_its_context_but_waits_rather_than_have_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wish = need(256 * MIB)
    half = wish.half + 129 * MIB
    busy = engine("busy", GIB, held=GIB, leases=1)
    assert wish.half <= admitted(Machine(half, busy, patience=60.0), wish).claim < wish.full

    async def scene() -> None:
        machine = Machine(wish.least + MIB, busy, patience=60.0)
        waiting = asyncio.ensure_future(machine.admit(wish))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        machine.free = half
        machine.admission.notify()
        assert (await waiting).claim >= wish.half

    play(scene)
    assert admitted(Machine(wish.least + MIB, busy, patience=0.0), wish).claim < wish.half


def test_a_model_waits_for_a_busy_one_to_become_idle() -> None:
    busy = engine("busy", 3 * GIB, held=3 * GIB, leases=1)

    async def scene() -> None:
        machine = Machine(GIB, busy, patience=60.0)
        waiting = asyncio.ensure_future(machine.admit(need(GIB)))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        busy.num_leases, busy.is_evictable = 0, True
        machine.admission.notify()
        await waiting
        assert machine.evicted == ["busy"]

    play(scene)


def test_memory_that_other_programs_give_back_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "LOOK_AGAIN", 0.01)

    async def scene() -> None:
        machine = Machine(GIB, engine("busy", GIB, held=GIB, leases=1), patience=60.0)
        waiting = asyncio.ensure_future(machine.admit(need(GIB + 512 * MIB)))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        machine.free = 8 * GIB
        await waiting

    play(scene)


def test_what_ending_engines_hold_is_about_to_be_free() -> None:
    machine = Machine(GIB, engine("leaving", 3 * GIB, held=3 * GIB, ended=True, leases=1))
    admitted(machine, need(2 * GIB))


def test_a_limit_counts_instead_of_what_the_system_says() -> None:
    machine = Machine(0, engine("old", GIB, last_used=1.0), limit=3 * GIB)
    model = admitted(machine, need(GIB))
    assert (model.claim, machine.evicted) == (need(GIB).full, [])
    model.num_leases, model.is_loading, model.is_evictable, model.last_used = 0, False, True, 2.0
    admitted(machine, need(GIB // 2))
    assert machine.evicted == ["old"]
    with pytest.raises(ModelLoadFailed, match=r"1\.0 GiB of what DMR_MEMORY_LIMIT allows"):
        admitted(Machine(100 * GIB, limit=GIB), need(2 * GIB))


def test_a_limit_gives_a_context_what_it_leaves() -> None:
    wish = need(GIB)
    machine = Machine(None, limit=wish.half + MIB)
    model = admitted(machine, wish)
    assert machine.admission.granted_context_bytes(model, wish) == wish.half + MIB - GIB
    assert Machine(GIB).admission.granted_context_bytes(model, wish) == 0


@pytest.mark.parametrize("machine", [Machine(0, limit=-1), Machine(None)])
def test_nothing_is_refused_where_nothing_is_counted(machine: Machine) -> None:
    assert admitted(machine, need(1000 * GIB)).claim == need(1000 * GIB).full
    assert machine.admission.free_bytes() == -1


def test_a_number_of_models_is_kept_whatever_they_take() -> None:
    engines = [engine(name, 1, last_used=used) for used, name in enumerate(["a", "b"])]
    machine = Machine(None, *engines, max_models=2)
    admitted(machine, None)
    assert machine.evicted == ["a"]
    with pytest.raises(Unavailable, match="DMR_MAX_LOADED_MODELS=1"):
        admitted(Machine(None, engine("busy", 1, leases=1), max_models=1), need(GIB))
    with pytest.raises(ModelLoadFailed, match="kept loaded for ever"):
        admitted(Machine(None, engine("pinned", 1, keep_alive=-1.0), max_models=1), None)


def test_one_idle_engine_makes_room_where_an_engine_found_too_little() -> None:
    machine = Machine(GIB, engine("a", GIB, last_used=2.0), engine("b", GIB, last_used=1.0))
    model = engine("new", GIB, loading=True, leases=1)
    assert machine.admission.evict_one(model)
    assert machine.admission.evict_one(model)
    assert machine.evicted == ["b", "a"]
    assert not machine.admission.evict_one(model)
