from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

import pytest
from unit.manager.conftest import Bench, is_running, ready, until

from dmr.config import Settings
from dmr.errors import (
    Conflict,
    InvalidReference,
    ModelLoadFailed,
    ModelNotFound,
    ShuttingDown,
    StoreError,
    Unavailable,
)
from dmr.manager import model_manager
from dmr.manager.loaded_model import LoadedModel
from dmr.manager.model_manager import ModelManager


@pytest.fixture(autouse=True)
def quick_eviction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_manager, "EVICTION_INTERVAL", 0.02)


def test_a_model_is_loaded_once_and_shown(bench: Bench) -> None:
    model_id = bench.add_model()

    async def scene(manager: ModelManager) -> None:
        first = await manager.acquire("one", None)
        (shown,) = manager.running()
        assert (shown.state, shown.num_active, shown.keep_alive) == ("loading", 1, 300.0)
        await manager.wait_ready(first)
        second = await ready(manager, "ai/one:latest")
        assert second is first
        (shown,) = manager.running()
        assert (shown.id, shown.reference, shown.state, shown.num_active) == (model_id, "one", "ready", 2)
        assert [shown.pid] == bench.pids("started")
        assert manager.sockets() == (first.process.spec.socket,)
        manager.release(first)
        manager.release(second)
        assert manager.running()[0].num_active == 0

    bench.run(scene)


