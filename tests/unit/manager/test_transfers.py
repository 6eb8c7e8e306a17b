"""Pulls in the manager: one for all who want the same, and one that goes on after the manager was killed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from certificates import make_certificates
from loopback_registry import LoopbackRegistry, running
from transfer_models import MIB, NOBODY, blobs_of, weights, whole_model

from dmr.client import ManagerClient
from dmr.config import RegistrySettings, Settings
from dmr.errors import RemoteModelNotFound, ShuttingDown, Unavailable
from dmr.manager.transfers import MAX_TRANSFERS, Transfers
from dmr.store.store import ModelStore
from dmr.store.transfers import push
from dmr.types import TransferProgress
from dmr.wire import PullModel

Steps = AsyncIterator[TransferProgress]


@pytest.fixture
def registry() -> Iterator[LoopbackRegistry]:
    with running(LoopbackRegistry()) as server:
        yield server


@pytest.fixture
def source(registry: LoopbackRegistry, tmp_path: Path) -> ModelStore:
    """A store whose model of seven layers is in the registry as well."""
    store = ModelStore(tmp_path / "source")
    whole_model(store, tmp_path, "test/model")
    push(store, "test/model", f"{registry.host}/test/model", NOBODY, lambda _: None)
    registry.requests.clear()
    return store


@pytest.fixture
def name(registry: LoopbackRegistry, source: ModelStore) -> str:
    return f"{registry.host}/test/model"


@pytest.fixture
def target(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "target")


def play(
    store: ModelStore, scene: Callable[[Transfers], Coroutine[Any, Any, None]], registry: RegistrySettings | None = None
) -> None:
    async def run() -> None:
        transfers = Transfers(store, Settings(registry=registry or RegistrySettings()), {})
        try:
            await asyncio.wait_for(scene(transfers), 30)
        finally:
            await transfers.stop()

    asyncio.run(run())


async def all_of(steps: Steps) -> list[TransferProgress]:
    return [step async for step in steps]


# --- one transfer for all --------------------------------------------------------------------------------------------


def test_eight_who_pull_the_same_share_one_transfer(
    name: str, source: ModelStore, target: ModelStore, registry: LoopbackRegistry
) -> None:
    registry.seconds_per_mib = 0.05

    async def scene(transfers: Transfers) -> None:
        spellings = [name, f" {name}", f"{name}:latest", name.replace("test/model", "Test/Model")] * 2
        seen = await asyncio.gather(*(all_of(transfers.pull(spelling, None, False)) for spelling in spellings))
        for steps in seen:
            done = {step.layer: step.layer_done for step in steps}
            assert done == {digest: len(data) for digest, data in registry.blobs.items()}

    play(target, scene)
    assert blobs_of(target, name) == blobs_of(source, "test/model")
    assert registry.bytes_sent == {digest: len(data) for digest, data in registry.blobs.items()}
    assert registry.count("GET", "/manifests/") == 1


def test_who_comes_later_is_told_at_once_how_far_it_is(
    name: str, target: ModelStore, registry: LoopbackRegistry
) -> None:
    registry.seconds_per_mib = 0.3

    async def scene(transfers: Transfers) -> None:
        early = transfers.pull(name, None, False)
        furthest = 0
        while furthest < MIB:
            furthest = max(furthest, (await anext(early)).layer_done)
        late = transfers.pull(name, None, False)
        begun = [await anext(late) for _ in range(len(registry.blobs))]
        assert max(step.layer_done for step in begun) >= furthest
        await all_of(early)
        await all_of(late)

    play(target, scene)
    assert registry.bytes_sent == {digest: len(data) for digest, data in registry.blobs.items()}


def test_one_who_is_slow_is_told_the_latest_and_the_end(
    name: str, target: ModelStore, registry: LoopbackRegistry
) -> None:
    async def scene(transfers: Transfers) -> None:
        slow = transfers.pull(name, None, False)
        await anext(slow)
        quick = await all_of(transfers.pull(name, None, False))
        assert quick
        rest = await all_of(slow)
        assert len(rest) <= 2 * len(registry.blobs)  # of each layer what was in hand, and the latest
        told = {step.layer: step.layer_done for step in rest}
        assert all(done == len(registry.blobs[layer]) for layer, done in told.items())

    play(target, scene)


def test_the_last_who_leaves_ends_it_and_what_has_come_stays(
    name: str, target: ModelStore, registry: LoopbackRegistry
) -> None:
    registry.seconds_per_mib = 0.3

    async def scene(transfers: Transfers) -> None:
        one, other = transfers.pull(name, None, False), transfers.pull(name, None, False)
        await anext(one)
        await anext(other)
        await one.aclose()  # type: ignore[attr-defined]
        furthest = 0
        while furthest < MIB:
            furthest = max(furthest, (await anext(other)).layer_done)
        await other.aclose()  # type: ignore[attr-defined]
        registry.seconds_per_mib = 0.0
        await all_of(transfers.pull(name, None, False))

    play(target, scene)
    total = sum(map(len, registry.blobs.values()))
    assert target.verify(name) == []
    assert sum(registry.bytes_sent.values()) < total + MIB


def test_one_failure_is_told_to_all(name: str, target: ModelStore, registry: LoopbackRegistry) -> None:
    async def scene(transfers: Transfers) -> None:
        steps = [all_of(transfers.pull(f"{registry.host}/test/none", None, False)) for _ in range(3)]
        failures = await asyncio.gather(*steps, return_exceptions=True)
        assert [type(failure) for failure in failures] == [RemoteModelNotFound] * 3

    play(target, scene)
    assert registry.count("GET", "/manifests/") == 1


def test_several_models_travel_at_a_time_and_more_wait(
    name: str, source: ModelStore, target: ModelStore, registry: LoopbackRegistry
) -> None:
    names = [f"{name}:{number}" for number in range(MAX_TRANSFERS + 2)]
    for other in names:
        push(source, "test/model", other, NOBODY, lambda _: None)

    async def scene(transfers: Transfers) -> None:
        await asyncio.gather(*(all_of(transfers.pull(other, None, False)) for other in names))

    play(target, scene)
    assert sorted(target.get(name.removesuffix(":latest") + ":0").tags) == sorted(names)
    assert registry.bytes_sent == {digest: len(data) for digest, data in registry.blobs.items()}


def test_what_is_here_waits_for_nobody(
    name: str, source: ModelStore, target: ModelStore, registry: LoopbackRegistry, tmp_path: Path
) -> None:
    """All places are taken by pulls that stand still; a model that is whole has its answer, another one waits."""
    others = [f"{registry.host}/test/other:{number}" for number in range(MAX_TRANSFERS + 1)]
    for number, other in enumerate(others):
        path = tmp_path / f"{number}.gguf"
        path.write_bytes(weights(1, seed=10 + number))
        source.import_gguf(path, other)
        push(source, other, other, NOBODY, lambda _: None)

    async def scene(transfers: Transfers) -> None:
        await all_of(transfers.pull(name, None, False))
        registry.hold.clear()
        *slow, late = [asyncio.ensure_future(all_of(transfers.pull(other, None, False))) for other in others]
        while registry.count("GET", "/blobs/") < len(registry.blobs) - 2:
            await asyncio.sleep(0.01)
        assert await all_of(transfers.pull(name, None, False)) == []
        assert not any(task.done() for task in (*slow, late))
        registry.hold.set()
        await asyncio.gather(*slow, late)

    play(target, scene)


def test_whoever_stops_ends_what_is_under_way(name: str, target: ModelStore, registry: LoopbackRegistry) -> None:
    registry.seconds_per_mib = 0.3

    async def scene(transfers: Transfers) -> None:
        steps = transfers.pull(name, None, False)
        await anext(steps)
        await transfers.stop()
        with pytest.raises(ShuttingDown):
            await all_of(steps)
        with pytest.raises(ShuttingDown):
            await all_of(transfers.pull(name, None, False))

    play(target, scene)


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["authority", "insecure", "insecure request"])
def test_how_registries_are_reached_is_a_setting(
    kind: str, source: ModelStore, target: ModelStore, registry: LoopbackRegistry, tmp_path: Path
) -> None:
    made = make_certificates(tmp_path / "certificates")
    authority = str(made.authority) if kind == "authority" else ""
    settings = RegistrySettings(insecure=kind == "insecure", certificates=authority)
    with running(LoopbackRegistry()) as secure:
        secure.use_tls(made.certificate, made.key)
        secure.blobs, secure.manifests = registry.blobs, registry.manifests
        name = f"{secure.host}/test/model"

        async def scene(transfers: Transfers) -> None:
            await all_of(transfers.pull(name, None, kind == "insecure request"))

        play(target, scene, settings)
    assert blobs_of(target, name) == blobs_of(source, "test/model")


# --- the process -----------------------------------------------------------------------------------------------------


@contextmanager
def manager_process(folder: Path, store: ModelStore) -> Iterator[tuple[subprocess.Popen[bytes], ManagerClient]]:
    environ = {**os.environ, "DMR_RUNTIME_DIR": str(folder), "MODELS_PATH": str(store.root), "HOME": str(folder)}
    client = ManagerClient(folder / "manager.sock")
    command = [sys.executable, "-m", "dmr.manager"]
    with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 20
            while True:
                with suppress(Unavailable):
                    client.ping()
                    break
                assert time.monotonic() < deadline, "the manager does not start"
                time.sleep(0.01)
            yield process, client
        finally:
            process.kill()


def pull_all(client: ManagerClient, name: str) -> list[TransferProgress]:
    return [step for step in client.transfer(PullModel(name, private=None)) if step is not None]


def test_a_pull_goes_on_after_a_kill_where_each_layer_was(
    name: str, source: ModelStore, target: ModelStore, registry: LoopbackRegistry, tmp_path: Path
) -> None:
    registry.seconds_per_mib = 0.3
    heavy = {digest for digest, data in registry.blobs.items() if len(data) > MIB}
    with manager_process(tmp_path, target) as (process, client):
        steps = client.transfer(PullModel(name, private=None))
        done = dict.fromkeys(heavy, 0)
        while min(done.values()) < MIB:  # both shards are under way
            step = next(steps)
            if step is not None and step.layer in heavy:
                done[step.layer] = step.layer_done
        process.kill()
        process.wait(10)
        with pytest.raises(Unavailable):
            list(steps)
    assert target.models() == []
    left = {path.stem: path.stat().st_size for path in (target.root / "blobs" / "sha256").glob("*.incomplete")}
    assert all(MIB <= left[digest.removeprefix("sha256:")] < 2 * MIB for digest in heavy)
    registry.seconds_per_mib = 0.0
    (tmp_path / "manager.sock").unlink()
    with manager_process(tmp_path, target) as (_, client):
        first = {}
        for step in pull_all(client, name):
            first.setdefault(step.layer, step.layer_done)
    assert blobs_of(target, name) == blobs_of(source, "test/model")
    assert target.verify(name) == []
    for digest, data in registry.blobs.items():
        assert registry.bytes_sent[digest] <= len(data) + MIB  # one piece at most came twice
    assert all(first[digest] >= MIB for digest in heavy)


def test_eight_clients_of_one_manager_cost_one_download(
    name: str, target: ModelStore, registry: LoopbackRegistry, tmp_path: Path
) -> None:
    registry.seconds_per_mib = 0.05
    with manager_process(tmp_path, target) as (_, client), ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(lambda _: pull_all(client, name), range(8)))
    assert registry.bytes_sent == {digest: len(data) for digest, data in registry.blobs.items()}
    total = sum(map(len, registry.blobs.values()))
    for steps in seen:
        assert sum({step.layer: step.layer_done for step in steps}.values()) == total
