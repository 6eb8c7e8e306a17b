"""Requests that need a larger context than the engine has that runs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from unit.manager.conftest import Bench, is_running, ready, until

from dmr.config import EngineSettings
from dmr.errors import Conflict, ModelNotFound, ShuttingDown, Unavailable
from dmr.manager.model_manager import ModelManager

# Engines have 64 tokens unless more are asked for.
SMALL: Any = {"keep_alive": 33.0, "engine": EngineSettings(context_size=64)}
TRAINED = 2048  # what the bench's models say of themselves


def sizes(manager: ModelManager) -> list[int]:
    return [model.context_size for model in manager.running()]


@pytest.mark.parametrize(
    ("default", "asked", "given"),
    [
        (0, None, 0),
        (0, 100, 0),  # the engine's own choice is larger
        (0, 1_000_000, 0),  # or the most that there is
        (64, 1500, 1500),
        (64, 50, 64),
        (4096, 3000, 4096),  # somebody has set it above what the model was trained for
    ],
)
def test_a_fresh_engine_gets_what_was_asked(bench: Bench, default: int, asked: int | None, given: int) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        model = await ready(manager, "one", context_size=asked)
        assert model.process.spec.settings.context_size == given
        assert sizes(manager) == [given or 512]

    bench.run(scene, engine=EngineSettings(context_size=default))


def test_ps_shows_context_and_size(bench: Bench) -> None:
    bench.add_model()
    bench.set_mode("hangs")

    async def scene(manager: ModelManager) -> None:
        model = await manager.acquire("one", None)
        assert sizes(manager) == [0]
        manager.release(model)
        await manager.unload(None)
        bench.set_mode("ready")
        await ready(manager, "one", context_size=700)
        (shown,) = manager.running()
        assert shown.context_size == 700
        assert shown.size == bench.store.get("one").size

    bench.run(scene, **SMALL)


def test_an_idle_engine_is_replaced_and_never_shrinks(bench: Bench) -> None:
    bench.add_model()
    bench.set_mode("lingers")

    async def scene(manager: ModelManager) -> None:
        first = await ready(manager, "one", 7.0)
        manager.release(first)
        larger = await ready(manager, "one", context_size=500)
        assert not is_running(first.process.pid)
        assert sizes(manager) == [500]
        assert manager.running()[0].keep_alive == 7.0  # the last wish still counts
        manager.release(larger)
        for asked in (None, 64, 500):
            again = await ready(manager, "one", context_size=asked)
            assert again is larger
            manager.release(again)

    bench.run(scene, **SMALL)
    assert bench.times("ended")[0] <= bench.times("told")[1]


def test_many_equal_wishes_restart_once(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        manager.release(await ready(manager, "one"))
        models = await asyncio.gather(*(ready(manager, "one", context_size=900) for _ in range(20)))
        assert len(set(map(id, models))) == 1
        for model in models:
            manager.release(model)
        manager.release(await ready(manager, "one", context_size=TRAINED))
        manager.release(await ready(manager, "one", context_size=10 * TRAINED))  # no more can be had

    bench.run(scene, **SMALL)
    assert len(bench.pids("started")) == 3


def test_an_engine_that_is_still_loading_counts_as_what_it_will_be(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        models = await asyncio.gather(ready(manager, "one"), ready(manager, "one", context_size=2000))
        assert models[0] is models[1]

    bench.run(scene)


def test_a_larger_wish_waits_for_those_at_work_and_is_not_overtaken(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        at_work = [await ready(manager, "one") for _ in range(2)]
        wish = asyncio.ensure_future(ready(manager, "one", context_size=800))
        await asyncio.sleep(0.02)
        late = asyncio.ensure_future(ready(manager, "one"))  # would be content with the small engine
        manager.release(at_work[0])
        await asyncio.sleep(0.05)
        assert not wish.done()
        assert not late.done()
        assert manager.running()[0].num_active == 1
        manager.release(at_work[1])
        larger, other = await asyncio.gather(wish, late)
        assert larger is other
        assert sizes(manager) == [800]
        assert manager.running()[0].num_active == 2

    bench.run(scene, **SMALL)


def test_who_gives_up_waiting_lets_the_others_go_on(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        at_work = await ready(manager, "one")
        wish = asyncio.ensure_future(ready(manager, "one", context_size=800))
        await asyncio.sleep(0.02)
        late = asyncio.ensure_future(ready(manager, "one"))
        await asyncio.sleep(0.02)
        wish.cancel()
        assert await late is at_work
        assert manager.running()[0].num_active == 2

    bench.run(scene, **SMALL)
    assert len(bench.pids("started")) == 1


@pytest.mark.parametrize("pause", [0.0, 0.001, 0.003, 0.01, 0.03])
def test_giving_up_at_any_moment_leaves_no_lease(bench: Bench, pause: float) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        wish = asyncio.ensure_future(manager.acquire("one", None, 800))
        await asyncio.sleep(pause)
        wish.cancel()
        (result,) = await asyncio.gather(wish, return_exceptions=True)
        if not isinstance(result, BaseException):
            manager.release(result)
        if len(manager.running()):
            await until(lambda: manager.running()[0].num_active == 0)
        else:
            await asyncio.sleep(0.2)
            assert sum(model.num_active for model in manager.running()) == 0

    bench.run(scene)


def test_a_waiting_wish_ends_with_the_model_and_with_the_server(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        await ready(manager, "one")
        wish = asyncio.ensure_future(ready(manager, "one", context_size=800))
        await asyncio.sleep(0.02)
        with pytest.raises(Conflict):
            await manager.remove("one", False)
        await manager.remove("one", True)
        with pytest.raises((ModelNotFound, Unavailable)):
            await wish
        bench.add_model()
        await ready(manager, "one")
        wish = asyncio.ensure_future(ready(manager, "one", context_size=800))
        await asyncio.sleep(0.02)
        await manager.stop()
        with pytest.raises(ShuttingDown):
            await wish

    bench.run(scene, **SMALL)


def test_an_engine_that_dies_makes_room_for_the_larger_one(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        at_work = await ready(manager, "one")
        wish = asyncio.ensure_future(ready(manager, "one", context_size=800))
        await asyncio.sleep(0.02)
        await at_work.process.stop()
        assert (await wish).context_size == 800

    bench.run(scene, **SMALL)
