"""A model that is configured anew: its engine follows, and nobody who is being answered loses it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from unit.manager.conftest import Bench, is_running, ready, until

from dmr.config import EngineSettings, Settings
from dmr.errors import Conflict, InvalidRequest, ModelNotFound
from dmr.manager import loaded_model, model_manager
from dmr.manager.model_manager import ModelManager
from dmr.types import ConfigurationChange, Mode
from dmr.wire import EngineSpec

ALONE: Any = {"max_loaded_models": 1}  # there is no room for a second engine


async def configure(manager: ModelManager, mode: Mode | None = None, name: str = "one", **fields: Any) -> None:
    if "flags" in fields:
        fields["runtime_flags"] = tuple(fields.pop("flags").split())
    await manager.configure(name, mode, ConfigurationChange(**fields))


def contexts(manager: ModelManager) -> list[int]:
    return [model.context_size for model in manager.running()]


async def loaded(manager: ModelManager, num_engines: int = 1) -> None:
    await until(lambda: len(contexts(manager)) == num_engines and 0 not in contexts(manager))


def test_an_engine_is_started_as_configured(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        await configure(manager, context_size=64, flags="-ctk q8_0 --no-mmap -v --parallel 3", keep_alive=77.0)
        await configure(manager, Mode.EMBEDDING, context_size=32, flags="--pooling cls")
        model = await ready(manager, "one")
        assert (model.keep_alive, contexts(manager)) == (77.0, [64])
        spec = msgspec.json.decode((bench.folder / "spec").read_bytes(), type=EngineSpec)
        assert (spec.settings.context_size, spec.settings.max_num_seqs) == (64, 3)
        assert spec.settings.attention.key_type == "q8_0"
        assert not spec.settings.weights.use_mmap
        assert spec.embedding is not None
        assert (spec.embedding.context_size, spec.embedding.pooling) == (32, "cls")
        assert not spec.embedding.weights.use_mmap  # the weights are loaded once
        assert (spec.reranking, spec.log_level) == (None, "debug")

    bench.run(scene)


def test_it_is_loaded_at_once(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        await configure(manager, context_size=64)
        assert [model.num_active for model in manager.running()] == [0]
        await loaded(manager)
        assert contexts(manager) == [64]

    bench.run(scene)


def test_one_that_is_to_go_when_idle_is_not_loaded_for_nobody(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        await configure(manager, context_size=64, keep_alive=0.0)
        assert manager.running() == ()

    bench.run(scene)


def test_an_idle_engine_is_replaced(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        manager.release(await ready(manager, "one", keep_alive=123.0))
        await configure(manager, context_size=64)
        await loaded(manager)
        (shown,) = manager.running()
        assert (shown.context_size, shown.keep_alive) == (64, 123.0)  # what a request has said of it stays
        assert len(bench.pids("started")) == 2
        await until(lambda: not is_running(bench.pids("started")[0]))

    bench.run(scene)


def test_one_in_use_answers_on_beside_the_new_one(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        old = await ready(manager, "one")
        await configure(manager, context_size=64)
        await loaded(manager, 2)
        new = await ready(manager, "one")
        assert (new.context_size, old.context_size) == (64, 512)
        assert [(model.context_size, model.num_active) for model in manager.running()] == [(64, 1), (512, 1)]
        assert len(manager.sockets()) == 2
        assert all(map(is_running, bench.pids("started")))
        with pytest.raises(Conflict, match="'one', 'one'"):
            await manager.unload(("one",))
        manager.release(old)
        await until(lambda: not is_running(bench.pids("started")[0]))
        assert contexts(manager) == [64]
        assert (await ready(manager, "one")) is new

    bench.run(scene)


def test_several_changes_leave_one_engine(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        leases = [await ready(manager, "one")]
        await configure(manager, context_size=64)
        leases.append(await ready(manager, "one"))
        for size in (128, 256):
            await configure(manager, context_size=size)
        assert sorted(contexts(manager)) == [64, 512]  # never more than two
        for lease in leases:
            manager.release(lease)
        assert (await ready(manager, "one")).context_size == 256
        await until(lambda: sum(map(is_running, bench.pids("started"))) == 1)
        assert contexts(manager) == [256]

    bench.run(scene)


def test_without_room_the_next_wait_until_it_is_idle(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        old = await ready(manager, "one")
        await configure(manager, context_size=64)
        assert contexts(manager) == [512]
        next_one = asyncio.ensure_future(ready(manager, "one"))
        await asyncio.sleep(0.05)
        assert not next_one.done()
        assert is_running(old.process.pid)
        manager.release(old)
        assert (await next_one).context_size == 64

    bench.run(scene, **ALONE)


def test_without_room_an_idle_one_goes_at_the_end_of_its_use(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        old = await ready(manager, "one")
        await configure(manager, context_size=64)
        manager.release(old)
        await until(lambda: not is_running(bench.pids("started")[0]))
        assert (await ready(manager, "one")).context_size == 64

    bench.run(scene, **ALONE)


def test_who_has_waited_in_vain_gets_the_old_one(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded_model, "PATIENCE", 0.05)
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        old = await ready(manager, "one")
        await configure(manager, context_size=64)
        assert (await ready(manager, "one")) is old
        assert (await ready(manager, "one")) is old  # nor does anybody else wait for now
        for _ in range(3):
            manager.release(old)
        assert (await ready(manager, "one")).context_size == 64

    bench.run(scene, **ALONE)


def test_a_change_back_leaves_the_engine_alone(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        old = await ready(manager, "one")
        await configure(manager, context_size=64)
        await configure(manager, context_size=None)
        manager.release(old)
        assert (await ready(manager, "one")) is old

    bench.run(scene, **ALONE)


@pytest.mark.parametrize(
    "fields", [{"keep_alive": -1.0}, {"flags": "--temp 0.5 --top-k 3"}, {"reasoning_budget": 0}, {"flags": "--jinja"}]
)
def test_what_needs_no_other_engine_restarts_none(bench: Bench, fields: dict[str, Any]) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        manager.release(await ready(manager, "one"))
        await configure(manager, **fields)
        assert bench.pids("started") == [manager.running()[0].pid]
        assert manager.running()[0].keep_alive == fields.get("keep_alive", 300.0)

    bench.run(scene)


def test_keep_alive_counts_at_once_and_a_request_may_say_otherwise(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_manager, "EVICTION_INTERVAL", 0.02)
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        await configure(manager, keep_alive=50.0)
        model = await ready(manager, "one")
        assert model.keep_alive == 50.0
        manager.release(await ready(manager, "one", keep_alive=60.0))
        assert model.keep_alive == 60.0
        manager.release(model)
        evicting = asyncio.ensure_future(manager.evict_idle())
        await configure(manager, keep_alive=0.0)
        await until(lambda: manager.running() == ())
        evicting.cancel()

    bench.run(scene)


def test_reset_goes_back(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        await configure(manager, context_size=64, keep_alive=50.0)
        await loaded(manager)
        assert await manager.reset_configuration("one", None) == 1
        await until(lambda: contexts(manager) == [512])
        assert manager.running()[0].keep_alive == 300.0
        assert await manager.reset_configuration(None, None) == 0

    bench.run(scene)


def test_reset_loads_nothing(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        await configure(manager, context_size=64)
        await manager.unload(None)
        assert await manager.reset_configuration(None, None) == 1
        assert manager.running() == ()

    bench.run(scene)


def test_a_restarted_manager_knows_them(bench: Bench) -> None:
    bench.add_model()

    async def first(manager: ModelManager) -> None:
        await configure(manager, context_size=64)

    async def second(manager: ModelManager) -> None:
        assert (await ready(manager, "one")).context_size == 64

    bench.run(first)
    bench.run(second)


def test_a_request_for_more_context_gets_it(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        await configure(manager, context_size=64, flags="--no-mmap")
        model = await ready(manager, "one", context_size=32)
        assert model.context_size == 64
        manager.release(model)
        larger = await ready(manager, "one", context_size=128)
        assert larger.context_size == 128
        assert not larger.settings.weights.use_mmap

    bench.run(scene)


def test_a_loading_engine_is_replaced_too(bench: Bench) -> None:
    bench.add_model()
    bench.set_mode("hangs")

    async def scene(manager: ModelManager) -> None:
        await configure(manager, flags="--no-mmap")
        await until(lambda: len(bench.pids("told")) == 1)
        bench.set_mode("ready")
        await configure(manager, context_size=64)
        await loaded(manager)
        assert contexts(manager) == [64]
        await until(lambda: not is_running(bench.pids("started")[0]))

    bench.run(scene)


def test_an_engine_that_cannot_be_had_is_told_to_those_who_want_it(bench: Bench) -> None:
    bench.add_model()
    bench.set_mode("fits 100")

    async def scene(manager: ModelManager) -> None:
        await configure(manager, context_size=200)  # kept, whether it works is found out
        with pytest.raises(Exception, match="the tensors are wrong"):
            await ready(manager, "one")
        await configure(manager, context_size=100)
        assert (await ready(manager, "one")).context_size == 100

    bench.run(scene)


def test_wrong_wishes_change_nothing(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        with pytest.raises(InvalidRequest, match="not allowed"):
            await configure(manager, flags="--log-file x")
        with pytest.raises(ModelNotFound):
            await configure(manager, name="missing", context_size=64)
        assert manager.running() == ()

    bench.run(scene)


def test_stopping_and_removing_end_both_engines(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        await ready(manager, "one")
        await configure(manager, context_size=64)
        await loaded(manager, 2)
        with pytest.raises(Conflict, match="in use"):
            await manager.remove("one", False)
        await manager.remove("one", True)
        assert manager.running() == ()

    bench.run(scene)


def test_the_servers_own_settings_stay_where_nothing_is_said(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        await configure(manager, flags="--parallel 5")
        settings = (await ready(manager, "one")).process.spec.settings
        assert (settings.max_num_seqs, settings.num_threads, settings.context_size) == (5, 2, 96)

    bench.run(scene, engine=EngineSettings(num_threads=2, context_size=96))
    assert Settings().engine.max_num_seqs == 32