def test_many_at_once_start_one_engine(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        models = await asyncio.gather(*(ready(manager, "one") for _ in range(20)))
        assert len(set(map(id, models))) == len(bench.pids("started")) == 1
        assert manager.running()[0].num_active == 20

    bench.run(scene)


def test_different_models_have_engines_of_their_own(bench: Bench) -> None:
    bench.add_model("one", 1)
    bench.add_model("two", 2)

    async def scene(manager: ModelManager) -> None:
        one, two = await asyncio.gather(ready(manager, "one"), ready(manager, "two"))
        assert one.process.spec.socket != two.process.spec.socket
        assert {model.reference for model in manager.running()} == {"one", "two"}

    bench.run(scene)


@pytest.mark.parametrize(("name", "error"), [("absent", ModelNotFound), ("a//b", InvalidReference)])
def test_a_name_that_leads_nowhere(bench: Bench, name: str, error: type[Exception]) -> None:
    async def scene(manager: ModelManager) -> None:
        with pytest.raises(error):
            await manager.acquire(name, None)
        assert manager.running() == ()

    bench.run(scene)


def test_damaged_weights_start_no_engine(bench: Bench) -> None:
    bench.add_model()
    (weights,) = bench.store.files("one").weights
    weights.unlink()

    async def scene(manager: ModelManager) -> None:
        with pytest.raises(StoreError):
            await ready(manager, "one")

    bench.run(scene)
    assert bench.pids("started") == []


def test_an_engine_that_cannot_be_started(bench: Bench) -> None:
    bench.add_model()
    bench.command = (str(bench.folder / "absent"),)

    async def scene(manager: ModelManager) -> None:
        with pytest.raises(Unavailable, match="No engine can be started"):
            await ready(manager, "one")

    bench.run(scene)


@pytest.mark.parametrize("mode", ["refuses", "refuses and stays", "dies", "garbage"])
def test_a_failed_load_is_told_to_all_and_tried_again_by_the_next(bench: Bench, mode: str) -> None:
    bench.add_model()
    bench.set_mode(mode)

    async def scene(manager: ModelManager) -> None:
        results = await asyncio.gather(*(ready(manager, "one") for _ in range(3)), return_exceptions=True)
        assert [type(result) for result in results] == [ModelLoadFailed] * 3
        await until(lambda: manager.running() == ())
        bench.set_mode("ready")
        await ready(manager, "one")

    bench.run(scene)
    assert len(bench.pids("started")) == 2


def test_a_load_that_hangs_is_given_up_for_all_at_the_same_time(bench: Bench) -> None:
    bench.add_model()
    bench.set_mode("hangs")

    async def scene(manager: ModelManager) -> None:
        began = time.monotonic()
        results = await asyncio.gather(*(ready(manager, "one") for _ in range(3)), return_exceptions=True)
        assert time.monotonic() - began < 3
        for result in results:
            assert isinstance(result, ModelLoadFailed)
            assert "did not load within 0.4 seconds" in result.message
        await until(lambda: not any(map(is_running, bench.pids("started"))))

    bench.run(scene, load_timeout=0.4)


def test_a_load_that_hangs_is_given_up_even_if_nobody_waits(bench: Bench) -> None:
    bench.add_model()
    bench.set_mode("hangs")

    async def scene(manager: ModelManager) -> None:
        manager.release(await manager.acquire("one", None))
        await until(lambda: manager.running() == ())
        await until(lambda: not any(map(is_running, bench.pids("started"))))

    bench.run(scene, load_timeout=0.4)


def test_the_next_request_after_a_death_starts_a_new_engine(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        first = await ready(manager, "one")
        os.kill(first.process.pid, signal.SIGKILL)
        await until(lambda: manager.running() == ())
        second = await ready(manager, "one")
        assert second.process.pid != first.process.pid
        manager.release(first)  # the old lease is still given back, and does not count for the new engine
        assert manager.running()[0].num_active == 1

    bench.run(scene)


# --- keep-alive ------------------------------------------------------------------------------------------------------


async def evicting(manager: ModelManager, scene: Any) -> None:
    task = asyncio.ensure_future(manager.evict_idle())
    try:
        await scene
    finally:
        task.cancel()


def test_zero_unloads_with_the_last_lease(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        one, two = await ready(manager, "one", 0.0), await ready(manager, "one")
        manager.release(one)
        assert len(manager.running()) == 1
        manager.release(two)
        assert manager.running() == ()
        await until(lambda: not is_running(one.process.pid))

    bench.run(scene)


def test_an_idle_model_is_unloaded_after_its_time(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        model = await ready(manager, "one", 0.1)
        await asyncio.sleep(0.15)
        assert len(manager.running()) == 1  # it is in use
        manager.release(model)
        released = time.monotonic()
        await until(lambda: manager.running() == ())
        assert time.monotonic() - released >= 0.09

    bench.run(lambda manager: evicting(manager, scene(manager)))


@pytest.mark.parametrize("keep_alive", [-1.0, 300.0])
def test_an_idle_model_stays(bench: Bench, keep_alive: float) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        manager.release(await ready(manager, "one", keep_alive))
        await asyncio.sleep(0.1)
        assert [model.keep_alive for model in manager.running()] == [keep_alive]

    bench.run(lambda manager: evicting(manager, scene(manager)))


def test_the_last_wish_counts_and_none_is_no_wish(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        for wish, kept in [(None, 33.0), (5.0, 5.0), (None, 5.0), (-1.0, -1.0)]:
            manager.release(await ready(manager, "one", wish))
            assert manager.running()[0].keep_alive == kept

    bench.run(scene, keep_alive=33.0)


def test_a_new_engine_waits_until_the_old_one_has_given_its_memory_back(bench: Bench) -> None:
    bench.add_model("one", 1)
    bench.add_model("two", 2)
    bench.set_mode("lingers")

    async def scene(manager: ModelManager) -> None:
        manager.release(await ready(manager, "one", 0.0))
        await ready(manager, "two")

    bench.run(scene)
    assert bench.times("ended")[0] <= bench.times("told")[1]


# --- unload, remove, stop --------------------------------------------------------------------------------------------


def test_unload_leaves_busy_models(bench: Bench) -> None:
    bench.add_model("one", 1)
    bench.add_model("two", 2)

    async def scene(manager: ModelManager) -> None:
        busy, idle = await ready(manager, "one"), await ready(manager, "two")
        manager.release(idle)
        assert await manager.unload(None) == 1
        assert [model.reference for model in manager.running()] == ["one"]
        assert not is_running(idle.process.pid)
        with pytest.raises(Conflict, match="'one'"):
            await manager.unload(("one",))
        assert len(manager.running()) == 1
        manager.release(busy)
        assert await manager.unload(("one", "ai/one:latest", "two")) == 1
        assert await manager.unload(None) == 0
        with pytest.raises(ModelNotFound):
            await manager.unload(("absent",))

    bench.run(scene)


def test_a_model_in_use_is_removed_by_force_only(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        model = await ready(manager, "one")
        with pytest.raises(Conflict, match="in use"):
            await manager.remove("one", False)
        assert len(manager.running()) == len(bench.store.models()) == 1
        removal = await manager.remove("one", True)
        assert removal.deleted
        assert manager.running() == ()
        assert not is_running(model.process.pid)
        assert bench.store.models() == []
        with pytest.raises(ModelNotFound):
            await manager.acquire("one", None)

    bench.run(scene)


def test_an_idle_model_is_unloaded_before_it_is_removed(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        manager.release(await ready(manager, "one"))
        await manager.remove("one", False)
        assert manager.running() == ()

    bench.run(scene)


def test_one_of_several_names_can_go_while_the_model_is_in_use(bench: Bench) -> None:
    model_id = bench.add_model()
    bench.store.tag("one", "other")

    async def scene(manager: ModelManager) -> None:
        await ready(manager, "one")
        assert (await manager.remove("one", False)).deleted == ()
        assert len(manager.running()) == 1
        bench.store.tag("other", "third")
        with pytest.raises(Conflict):
            await manager.remove(model_id, False)  # by its id, with all its names
        assert (await manager.remove(model_id, True)).deleted
        assert manager.running() == ()

    bench.run(scene)


def test_a_request_during_a_removal_gets_the_model_or_a_clear_answer(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        for turn in range(10):
            bench.add_model()
            removal, *others = await asyncio.gather(
                manager.remove("one", turn % 2 == 0),
                *(ready(manager, "one") for _ in range(2)),
                return_exceptions=True,
            )
            for other in others:
                if isinstance(other, BaseException):
                    assert isinstance(other, (ModelNotFound, Unavailable, ModelLoadFailed))
                else:
                    manager.release(other)
            if not isinstance(removal, BaseException):
                assert manager.running() == ()

    bench.run(scene)


def test_stop_ends_all_and_lets_nobody_in(bench: Bench) -> None:
    bench.add_model("one", 1)
    bench.add_model("two", 2)

    async def scene(manager: ModelManager) -> None:
        await ready(manager, "one")
        bench.set_mode("hangs")
        loading = await manager.acquire("two", None)
        await until(lambda: loading.progress > 0)
        await manager.stop()
        assert not any(map(is_running, bench.pids("started")))
        with pytest.raises(ShuttingDown):
            await manager.acquire("one", None)
        with pytest.raises(Unavailable):
            await manager.wait_ready(loading)

    bench.run(scene)


@pytest.mark.parametrize("pause", [0.0, 0.001, 0.003, 0.01, 0.1])
def test_an_engine_that_was_just_being_started_ends_too(bench: Bench, pause: float) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        acquiring = asyncio.ensure_future(manager.acquire("one", None))
        await asyncio.sleep(pause)
        await manager.stop()
        (result,) = await asyncio.gather(acquiring, return_exceptions=True)
        assert isinstance(result, (LoadedModel, ShuttingDown))
        await until(lambda: not any(map(is_running, bench.pids("started"))))

    bench.run(scene)


def test_settings_reach_the_engine(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        model = await ready(manager, "one")
        assert model.process.spec.settings == Settings().engine
        assert model.process.spec.log_level == "debug"
        assert [str(path) for path in bench.store.files("one").weights] == list(model.process.spec.weights)

    bench.run(scene, log_level="debug")
