"""The file in which all HTTP workers write what they have served: whichever is asked tells the same.

It lives in the runtime folder, which only its owner can read, and goes with the server. Nothing waits for a disk: what
a crash of the machine would lose is of no use after it.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from dmr_server.recording.records import Stored

NAME = "requests.db"
KEPT = 10  # records of a model, as Docker Model Runner
LINGER = 5.0  # seconds that more are kept, for those who follow
MAX_LINGERING = 1000  # of a model
MAX_MODELS = 128
MAX_BYTES = 64 << 20  # of all records
TRIM_INTERVAL = 1.0  # seconds
MAX_UNTRIMMED_BYTES = 4 << 20
BUSY_TIMEOUT = 5.0  # seconds to wait for another writer

_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    model TEXT NOT NULL,
    at REAL NOT NULL,  -- Unix seconds
    size INTEGER NOT NULL,
    data BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS by_model ON records (model, sequence);
CREATE TABLE IF NOT EXISTS counts (
    name TEXT,
    labels TEXT,
    value REAL NOT NULL,
    PRIMARY KEY (name, labels)
) WITHOUT ROWID;
"""
_TRIM = """
DELETE FROM records WHERE model = :model AND (
    sequence <= (SELECT sequence FROM records WHERE model = :model ORDER BY sequence DESC LIMIT 1 OFFSET :kept)
    AND at < :before
    OR sequence <= (SELECT sequence FROM records WHERE model = :model ORDER BY sequence DESC LIMIT 1 OFFSET :most)
)
"""
_TRIM_MODELS = """
DELETE FROM records WHERE model IN (
    SELECT model FROM records GROUP BY model ORDER BY max(sequence) DESC LIMIT -1 OFFSET ?
)
"""
_TRIM_BYTES = """
DELETE FROM records WHERE sequence <= (
    SELECT max(sequence) FROM (
        SELECT sequence, sum(size) OVER (ORDER BY sequence DESC) AS total FROM records
    ) WHERE total > ?
)
"""


class Count(NamedTuple):
    """What a counter is increased by, by its name and the values of its labels."""

    name: str
    labels: tuple[str, ...]


class NewRecord(NamedTuple):
    model_id: str
    at: float
    data: bytes


class Journal:
    """Safe for any number of threads and processes. Every call may raise sqlite3.Error.

    Without a path it is this process's own, and in its memory.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._untrimmed: set[str] = set()  # models with new records
        self._num_untrimmed_bytes = 0
        self._next_trim = 0.0  # of the monotonic clock

    def write(self, records: Iterable[NewRecord], counts: Mapping[Count, float]) -> None:
        with self._lock:
            database = self._open()
            with database:
                database.execute("BEGIN IMMEDIATE")
                self._add_counts(database, counts)
                self._add_records(database, list(records))

    def records(self, model_id: str | None = None) -> dict[str, list[Stored]]:
        """The last ones of each model, oldest first; the models by their first."""
        found: dict[str, list[Stored]] = {}
        for record in self.since(0, model_id):
            found.setdefault(record.model_id, []).append(record)
        return {model: records[-KEPT:] for model, records in found.items()}

    def since(self, sequence: int, model_id: str | None = None) -> list[Stored]:
        """What has come after a record."""
        where = "sequence > ?" if model_id is None else "sequence > ? AND model = ?"
        values = (sequence,) if model_id is None else (sequence, model_id)
        with self._lock:
            rows = self._open().execute(
                f"SELECT sequence, model, data FROM records WHERE {where} ORDER BY sequence", values
            )
            return [Stored(*row) for row in rows]

    def drop(self, model_id: str | None = None) -> int:
        """Of one model or of all; returns how many."""
        where, values = ("", ()) if model_id is None else (" WHERE model = ?", (model_id,))
        with self._lock:
            return self._open().execute(f"DELETE FROM records{where}", values).rowcount

    def last_sequence(self) -> int:
        with self._lock:
            (last,) = self._open().execute("SELECT coalesce(max(sequence), 0) FROM records").fetchone()
            return int(last)

    def counts(self) -> dict[Count, float]:
        with self._lock:
            rows = self._open().execute("SELECT name, labels, value FROM counts ORDER BY name, labels")
            return {Count(name, tuple(labels.split("\x1f"))): value for name, labels, value in rows}

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _add_counts(self, database: sqlite3.Connection, counts: Mapping[Count, float]) -> None:
        database.executemany(
            "INSERT INTO counts VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value = value + excluded.value",
            [(count.name, "\x1f".join(count.labels), value) for count, value in counts.items()],
        )

    def _add_records(self, database: sqlite3.Connection, records: list[NewRecord]) -> None:
        if not records:
            return
        database.executemany(
            "INSERT INTO records (model, at, size, data) VALUES (?, ?, ?, ?)",
            [(record.model_id, record.at, len(record.data), record.data) for record in records],
        )
        self._untrimmed.update(record.model_id for record in records)
        self._num_untrimmed_bytes += sum(len(record.data) for record in records)
        if time.monotonic() >= self._next_trim or self._num_untrimmed_bytes >= MAX_UNTRIMMED_BYTES:
            self._trim(database)

    def _trim(self, database: sqlite3.Connection) -> None:
        """Now and then, for it costs more than to write."""
        for model in self._untrimmed:
            limits = {"model": model, "kept": KEPT, "before": time.time() - LINGER, "most": MAX_LINGERING}
            database.execute(_TRIM, limits)
        database.execute(_TRIM_MODELS, (MAX_MODELS,))
        database.execute(_TRIM_BYTES, (MAX_BYTES,))
        self._untrimmed.clear()
        self._num_untrimmed_bytes = 0
        self._next_trim = time.monotonic() + TRIM_INTERVAL

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = _connect(self._path)
        return self._connection


def _connect(path: Path | None) -> sqlite3.Connection:
    if path is not None:
        # SQLite's other files get the rights of this one.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    database = sqlite3.connect(path or ":memory:", timeout=BUSY_TIMEOUT, check_same_thread=False, isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = OFF")
        database.execute("PRAGMA secure_delete = ON")  # a prompt that was dropped is gone
        database.executescript(_SCHEMA)
    except BaseException:
        database.close()
        raise
    return database


def forget(folder: Path) -> None:
    """Remove what an earlier server has left. Nobody may have it open."""
    for suffix in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            (folder / (NAME + suffix)).unlink()
