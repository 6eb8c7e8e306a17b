"""The file of what was served: bounds, and what several processes write to it."""

from __future__ import annotations

import multiprocessing
import sqlite3
import time
from pathlib import Path

import pytest

from dmr_server.recording import journal as rules
from dmr_server.recording.journal import NAME, Count, Journal, NewRecord, forget

SEEN = Count("requests", ("/v1/models", "GET", "200"))


def record(model: str = "one", at: float = 0.0, size: int = 2) -> NewRecord:
    return NewRecord(model, at, b"x" * size)


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    monkeypatch.setattr(rules, "TRIM_INTERVAL", 0.0)
    return Journal(tmp_path / NAME)


def test_ten_are_kept_but_what_is_new_lingers_for_those_who_follow(journal: Journal) -> None:
    for _ in range(15):
        journal.write([record()], {})
    assert len(journal.since(0)) == 10
    for _ in range(15):
        journal.write([record(at=time.time())], {})
    assert len(journal.since(0)) > 10
    assert len(journal.records()["one"]) == 10


def test_followers_do_not_make_it_grow_without_end(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MAX_LINGERING", 20)
    journal.write([record(at=time.time()) for _ in range(50)], {})
    assert len(journal.since(0)) == 20


def test_the_models_that_were_used_last_are_kept(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MAX_MODELS", 2)
    for model in ("one", "two", "one", "three"):
        journal.write([record(model)], {})
    assert set(journal.records()) == {"one", "three"}


def test_bytes_are_bounded_over_all_models(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MAX_BYTES", 100)
    for model in ("one", "two", "three"):
        journal.write([record(model, size=45)], {})
    assert set(journal.records()) == {"two", "three"}


def test_what_was_dropped_is_not_in_the_file(journal: Journal, tmp_path: Path) -> None:
    journal.write([NewRecord("one", 0.0, b"a secret prompt")], {})
    journal.write([record() for _ in range(12)], {})
    journal.close()  # the last one that closes it takes the log with it
    assert b"secret" not in (tmp_path / NAME).read_bytes()


def write_many(path: Path) -> None:
    journal = Journal(path)
    for _ in range(100):
        journal.write([record(at=time.time())], {SEEN: 1})
    journal.close()


def test_several_processes(tmp_path: Path) -> None:
    spawning = multiprocessing.get_context("spawn")
    writers = [spawning.Process(target=write_many, args=(tmp_path / NAME,)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert Journal(tmp_path / NAME).counts() == {SEEN: 300}


def test_what_an_earlier_server_left_is_forgotten(tmp_path: Path) -> None:
    journal = Journal(tmp_path / NAME)
    journal.write([record()], {SEEN: 1})
    journal.close()
    forget(tmp_path)
    forget(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_none_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"no database at all" * 100)
    with pytest.raises(sqlite3.Error):
        Journal(tmp_path / NAME).counts()
