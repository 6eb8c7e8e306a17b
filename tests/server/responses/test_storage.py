"""The file of kept answers: shared, bounded, and never a reason to fail."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dmr.errors import InvalidRequest, StoreError
from dmr_server.responses import storage
from dmr_server.responses.storage import SWEEP_INTERVAL, VERSION, KeptResponse, ResponseStore


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def kept(id: str, previous: str | None = None, size: int = 2) -> KeptResponse:
    return KeptResponse(id, previous, "in_progress", b"{}".ljust(size), b"[]")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "responses.sqlite3"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(path: Path, clock: Clock) -> Iterator[ResponseStore]:
    store = ResponseStore(path, clock=clock, retention=1000.0)
    yield store
    store.close()


def test_what_is_kept_is_there_for_others_and_after_a_restart(store: ResponseStore, path: Path, clock: Clock) -> None:
    store.insert(kept("a"))
    store.close()
    with closing(ResponseStore(path, clock=clock)) as other:
        found = other.get("a")
    assert found is not None
    assert (found.id, found.status, found.body, found.input, found.touched) == ("a", "in_progress", b"{}", b"[]", 1000)
    assert store.get("b") is None


def test_the_file_is_private(store: ResponseStore, path: Path) -> None:
    store.insert(kept("a"))
    assert path.stat().st_mode & 0o077 == 0


def test_a_chain_comes_oldest_first_and_tells_what_is_missing(store: ResponseStore) -> None:
    for id, previous in (("a", None), ("b", "a"), ("c", "b"), ("x", "gone")):
        store.insert(kept(id, previous))
    assert [each.id for each in store.chain("c")[0]] == ["a", "b", "c"]
    assert store.chain("x")[1] == "gone"
    assert store.chain("nothing") == ([], "nothing")


def test_a_chain_that_bites_its_tail_ends(store: ResponseStore) -> None:
    store.insert(kept("a", "b"))
    store.insert(kept("b", "a"))
    assert [each.id for each in store.chain("a")[0]] == ["b", "a"]


def test_answers_expire_unless_they_are_used(store: ResponseStore, clock: Clock) -> None:
    for id, previous in (("old", None), ("a", None), ("b", "a")):
        store.insert(kept(id, previous))
    clock.now += 900
    store.chain("b")
    clock.now += 900
    assert store.get("old") is None
    assert [each.id for each in store.chain("b")[0]] == ["a", "b"]


def test_a_sweep_takes_expired_answers_out_of_the_file(store: ResponseStore, path: Path, clock: Clock) -> None:
    store.insert(kept("a"))
    store.add_events("a", 0, b"x")
    clock.now += 1000 + SWEEP_INTERVAL
    store.insert(kept("b"))
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT id FROM responses").fetchall() == [("b",)]
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (0,)


def test_the_file_has_a_limit(path: Path, clock: Clock) -> None:
    with closing(ResponseStore(path, clock=clock, max_bytes=1_000_000)) as store:
        for number in range(200):
            clock.now += 1
            store.insert(kept(str(number), size=20_000))
        assert store.get("0") is None
        assert store.get("199") is not None
    assert path.stat().st_size < 1_500_000


def test_cancelled_and_deleted_answers_take_no_news(store: ResponseStore) -> None:
    for id in "abc":
        store.insert(kept(id))
    assert store.is_wanted("a", touch=True)
    assert store.cancel("a", b"cancelled")
    assert not store.is_wanted("a", touch=False)
    assert not store.update("a", "completed", b"new")
    assert store.update("a", "cancelled", b"partial", even_cancelled=True)
    found = store.get("a")
    assert found is not None
    assert (found.status, found.body, found.cancelled) == ("cancelled", b"partial", True)
    assert store.delete("b")
    assert not store.delete("b")
    assert not store.is_wanted("b", touch=True)
    assert not store.update("b", "completed", b"new", even_cancelled=True)
    assert store.get("b") is None
    assert store.update("c", "completed", b"new")
    assert not store.cancel("c", b"cancelled")


def test_events_come_in_order_and_go_with_their_answer(store: ResponseStore) -> None:
    store.insert(kept("a"))
    store.add_events("a", 0, b"one")
    store.add_events("a", 3, b"two")
    store.add_events("nobody", 0, b"lost")
    assert store.events("a", 0) == [(0, b"one"), (3, b"two")]
    assert store.events("a", 1) == [(3, b"two")]
    store.delete("a")
    assert store.events("a", 0) == []


@pytest.mark.parametrize("damage", ["text", "header", "pages", "foreign"])
def test_a_damaged_file_is_put_aside(path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    with closing(ResponseStore(path)) as store:
        for number in range(50):
            store.insert(kept(str(number), size=5000))
    content = path.read_bytes()
    damaged = {
        "text": b"This is no database. " * 1000,
        "header": content[:16] + b"\xff" * 200 + content[216:],
        "pages": content[:8192] + bytes(len(content) - 8192),
        "foreign": b"SQLite format 3\0" + bytes(5000),
    }[damage]
    path.write_bytes(damaged)
    with closing(ResponseStore(path)) as store:
        store.insert(kept("new"))
        assert store.get("new") is not None
    assert path.with_name(path.name + ".damaged-1").read_bytes() == damaged
    assert "put aside" in caplog.text


def test_a_file_of_a_newer_version_is_left_alone(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(ResponseStore(path)) as store:
        store.insert(kept("a"))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    with closing(ResponseStore(path)) as store:
        assert not store.is_available()
        assert not store.is_available()
        with pytest.raises(StoreError, match="No answers can be kept"):
            store.insert(kept("b"))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "newer version" in caplog.text
    assert not path.with_name(path.name + ".damaged-1").exists()


def test_without_a_folder_to_write_nothing_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "db", Path("~/never/expanded/db")):
        assert not ResponseStore(path).is_available()
    assert len(caplog.records) == 2
    assert not Path("~").exists()


def test_a_fault_while_it_runs_is_an_error_of_ours(store: ResponseStore, path: Path) -> None:
    store.insert(kept("a"))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE events")
        connection.execute("DROP TABLE responses")
    with pytest.raises(StoreError, match="cannot be reached"):
        store.get("a")


def test_damage_that_shows_while_it_runs_is_put_aside_for_all_workers(
    store: ResponseStore, path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    other = ResponseStore(path, clock=clock)
    with closing(other):
        for number in range(50):
            store.insert(kept(str(number), size=5000))
        assert other.get("0") is not None
        store.close()
        other.close()
        content = path.read_bytes()
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(bytes(len(content) - 4096))
        with pytest.raises(StoreError, match="cannot be reached"):
            store.get("1")
        for each in (store, other):
            each.insert(kept("new"))
            each.insert(kept("newer"))
        assert store.get("newer") is not None
        assert other.get("new") is not None
    assert len(list(path.parent.glob("*.damaged-*"))) == 1
    assert sum("put aside" in record.message for record in caplog.records) == 1


def test_a_file_that_is_gone_is_made_anew(store: ResponseStore, path: Path) -> None:
    store.insert(kept("a"))
    for each in path.parent.iterdir():
        each.unlink()
    assert store.get("a") is None
    store.insert(kept("b"))
    assert path.exists()


def test_a_file_that_is_locked_is_tried_again_later(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "BUSY_TIMEOUT", 0.01)
    with closing(ResponseStore(path)) as store:
        store.insert(kept("a"))
    with closing(ResponseStore(path)) as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            assert not store.is_available()
            connection.execute("ROLLBACK")
        assert not store.is_available()
        store._next_try = 0.0
        assert store.get("a") is not None


def test_a_sign_is_seen_and_goes_with_its_answer(store: ResponseStore, path: Path, clock: Clock) -> None:
    store.insert(kept("a", size=3_000_000))
    written = path.with_name(path.name + "-wal").stat().st_size
    clock.now += 5
    assert store.is_wanted("a", touch=True)
    assert path.with_name(path.name + "-wal").stat().st_size < written + 100_000
    found, state = store.get("a"), store.state("a")
    assert found is not None
    assert state is not None
    assert (found.touched, state.touched, state.size) == (1005, 1005, 3_000_002)
    clock.now += 5
    store.update("a", "completed", b"{}")
    assert (state := store.state("a")) is not None
    assert (state.touched, state.status, state.size) == (1010, "completed", 4)
    store.delete("a")
    assert store.state("a") is None
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM signs").fetchone() == (0,)


@pytest.mark.parametrize("limit", ["MAX_CHAIN", "MAX_CHAIN_BYTES"])
def test_a_chain_has_a_limit(store: ResponseStore, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(storage, limit, 2 if limit == "MAX_CHAIN" else 8)
    for id, previous in (("a", None), ("b", "a"), ("c", "b")):
        store.insert(kept(id, previous))
    assert len(store.chain("b")[0]) == 2
    with pytest.raises(InvalidRequest, match="too long"):
        store.chain("c")


def test_an_idle_connection_is_had_by_one_only(store: ResponseStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.insert(kept("a"))

    class Emptied(deque[sqlite3.Connection]):
        """Somebody else is always a moment faster."""

        def __bool__(self) -> bool:
            return True

    store._idle = Emptied()
    assert store.get("a") is not None


def test_many_threads(store: ResponseStore) -> None:
    def work(name: str) -> None:
        for number in range(20):
            store.insert(kept(f"{name}{number}"))
            assert store.update(f"{name}{number}", "completed", b"done")

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(store.get(f"{name}19") for name in "abcdefgh")


KEEP_TEN = """
import sys
from pathlib import Path
from dmr_server.responses.storage import KeptResponse, ResponseStore
store = ResponseStore(Path(sys.argv[1]))
for number in range(10):
    store.insert(KeptResponse(f"{sys.argv[2]}{number}", None, "completed", b"{}", b"[]"))
store.close()
"""


@pytest.mark.parametrize("is_damaged", [False, True])
def test_many_processes_begin_at_once(path: Path, is_damaged: bool) -> None:
    if is_damaged:
        path.parent.mkdir()
        path.write_bytes(b"no database" * 1000)
    root = Path(__file__).parents[3]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join((str(root), str(root / "server")))}
    command = [sys.executable, "-c", KEEP_TEN, str(path)]
    processes = [subprocess.Popen([*command, name], env=environ) for name in "abc"]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    with closing(ResponseStore(path)) as store:
        assert all(store.get(f"{name}9") for name in "abc")
    assert len(list(path.parent.glob("*.damaged-*"))) == int(is_damaged)
