"""Changes of the store through the manager, which knows what is loaded."""

from __future__ import annotations

import asyncio
import io
import time

import pytest
from unit.manager.conftest import Bench, ready
from unit.store.archives import tar_of, upstream_archive
from unit.store.gguf_bytes import gguf_bytes

from dmr.errors import Conflict, DmrError, InvalidReference, ModelNotFound
from dmr.manager.model_manager import ModelManager
from dmr.manager.store_changes import StoreChanges
from dmr.store.archive import receive_archive
from dmr.types import Repackaging


def test_a_copy_is_one_more_name(bench: Bench) -> None:
    model_id = bench.add_model()

    async def scene(manager: ModelManager) -> None:
        changes = StoreChanges(bench.store, manager)
        record = await changes.tag("one", "other:v2")
        assert (record.id, set(record.tags)) == (model_id, {"docker.io/ai/one:latest", "docker.io/ai/other:v2"})
        with pytest.raises(ModelNotFound):
            await changes.tag("absent", "other")

    bench.run(scene)


def test_an_import_goes_into_the_store_and_takes_the_file(bench: Bench) -> None:
    bench.add_model()
    path = bench.folder / "upload.gguf"
    path.write_bytes((bench.folder / "one.gguf").read_bytes())

    async def scene(manager: ModelManager) -> None:
        record = await StoreChanges(bench.store, manager).import_model(path, "fresh")
        assert "docker.io/ai/fresh:latest" in record.tags
        assert not path.exists()

    bench.run(scene)


def test_an_archive_that_a_frontend_received_becomes_a_model(bench: Bench) -> None:
    archive = receive_archive(bench.store, io.BytesIO(tar_of(upstream_archive(gguf_bytes()))))

    async def scene(manager: ModelManager) -> None:
        changes = StoreChanges(bench.store, manager)
        with pytest.raises(InvalidReference):
            await changes.adopt(archive, "a b")
        assert (await changes.adopt(archive, "")).tags == ()
        assert (await changes.adopt(archive, "x")).tags == ("docker.io/ai/x:latest",)

    bench.run(scene)


def test_repackaging(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        changes = StoreChanges(bench.store, manager)
        record = await changes.repackage("one", Repackaging("two", context_size=77))
        assert record.config.context_size == 77
        with pytest.raises(ModelNotFound):
            await changes.repackage("absent", Repackaging("two"))

    bench.run(scene)


def test_a_purge_spares_all_while_one_is_in_use(bench: Bench) -> None:
    bench.add_model("one", 1)
    bench.add_model("two", 2)

    async def scene(manager: ModelManager) -> None:
        changes = StoreChanges(bench.store, manager)
        model = await ready(manager, "one")
        manager.release(await ready(manager, "two"))
        with pytest.raises(Conflict, match="In use: 'one'"):
            await changes.purge(False)
        assert len(bench.store.models()) == len(manager.running()) == 2
        manager.release(model)
        assert len((await changes.purge(False)).deleted) == 2
        assert (bench.store.models(), manager.running()) == ([], ())
        with pytest.raises(ModelNotFound):
            await manager.acquire("one", None)

    bench.run(scene)


def test_a_purge_with_force_ends_what_is_in_use(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        model = await ready(manager, "one")
        assert (await StoreChanges(bench.store, manager).purge(True)).untagged == ("docker.io/ai/one:latest",)
        assert not model.process.is_alive
        manager.release(model)

    bench.run(scene)


def test_nothing_is_loaded_while_a_purge_is_under_way(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        purge = asyncio.ensure_future(StoreChanges(bench.store, manager).purge(True))
        wishes = [asyncio.ensure_future(manager.acquire("one", None)) for _ in range(5)]
        await purge
        for result in await asyncio.gather(*wishes, return_exceptions=True):
            if isinstance(result, BaseException):  # there was no model any more
                assert isinstance(result, ModelNotFound)
                continue
            with pytest.raises(DmrError):  # it came first and was ended, or its files are gone
                await manager.wait_ready(result)
            manager.release(result)
        assert manager.running() == ()

    bench.run(scene)


def test_what_no_model_needs_is_collected_from_the_start(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.add_model()
    orphan = bench.store.root / "blobs" / "sha256" / ("0" * 64)
    orphan.write_bytes(b"x")
    in_a_month = time.time() + 30 * 24 * 3600
    monkeypatch.setattr("dmr.store.housekeeping.time.time", lambda: in_a_month)

    async def scene(manager: ModelManager) -> None:
        collected = asyncio.Event()
        loop, collect = asyncio.get_running_loop(), bench.store.collect

        def collect_and_tell() -> int:
            try:
                return collect()
            finally:
                loop.call_soon_threadsafe(collected.set)

        monkeypatch.setattr(bench.store, "collect", collect_and_tell)
        task = asyncio.ensure_future(StoreChanges(bench.store, manager).collect_for_ever())
        await collected.wait()
        task.cancel()

    bench.run(scene)
    assert not orphan.exists()


def test_what_another_server_has_loaded_is_not_removed_by_accident(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        other = bench.manager()
        changes = StoreChanges(bench.store, manager)
        try:
            other.release(await ready(other, "one"))
            with pytest.raises(Conflict, match="by another process"):
                await manager.remove("one", False)
            with pytest.raises(Conflict, match="by another process"):
                await changes.purge(False)
            assert len(bench.store.models()) == 1
            await other.unload(None)
            assert (await manager.remove("one", False)).deleted
        finally:
            await other.stop()

    bench.run(scene)


def test_force_takes_no_heed_of_another_server(bench: Bench) -> None:
    bench.add_model()

    async def scene(manager: ModelManager) -> None:
        other = bench.manager()
        try:
            model = await ready(other, "one")
            assert (await manager.remove("one", True)).deleted
            assert model.is_alive  # it goes on with the files that it has open
        finally:
            await other.stop()

    bench.run(scene)
