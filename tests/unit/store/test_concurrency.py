"""Several writers, crashes between any two steps, and disks that refuse."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import multiprocessing
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from unit.store.gguf_bytes import Tensor, gguf_bytes

from dmr.errors import DmrError, StoreError, Unavailable
from dmr.store import disk
from dmr.store.store import ModelStore
from dmr.types import ModelRecord


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def write_model(folder: Path, fill: int) -> Path:
    path = folder / f"model{fill}.gguf"
    path.write_bytes(gguf_bytes(tensors=[Tensor("weight", data=bytes([fill]) * 128)]))
    return path


def import_several(root: Path, sources: list[Path], worker: int) -> None:
    store = ModelStore(root)
    for number, source in enumerate(sources):
        store.import_gguf(source, f"w{worker}/m{number}")
        store.tag(f"w{worker}/m{number}", f"w{worker}/copy{number}")
        store.remove(f"w{worker}/m{number}")


def test_processes_do_not_lose_each_others_writes(store: ModelStore, tmp_path: Path) -> None:
    sources = [write_model(tmp_path, fill) for fill in range(6)]
    context = multiprocessing.get_context("spawn")
    # Both import the same files, from opposite ends, into a store that neither has made yet.
    orders = [sources, sources[::-1]]
    processes = [context.Process(target=import_several, args=(store.root, order, i)) for i, order in enumerate(orders)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    records = store.models()
    assert len(records) == 6
    tags = {tag for record in records for tag in record.tags}
    assert tags == {f"docker.io/w{worker}/copy{number}:latest" for worker in (0, 1) for number in range(6)}
    assert all(store.verify(record.id) == [] for record in records)
    assert list(store.root.rglob("*.incomplete")) == []


def test_readers_never_see_half_a_state(store: ModelStore, tmp_path: Path) -> None:
    keeper = store.import_gguf(write_model(tmp_path, 0), "keeper")
    source, failures, done = write_model(tmp_path, 1), [], threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                assert store.get("keeper") == keeper
                assert keeper in store.models()
                assert store.get("keeper").tags == ("docker.io/ai/keeper:latest",)
            except BaseException as error:
                failures.append(error)
                return

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(20):
        store.import_gguf(source, "visitor")
        store.remove("visitor")
    done.set()
    reader.join(10)
    assert failures == []


def test_waiting_for_another_writer_ends(store: ModelStore, tmp_path: Path) -> None:
    store.import_gguf(write_model(tmp_path, 0), "a")
    impatient = ModelStore(store.root, lock_timeout=0.05)
    with (store.root / "dmr.lock").open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for change in (lambda: impatient.tag("a", "b"), lambda: impatient.remove("a")):
            with pytest.raises(Unavailable, match="Another process"):
                change()
        with pytest.raises(Unavailable):
            impatient.import_gguf(write_model(tmp_path, 1), "b")
        assert [record.tags for record in impatient.models()] == [("docker.io/ai/a:latest",)]  # reading needs no lock
    impatient.tag("a", "b")
    assert list(store.root.rglob("*.incomplete")) == []


class Crash(BaseException):
    """The process ends here."""


def crash_at(monkeypatch: pytest.MonkeyPatch, function: str, number: int, error: BaseException) -> None:
    """The `number`-th call of os.<function> and all after it raise: a dead process does nothing more."""
    real, calls = getattr(os, function), iter(range(1000))

    def call(*args: Any, **kwargs: Any) -> Any:
        if next(calls) >= number:
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(os, function, call)


def readable_state(store: ModelStore) -> list[ModelRecord]:
    """What the store holds, having checked that all of it is whole."""
    records = store.models()
    assert len(records) == len(store._layout.read_index().entries)
    assert all(store.verify(record.id) == [] for record in records)
    return records


def number_of_calls(monkeypatch: pytest.MonkeyPatch, function: str, action: Callable[[], object]) -> int:
    real, calls = getattr(os, function), []

    def count(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, function, count)
        action()
    return len(calls)


@pytest.mark.parametrize("move", [False, True])
@pytest.mark.parametrize("function", ["replace", "fsync", "unlink"])
def test_a_crash_at_any_step_of_an_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, move: bool
) -> None:
    rehearsal = ModelStore(tmp_path / "rehearsal")
    rehearsal.import_gguf(write_model(tmp_path, 0), "old")
    steps = number_of_calls(
        monkeypatch, function, lambda: rehearsal.import_gguf(write_model(tmp_path, 1), "old", move=move)
    )
    assert steps >= (4 if function != "unlink" else 0)
    for step in range(steps):
        store = ModelStore(tmp_path / f"store{step}")
        old = store.import_gguf(write_model(tmp_path, 0), "old")
        source = write_model(tmp_path, 1)
        data = source.read_bytes()
        with monkeypatch.context() as patch:
            crash_at(patch, function, step, Crash())
            with pytest.raises(Crash):
                store.import_gguf(source, "old", move=move)
        records = readable_state(store)
        assert records[0].id == old.id
        assert source.exists() or store.files("old").weights[0].read_bytes() == data
        assert store.import_gguf(write_model(tmp_path, 1), "old").tags == ("docker.io/ai/old:latest",)
        assert len(readable_state(store)) == 2


@pytest.mark.parametrize("function", ["replace", "fsync", "unlink"])
def test_a_crash_at_any_step_of_a_removal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    for step in range(3):
        store = ModelStore(tmp_path / f"store{step}")
        keeper = store.import_gguf(write_model(tmp_path, 0), "keeper")
        store.import_gguf(write_model(tmp_path, 1), "victim")
        with monkeypatch.context() as patch:
            crash_at(patch, function, step, Crash())
            with contextlib.suppress(Crash):
                store.remove("victim")
        assert keeper in readable_state(store)
        store.import_gguf(write_model(tmp_path, 1), "victim")
        store.remove("victim")
        assert readable_state(store) == [keeper]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_a_disk_that_refuses_any_step_leaves_the_store_as_it_was(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, number: int
) -> None:
    old = store.import_gguf(write_model(tmp_path, 0), "old")
    before = store.disk_usage()
    source = write_model(tmp_path, 1)
    reached = set()
    for step in range(7):
        with monkeypatch.context() as patch:
            crash_at(patch, function, step, OSError(number, os.strerror(number)))
            try:
                store.import_gguf(source, "new")
            except StoreError as error:
                reached.add(error.code)
            else:
                break
        if store.models() != [old]:  # the index was replaced, only its folder could not be synced
            assert len(readable_state(store)) == 2
            store.remove("new")
        assert readable_state(store) == [old]
        assert store.disk_usage() == before
    assert reached == {"store_error"}


def test_a_read_only_store_is_read_and_not_written(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = store.import_gguf(write_model(tmp_path, 0), "a")
    source = write_model(tmp_path, 1)
    real = os.open

    def open_read_only(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", open_read_only)  # root may write anywhere, so permissions would prove nothing
    assert store.models() == [record]
    assert store.files("a").weights[0].exists()
    assert store.verify("a") == []
    for change in (
        lambda: store.tag("a", "b"),
        lambda: store.remove("a"),
        lambda: store.import_gguf(source, "b", move=True),
    ):
        with pytest.raises(StoreError, match="read-only"):
            change()
    assert source.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into any folder")
def test_a_folder_without_write_permission(store: ModelStore, tmp_path: Path) -> None:
    store.import_gguf(write_model(tmp_path, 0), "a")
    for folder in (store.root, store.root / "blobs" / "sha256"):
        folder.chmod(0o555)
    try:
        with pytest.raises(StoreError, match="permission denied"):
            store.import_gguf(write_model(tmp_path, 1), "b")
    finally:
        for folder in (store.root, store.root / "blobs" / "sha256"):
            folder.chmod(0o755)


def test_a_write_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (events.append("sync"), real_fsync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda *paths: (events.append("rename"), real_replace(*paths)))
    disk.write_atomically(tmp_path / "file", b"data")
    assert events == ["sync", "rename", "sync"]
    assert (tmp_path / "file").read_bytes() == b"data"


def test_every_error_of_the_store_is_ours(store: ModelStore, tmp_path: Path) -> None:
    for call in (lambda: store.get("x"), lambda: store.import_gguf(tmp_path / "none", "x"), lambda: store.tag("x", "")):
        with pytest.raises(DmrError) as caught:
            call()
        assert caught.value.message.endswith(".")
