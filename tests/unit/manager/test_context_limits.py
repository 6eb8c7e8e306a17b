"""Larger contexts that cannot be had, or not now: what they may cost others."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from unit.manager.conftest import Bench, ready

from dmr.config import EngineSettings
from dmr.errors import ModelLoadFailed, ModelNotFound, Unavailable
from dmr.manager import context_limits, loaded_model
from dmr.manager.context_limits import ContextLimit
from dmr.manager.model_manager import ModelManager

SMALL = EngineSettings(context_size=64)


def test_what_is_known_to_fail_is_not_asked_for_again() -> None:
    limit = ContextLimit()
    assert limit.attainable(1000, 0) == 1000
    limit.fails(1000, 0)
    limit.fails(2000, 0)
    assert [limit.attainable(wanted, 1) for wanted in (999, 1000, 5000)] == [999, None, None]
    limit.works(500)
    assert limit.attainable(1000, 1) == 500
    limit.fails(500, 1)
    assert [limit.attainable(wanted, 1) for wanted in (499, 500)] == [499, None]
    assert limit.attainable(500, 1 + context_limits.TRY_AGAIN) == 500


def test_what_an_engine_says_to_fit_is_had() -> None:
    limit = ContextLimit()
    limit.fails(4000, 0, fitting=3000)
    assert [limit.attainable(wanted, 1) for wanted in (2000, 3500, 4000, 9000)] == [2000, 3500, 3000, 3000]
    limit.works(3000)
    limit.fails(3000, 1, fitting=2500)
    assert limit.attainable(4000, 2) == 2500
    limit.fails(2500, 3, fitting=2500)  # it contradicts itself
    assert limit.attainable(4000, 4) is None


def test_instead_of_a_context_that_is_too_large_there_is_the_largest_that_fits(bench: Bench) -> None:
    bench.add_model()
    bench.set_mode("knows 700")

    async def scene(manager: ModelManager) -> None:
        for asked, given in ((1500, 700), (None, 700), (1600, 700), (699, 700)):
            model = await ready(manager, "one", context_size=asked)
            assert model.context_size == given
            manager.release(model)

    bench.run(scene, engine=SMALL)
    assert len(bench.pids("started")) == 2  # 1500 in vain, 700


def test_a_size_that_was_set_and_does_not_fit_fails_with_its_numbers(bench: Bench) -> None:
    bench.add_model()
    bench.set_mode("knows 700")

    async def scene(manager: ModelManager) -> None:
        with pytest.raises(ModelLoadFailed, match="too large") as caught:
            await ready(manager, "one")
        assert caught.value.details == {"fitting_context": 700}

    bench.run(scene, engine=EngineSettings(context_size=2000))


def test_a_context_that_cannot_be_had_is_tried_once_and_what_worked_is_used(bench: Bench) -> None:
    bench.add_model()
    bench.set_mode("fits 700")

    async def scene(manager: ModelManager) -> None:
        for asked, given in ((None, 64), (1500, 64), (None, 64), (1600, 64), (600, 600), (1500, 600), (None, 600)):
            models = await asyncio.gather(*(ready(manager, "one", context_size=asked) for _ in range(3)))
            assert {model.context_size for model in models} == {given}
            assert [(each.state, each.context_size) for each in manager.running()] == [("ready", given)]
            for model in models:
                manager.release(model)

    bench.run(scene, engine=SMALL)
    assert len(bench.pids("started")) == 4  # 64, 1500 in vain, 64, 600


def test_the_size_that_worked_comes_before_the_default(bench: Bench) -> None:
    bench.add_model()
    bench.set_mode("fits 700")

    async def scene(manager: ModelManager) -> None:
        for asked in (600, 900):
            model = await ready(manager, "one", 7.0, context_size=asked)
            assert model.context_size == 600
            manager.release(model)
        assert manager.running()[0].keep_alive == 7.0

    bench.run(scene, engine=SMALL)


def test_a_model_that_does_not_load_at_all_fails_with_its_reason(bench: Bench) -> None:
    bench.add_model()
    bench.set_mode("refuses")

    async def scene(manager: ModelManager) -> None:
        with pytest.raises(ModelLoadFailed, match="tensors are wrong"):
            await ready(manager, "one", context_size=900)
        assert not manager.running()

    bench.run(scene, engine=SMALL)
    assert len(bench.pids("started")) == 2


@pytest.mark.parametrize("pause", [0.0, 0.1, 0.15, 0.2, 0.3])
def test_ending_while_less_is_tried_leaves_no_engine(bench: Bench, pause: float) -> None:
    bench.add_model()
    bench.set_mode("fits 700")

    async def scene(manager: ModelManager) -> None:
        model = await manager.acquire("one", None, 1500)
        await asyncio.sleep(pause)
        await manager.remove("one", True)
        with contextlib.suppress(Unavailable, ModelLoadFailed, ModelNotFound):
            await manager.wait_ready(model)
        assert not manager.running()

    bench.run(scene, engine=SMALL)


def test_a_wish_does_not_wait_for_ever_and_holds_others_up_only_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded_model, "PATIENCE", 0.3)
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        slow = await ready(manager, "one")
        asked = (1500, None, 900, 1500, None)
        models = await asyncio.wait_for(
            asyncio.gather(*(ready(manager, "one", context_size=wanted) for wanted in asked)), 0.3 * 1.8
        )
        assert all(model is slow for model in models)
        late = asyncio.ensure_future(ready(manager, "one", context_size=1500))
        assert await asyncio.wait_for(late, 0.2) is slow  # the time of this engine is used up
        for model in (slow, *models, slow):
            manager.release(model)
        larger = await ready(manager, "one", context_size=1500)
        assert larger.context_size == 1500

    bench.run(scene, engine=SMALL)
