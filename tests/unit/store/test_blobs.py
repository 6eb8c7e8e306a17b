from __future__ import annotations

import errno
import hashlib
import os
import time
from pathlib import Path
from typing import Any

import pytest

from dmr.errors import InvalidModelFile, StoreError
from dmr.store import blobs as blobs_module
from dmr.store.blobs import BlobStore
from dmr.store.digest import digest_of
from dmr.store.disk import sweep

DATA = b"weights" * 1000


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "store")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.gguf"
    path.write_bytes(DATA)
    return path


def names(store: BlobStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir()) if store.folder.exists() else []


def test_a_blob_lies_under_its_sha256(store: BlobStore, source: Path) -> None:
    digest = store.put_file(source)
    assert store.path_of(digest) == store.folder / hashlib.sha256(DATA).hexdigest()
    assert store.has(digest)
    with store.open(digest) as file:
        assert file.read() == DATA
    assert names(store) == [digest.removeprefix("sha256:")]


def test_a_copy_is_independent_of_its_source(store: BlobStore, source: Path) -> None:
    digest = store.put_file(source)
    source.write_bytes(b"edited")
    assert store.is_intact(digest)


@pytest.mark.parametrize("clones", [True, False])
def test_copying_works_with_and_without_shared_extents(
    store: BlobStore, source: Path, monkeypatch: pytest.MonkeyPatch, clones: bool
) -> None:
    def clone(source_file: Any, target: Any) -> bool:
        if clones:
            target.write(source_file.read())
        return clones

    monkeypatch.setattr(blobs_module, "_clone", clone)
    assert store.is_intact(store.put_file(source))


def test_a_moved_file_is_gone_and_not_copied(store: BlobStore, source: Path) -> None:
    inode = source.stat().st_ino
    digest = store.put_file(source, move=True)
    assert not source.exists()
    assert store.path_of(digest).stat().st_ino == inode
    assert store.is_intact(digest)


def test_a_moved_file_with_another_name_is_copied(store: BlobStore, source: Path) -> None:
    other = source.with_name("other")
    os.link(source, other)
    digest = store.put_file(source, move=True)
    other.write_bytes(b"edited")
    assert not source.exists()
    assert store.is_intact(digest)


def test_moving_a_symbolic_link_leaves_what_it_points_to(store: BlobStore, source: Path) -> None:
    link = source.with_name("link")
    link.symlink_to(source)
    digest = store.put_file(link, move=True)
    assert not link.is_symlink()
    assert source.read_bytes() == DATA
    source.write_bytes(b"edited")
    assert store.is_intact(digest)


def test_moving_from_a_file_system_without_links(
    store: BlobStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EXDEV, "cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    assert store.is_intact(store.put_file(source, move=True))
    assert not source.exists()


def test_moving_a_blob_onto_itself_keeps_it(store: BlobStore, source: Path) -> None:
    digest = store.put_file(source)
    assert store.put_file(store.path_of(digest), move=True) == digest
    assert store.is_intact(digest)


def test_moving_what_the_store_has_removes_the_source(store: BlobStore, source: Path) -> None:
    digest = store.put_bytes(DATA)
    assert store.put_file(source, move=True) == digest
    assert not source.exists()
    assert store.is_intact(digest)


def test_the_same_bytes_are_stored_once_and_not_copied_again(
    store: BlobStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put_file(source)
    monkeypatch.setattr(BlobStore, "_stage", None)  # would copy
    assert store.put_bytes(DATA) == store.put_file(source)
    assert len(names(store)) == 1


def test_a_wrong_digest_is_refused_and_leaves_nothing(store: BlobStore, source: Path) -> None:
    for move in (False, True):
        with pytest.raises(StoreError, match="was expected"):
            store.put_file(source, expected=digest_of(b"other"), move=move)
        assert source.read_bytes() == DATA
    assert names(store) == []
    assert store.put_file(source, expected=digest_of(DATA)) == digest_of(DATA)


def test_a_truncated_blob_is_replaced_by_a_whole_one(store: BlobStore, source: Path) -> None:
    digest = store.put_file(source)
    store.path_of(digest).write_bytes(b"half")
    assert not store.is_intact(digest)
    store.put_file(source)
    assert store.is_intact(digest)


def test_damage_is_found(store: BlobStore) -> None:
    digest = store.put_bytes(DATA)
    assert store.is_intact(digest)
    store.path_of(digest).write_bytes(DATA[:-1] + b"x")
    assert not store.is_intact(digest)
    store.delete(digest)
    assert not store.is_intact(digest)
    assert not store.has(digest)
    store.delete(digest)  # again is no error
    with pytest.raises(StoreError, match="open the blob"):
        store.open(digest)


def test_progress_reaches_the_size(store: BlobStore, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs_module, "BUFFER_BYTES", 1000)
    seen: list[tuple[int, int]] = []
    store.discard(store.stage_file(source, progress=lambda done, total: seen.append((done, total))))
    assert seen == [(min(done, 7000), 7000) for done in range(1000, 8000, 1000)]


@pytest.mark.parametrize("move", [False, True])
def test_a_file_that_changes_while_it_is_read_is_refused(
    store: BlobStore, source: Path, monkeypatch: pytest.MonkeyPatch, move: bool
) -> None:
    monkeypatch.setattr(blobs_module, "BUFFER_BYTES", 1000)

    def grow(done: int, total: int) -> None:
        with source.open("ab") as file:
            file.write(b"more" * 1000)

    with pytest.raises(InvalidModelFile, match="changed"):
        store.stage_file(source, move=move, progress=grow)
    assert names(store) == []
    assert source.exists()


def test_an_interrupted_copy_leaves_nothing(store: BlobStore, source: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.stage_file(source, progress=interrupt)
    assert names(store) == []


def test_sources_that_are_no_files(store: BlobStore, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "missing", tmp_path / "pipe", tmp_path):
        with pytest.raises(InvalidModelFile):
            store.put_file(path)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission denied"),
    ],
)
def test_the_disks_refusals_are_store_errors(
    store: BlobStore, source: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    for put in (lambda: store.put_file(source), lambda: store.put_bytes(DATA)):
        with pytest.raises(StoreError, match=reason):
            put()
    assert names(store) == []


def test_a_file_larger_than_the_free_space_is_refused_at_once(
    store: BlobStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        f_bavail, f_frsize = 1, 512

    monkeypatch.setattr(os, "fstatvfs", lambda _: Full)
    monkeypatch.setattr(blobs_module, "_clone", lambda *_: False)
    with pytest.raises(StoreError, match="disk is full"):
        store.put_file(source)
    assert names(store) == []


def test_a_crash_before_the_rename_leaves_only_what_sweeping_removes(
    store: BlobStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "discard", lambda _: None)  # a killed process cleans nothing
    store.stage_file(source)
    (left,) = names(store)
    assert left.endswith(".incomplete")
    sweep(store.folder)
    assert names(store) == [left]  # somebody may still be writing it
    time.sleep(0.01)
    sweep(store.folder, age=0)
    assert names(store) == []


def test_a_blob_that_vanishes_between_stage_and_commit_is_reported(store: BlobStore, source: Path) -> None:
    digest = store.put_file(source)
    staged = store.stage_file(source)
    store.delete(digest)
    with pytest.raises(StoreError, match="try again"):
        store.commit(staged)
