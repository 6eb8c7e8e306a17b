"""Engines that crash, loads that nobody wants any more, models that make room for others."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest
from unit.manager.conftest import Bench, is_running, ready, until

from dmr.errors import EngineCrashed, ModelLoadFailed, Unavailable
from dmr.manager import crashes, model_manager
from dmr.manager.loaded_model import LoadedModel
from dmr.manager.model_manager import ModelManager
from dmr.types import ModelLifecycle


async def crash(manager: ModelManager, model: LoadedModel) -> None:
    """Kill its engine, and wait until that was noticed."""
    assert model.process is not None
    os.kill(model.process.pid, signal.SIGKILL)
    manager.release(model)
    await model.wait_gone()


def told(manager: ModelManager, reference: str = "one") -> ModelLifecycle:
    (found,) = (model for model in manager.statistics().models if model.reference == reference)
    return found


# --- crashes ---------------------------------------------------------------------------------------------------------


def test_crashes_in_a_row_hold_the_next_start_back_and_tell_why(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        await crash(manager, await ready(manager, "one"))
        assert told(manager).state == "unloaded"
        second = await ready(manager, "one")  # the first may have been bad luck
        await crash(manager, second)
        with pytest.raises(EngineCrashed, match=r"'one'.*2 times in a row.*SIGKILL.*said nothing") as caught:
            await manager.acquire("one", None)
        assert caught.value.retry_after == 1.0
        life = told(manager)
        assert (life.state, life.num_loads, life.num_crashes) == ("backing off", 2, 2)
        assert 0 < life.retry_after <= 1
        assert "SIGKILL" in life.last_words
        await manager.unload(("one",))  # somebody has looked at it
        await ready(manager, "one")
        assert told(manager).state == "ready"

    bench.run(scene)


def test_a_pause_ends_by_itself(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.add_model()
    monkeypatch.setattr(crashes, "LONGEST_PAUSE", 0.05)

    async def scene(manager: ModelManager) -> None:
        for _ in range(3):
            await crash(manager, await ready(manager, "one"))
            await asyncio.sleep(0.06)
        await ready(manager, "one")

    bench.run(scene)


def test_engines_that_die_while_they_load_are_held_back_too(bench: Bench) -> None:
    bench.add_model()
    bench.set_mode("dies")

    async def scene(manager: ModelManager) -> None:
        for _ in range(2):
            with pytest.raises(ModelLoadFailed, match="these are my last words"):
                await ready(manager, "one")
            await until(lambda: manager.running() == ())
        with pytest.raises(EngineCrashed, match="these are my last words"):
            await manager.acquire("one", None)
        life = told(manager)
        assert (life.num_loads, life.num_load_failures, life.num_crashes) == (0, 2, 2)

    bench.run(scene)


def test_an_engine_that_says_why_it_cannot_load_has_not_crashed(bench: Bench) -> None:
    bench.add_model()
    bench.set_mode("refuses")

    async def scene(manager: ModelManager) -> None:
        for _ in range(4):
            with pytest.raises(ModelLoadFailed, match="tensors are wrong"):
                await ready(manager, "one")
            await until(lambda: manager.running() == ())
        assert (told(manager).num_crashes, told(manager).num_load_failures) == (0, 4)

    bench.run(scene)


def test_too_many_crashes_are_a_quarantine_of_that_model_only(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.add_model("one", 1)
    bench.add_model("two", 2)
    monkeypatch.setattr(crashes, "MAX_CRASHES", 2)

    async def scene(manager: ModelManager) -> None:
        other = await ready(manager, "two")
        for _ in range(2):
            await crash(manager, await ready(manager, "one"))
        with pytest.raises(EngineCrashed, match="quarantine") as caught:
            await manager.acquire("one", None)
        assert caught.value.retry_after is not None
        assert caught.value.retry_after > 500
        assert told(manager).state == "quarantined"
        assert told(manager, "two").state == "ready"
        assert other.process.is_alive
        await manager.unload(("one",))
        await ready(manager, "one")

    bench.run(scene)


def test_who_was_using_a_crashed_engine_is_told_its_last_words(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        model = await ready(manager, "one")
        os.kill(model.process.pid, signal.SIGSEGV)
        await model.wait_gone()
        error = model.parting_words()
        assert isinstance(error, EngineCrashed)
        assert "'one' crashed" in error.message
        assert "SIGSEGV" in error.message

    bench.run(scene)


# --- loads that nobody wants -----------------------------------------------------------------------------------------


@pytest.fixture
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_manager, "CANCEL_AFTER", 0.05)


def test_a_load_ends_when_the_last_one_has_left(bench: Bench, no_grace: None) -> None:
    bench.add_model()
    bench.set_mode("hangs")

    async def scene(manager: ModelManager) -> None:
        first, second = await manager.acquire("one", None), await manager.acquire("one", None)
        await until(lambda: first.progress > 0)
        manager.release(first)
        await asyncio.sleep(0.1)
        assert len(manager.running()) == 1
        manager.release(second)
        await until(lambda: manager.running() == ())
        await until(lambda: not any(map(is_running, bench.pids("started"))))
        assert told(manager).evictions == {"cancelled": 1}
        assert told(manager).num_load_failures == 0

    bench.run(scene)


def test_who_comes_back_soon_finds_the_load_under_way(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.add_model()
    bench.set_mode("hangs")
    monkeypatch.setattr(model_manager, "CANCEL_AFTER", 0.3)

    async def scene(manager: ModelManager) -> None:
        for _ in range(4):
            model = await manager.acquire("one", None)
            await asyncio.sleep(0.1)
            manager.release(model)
            await asyncio.sleep(0.1)
        assert len(bench.pids("started")) == 1
        assert len(manager.running()) == 1

    bench.run(scene)


def test_a_preload_goes_on_for_nobody(bench: Bench, no_grace: None) -> None:
    bench.add_model()
    bench.set_mode("hangs")

    async def scene(manager: ModelManager) -> None:
        manager.release(await manager.acquire("one", None, preload=True))
        manager.release(await manager.acquire("one", None))
        await asyncio.sleep(0.15)
        assert manager.running()[0].state == "loading"
        assert await manager.unload(None) == 1

    bench.run(scene)


# --- room for others -------------------------------------------------------------------------------------------------


def test_the_least_recently_used_makes_room(bench: Bench) -> None:
    for number, name in enumerate(["one", "two", "three"]):
        bench.add_model(name, number)
    bench.set_mode("lingers")

    async def scene(manager: ModelManager) -> None:
        manager.release(await ready(manager, "one"))
        manager.release(await ready(manager, "two"))
        manager.release(await ready(manager, "one"))
        await ready(manager, "three")
        assert {model.reference for model in manager.running()} == {"one", "three"}
        assert told(manager, "two").evictions == {"memory": 1}

    bench.run(scene, max_loaded_models=2)
    assert bench.times("ended")[0] <= bench.times("told")[2]


def test_a_model_waits_until_another_is_idle_and_then_takes_its_place(bench: Bench) -> None:
    bench.add_model("one", 1)
    bench.add_model("two", 2)

    async def scene(manager: ModelManager) -> None:
        busy = await ready(manager, "one")
        second = asyncio.ensure_future(ready(manager, "two"))
        await until(lambda: len(manager.running()) == 2)
        assert told(manager, "two").state == "waiting"
        assert [model.state for model in manager.running()] == ["ready", "loading"]
        assert manager.sockets()[1] == ""
        manager.release(busy)
        await second
        assert [model.reference for model in manager.running()] == ["two"]

    bench.run(scene, max_loaded_models=1, memory_wait=60.0)


def test_who_has_waited_in_vain_is_told_to_come_again(bench: Bench) -> None:
    bench.add_model("one", 1)
    bench.add_model("two", 2)

    async def scene(manager: ModelManager) -> None:
        await ready(manager, "one")
        with pytest.raises(Unavailable, match="in use") as caught:
            await ready(manager, "two")
        assert caught.value.retry_after
        assert [model.reference for model in manager.running()] == ["one"]

    bench.run(scene, max_loaded_models=1, memory_wait=0.05)


def test_a_wait_for_memory_can_be_given_up_and_ends_with_the_server(bench: Bench, no_grace: None) -> None:
    bench.add_model("one", 1)
    bench.add_model("two", 2)

    async def scene(manager: ModelManager) -> None:
        await ready(manager, "one")
        manager.release(await manager.acquire("two", None))
        await until(lambda: len(manager.running()) == 1)
        waiting = await manager.acquire("two", None)
        await manager.stop()
        with pytest.raises(Unavailable):
            await manager.wait_ready(waiting)

    bench.run(scene, max_loaded_models=1, memory_wait=60.0)
    assert len(bench.pids("started")) == 1


def test_a_pinned_model_stays_and_the_refusal_says_so(bench: Bench) -> None:
    bench.add_model("one", 1)
    bench.add_model("two", 2)

    async def scene(manager: ModelManager) -> None:
        manager.release(await ready(manager, "one", -1.0))
        with pytest.raises(ModelLoadFailed, match="unload"):
            await ready(manager, "two")
        manager.release(await ready(manager, "one", 60.0))
        await ready(manager, "two")

    bench.run(scene, max_loaded_models=1, memory_wait=60.0)


def test_a_server_that_keeps_all_models_for_ever_pins_none(bench: Bench) -> None:
    bench.add_model("one", 1)
    bench.add_model("two", 2)

    async def scene(manager: ModelManager) -> None:
        manager.release(await ready(manager, "one", -1.0))
        await ready(manager, "two")
        assert [(model.reference, model.keep_alive) for model in manager.running()] == [("two", -1.0)]

    bench.run(scene, max_loaded_models=1, keep_alive=-1.0)


def test_a_limit_refuses_what_cannot_fit_before_anything_is_started(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        with pytest.raises(ModelLoadFailed, match="DMR_MEMORY_LIMIT allows"):
            await ready(manager, "one")

    bench.run(scene, memory_limit=1)
    assert bench.pids("started") == []


@pytest.mark.parametrize("limit", [0, -1])
def test_an_engine_that_finds_too_little_memory_is_tried_again_when_an_idle_one_has_gone(
    bench: Bench, limit: int
) -> None:
    bench.add_model("one", 1)
    bench.add_model("two", 2)

    async def scene(manager: ModelManager) -> None:
        manager.release(await ready(manager, "one"))
        bench.set_mode("crowded")
        await ready(manager, "two")
        assert [model.reference for model in manager.running()] == ["two"]

    bench.run(scene, memory_limit=limit)
    assert len(bench.pids("started")) == 3


def test_what_is_meant_for_others_is_told_to_an_engine(bench: Bench) -> None:
    bench.add_model("one", 1)
    bench.add_model("two", 2)

    async def scene(manager: ModelManager) -> None:
        first, second = await ready(manager, "one"), await ready(manager, "two")
        assert first.process.spec.reserved_bytes == 0
        assert 0 <= second.process.spec.reserved_bytes <= first.claim
        statistics = manager.statistics()
        assert {model.memory_bytes for model in statistics.models} == {first.claim, second.claim}

    bench.run(scene)


def test_counts_stay_when_a_model_is_unloaded_and_go_when_it_is_removed(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        for _ in range(3):
            manager.release(await ready(manager, "one"))
            await manager.unload(None)
        life: Any = told(manager)
        assert (life.state, life.num_loads, life.memory_bytes, life.evictions) == ("unloaded", 3, 0, {"unload": 3})
        assert life.load_seconds > 0
        await manager.remove("one", False)
        assert manager.statistics().models == ()

    bench.run(scene)
