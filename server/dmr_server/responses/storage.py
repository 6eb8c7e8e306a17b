"""Kept answers, in one SQLite file that all workers share and that survives them.

A row is written when a stream begins, so that any worker can tell of it and end it, and again when it has ended. A
damaged file is put aside, whenever it is noticed; while none can be written, nothing is kept and requests go on
without.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from dmr.errors import InvalidRequest, StoreError

log = logging.getLogger("dmr.server")

VERSION = 1  # of the tables, in the file's user_version
RETENTION = 30 * 24 * 3600.0  # seconds an answer is kept after its last use
MAX_BYTES = 2 << 30  # of the file; beyond it what was used longest ago is dropped
BUSY_TIMEOUT = 10.0  # seconds to wait for another writer
SWEEP_INTERVAL = 600.0  # seconds between two looks for what has expired
SWEEP_ROWS = 256  # dropped at once: a sweep must not hold up the answer that it comes with
MAX_IDLE = 8  # connections
MAX_CHECKED = 64 << 20  # bytes of a file that is read whole at the start, to see whether it is damaged
MAX_CHAIN = 10_000  # answers of one conversation
MAX_CHAIN_BYTES = 256 << 20  # of all answers of one conversation
RETRY_INTERVAL = 60.0  # seconds until a file that could not be opened is tried again

_SCHEMA = """
CREATE TABLE responses (
    id TEXT PRIMARY KEY,
    previous TEXT,
    status TEXT NOT NULL,
    cancelled INTEGER NOT NULL DEFAULT 0,
    touched REAL NOT NULL,  -- Unix seconds of the last sign of whoever answers it
    expires REAL NOT NULL,
    body BLOB NOT NULL,
    input BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX by_expiry ON responses (expires);
CREATE TABLE events (
    response TEXT NOT NULL REFERENCES responses (id) ON DELETE CASCADE,
    first INTEGER NOT NULL,  -- sequence number of the first event in `data`
    data BLOB NOT NULL,
    PRIMARY KEY (response, first)
) WITHOUT ROWID;
"""
# Apart, for these rows are written again and again, and an answer's own row may have megabytes.
_SIGNS = """
CREATE TABLE IF NOT EXISTS signs (
    response TEXT PRIMARY KEY REFERENCES responses (id) ON DELETE CASCADE,
    touched REAL NOT NULL  -- if it is later than the answer's own
) WITHOUT ROWID;
"""
_TOUCHED = "max(responses.touched, coalesce(signs.touched, 0))"
_FOUND = "FROM responses LEFT JOIN signs ON response = id WHERE id = ? AND expires > ?"
_SELECT = f"SELECT id, previous, status, body, input, cancelled, {_TOUCHED} {_FOUND}"
_SELECT_STATE = f"SELECT id, previous, status, {_TOUCHED}, length(body) + length(input) {_FOUND}"

_Identity = tuple[int, int]  # of a file: its device and number there


class KeptResponse(msgspec.Struct, frozen=True):
    """One answer: `body` is the response object and `input` its own items, both JSON. Times are Unix seconds."""

    id: str
    previous: str | None
    status: str
    body: bytes
    input: bytes
    cancelled: bool = False
    touched: float = 0.0


class KeptState(msgspec.Struct, frozen=True):
    """What is known of an answer without reading it."""

    id: str
    previous: str | None
    status: str
    touched: float
    size: int  # bytes


class ResponseStore:
    """Safe for any number of threads and processes. Every call may raise StoreError."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time.time,
        retention: float = RETENTION,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._path = path
        self._clock = clock
        self._retention = retention
        self._max_bytes = max_bytes
        self._idle: deque[sqlite3.Connection] = deque()
        self._lock = threading.Lock()  # of opening
        self._file: _Identity | None = None  # the file that is open
        self._damaged: _Identity | None = None  # one that has turned out to be damaged
        self._next_try = 0.0  # of the monotonic clock
        self._next_sweep = 0.0
        weakref.finalize(self, _close_all, self._idle)

    def is_available(self) -> bool:
        """Whether answers can be kept. Opens or makes the file: at first, when it has become another, and at times
        while it is not to be had."""
        if self._is_open():
            return True
        with self._lock:
            if self._is_open():
                return True
            if self._file is None and time.monotonic() < self._next_try:
                return False
            self._file = None  # so that connections to the one before are not kept
            _close_all(self._idle)
            self._file = self._open()
            self._next_try = time.monotonic() + RETRY_INTERVAL
            return self._file is not None

    def _is_open(self) -> bool:
        return self._file is not None and self._file == _identity_of(self._path) != self._damaged

    def insert(self, kept: KeptResponse) -> None:
        """Keep an answer, in the place of one of the same id."""
        now = self._clock()
        values = (kept.id, kept.previous, kept.status, 0, now, now + self._retention, kept.body, kept.input)
        with self._connection() as connection:
            connection.execute("REPLACE INTO responses VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
            self._sweep(connection, now)

    def update(self, id: str, status: str, body: bytes, *, even_cancelled: bool = False) -> bool:
        """Renew an answer; False when it was deleted or cancelled meanwhile, and nothing was done."""
        with self._connection() as connection:
            done = connection.execute(
                "UPDATE responses SET status = ?, body = ?, touched = ? WHERE id = ? AND cancelled <= ?",
                (status, body, self._clock(), id, int(even_cancelled)),
            )
            return done.rowcount == 1

    def cancel(self, id: str, body: bytes) -> bool:
        """Mark an unfinished answer as cancelled, with the body that it has until its worker notices."""
        with self._connection() as connection:
            done = connection.execute(
                "UPDATE responses SET cancelled = 1, status = 'cancelled', body = ? "
                "WHERE id = ? AND status IN ('queued', 'in_progress')",
                (body, id),
            )
            return done.rowcount == 1

    def is_wanted(self, id: str, *, touch: bool) -> bool:
        """Whether an answer in progress is neither cancelled nor deleted; `touch` tells others that it goes on."""
        with self._connection() as connection:
            if touch:
                connection.execute("REPLACE INTO signs SELECT id, ? FROM responses WHERE id = ?", (self._clock(), id))
            row = connection.execute("SELECT cancelled FROM responses WHERE id = ?", (id,)).fetchone()
            return row is not None and not row[0]

    def get(self, id: str) -> KeptResponse | None:
        with self._connection() as connection:
            row = connection.execute(_SELECT, (id, self._clock())).fetchone()
        if row is None:
            return None
        id, previous, status, body, items, cancelled, touched = row
        return KeptResponse(id, previous, status, body, items, bool(cancelled), touched)

    def state(self, id: str) -> KeptState | None:
        with self._connection() as connection:
            return self._state(connection, id)

    def chain(self, id: str) -> tuple[list[KeptState], str | None]:
        """An answer and those before it, oldest first, all kept anew; and the id that is missing, if one is.

        Raises:
            InvalidRequest: they are too many or too large to be read.
        """
        found: dict[str, KeptState] = {}
        wanted: str | None = id
        num_bytes = 0
        with self._connection() as connection:
            while wanted is not None and wanted not in found:
                kept = self._state(connection, wanted)
                if kept is None:
                    return list(reversed(found.values())), wanted
                found[wanted] = kept
                wanted = kept.previous
                num_bytes += kept.size
                if len(found) > MAX_CHAIN or num_bytes > MAX_CHAIN_BYTES:
                    raise InvalidRequest(
                        f"The conversation that ended with '{id[:80]}' is too long to be carried on: send what matters "
                        "of it, or a summary.",
                        param="previous_response_id",
                    )
            expires = self._clock() + self._retention
            # Only when it pays: a chain of a thousand answers must not be written anew at each turn.
            connection.executemany(
                "UPDATE responses SET expires = ? WHERE id = ? AND expires < ?",
                [(expires, each, expires - self._retention / 30) for each in found],
            )
        return list(reversed(found.values())), None

    def delete(self, id: str) -> bool:
        with self._connection() as connection:
            return connection.execute("DELETE FROM responses WHERE id = ?", (id,)).rowcount == 1

    def add_events(self, id: str, first: int, data: bytes) -> None:
        """Keep sent events; `first` is the number of the first. Nothing is done for an answer that was deleted."""
        with self._connection() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO events SELECT id, ?, ? FROM responses WHERE id = ?", (first, data, id)
            )

    def events(self, id: str, first: int) -> list[tuple[int, bytes]]:
        """Kept batches of events from the one that begins with number `first` on."""
        with self._connection() as connection:
            found = connection.execute(
                "SELECT first, data FROM events WHERE response = ? AND first >= ? ORDER BY first", (id, first)
            )
            return [(int(number), bytes(data)) for number, data in found]

    def close(self) -> None:
        _close_all(self._idle)

    def _state(self, connection: sqlite3.Connection, id: str) -> KeptState | None:
        row = connection.execute(_SELECT_STATE, (id, self._clock())).fetchone()
        return None if row is None else KeptState(*row)

    def _sweep(self, connection: sqlite3.Connection, now: float) -> None:
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_INTERVAL
            connection.execute(
                "DELETE FROM responses WHERE id IN (SELECT id FROM responses WHERE expires <= ? LIMIT ?)",
                (now, SWEEP_ROWS),
            )
            connection.execute("PRAGMA incremental_vacuum(1024)").fetchall()
        if self._used_bytes(connection) > self._max_bytes:
            connection.execute(
                "DELETE FROM responses WHERE id IN (SELECT id FROM responses ORDER BY expires LIMIT ?)",
                (SWEEP_ROWS // 16,),
            )

    @staticmethod
    def _used_bytes(connection: sqlite3.Connection) -> int:
        size, count, free = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count", "freelist_count")
        )
        return int(size * (count - free))

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """A connection that nobody else has, in a transaction of its own."""
        if not self.is_available():
            raise StoreError("No answers can be kept here: see the server's log.")
        file = self._file
        try:
            connection = self._take()
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"Kept answers cannot be reached: {error}.") from error
        try:
            with connection:
                yield connection
        except sqlite3.Error as error:
            connection.close()
            if type(error) is sqlite3.DatabaseError:  # its subclasses mean less than damage
                self._damaged = file
            raise StoreError(f"Kept answers cannot be reached: {error}.") from error
        except BaseException:
            connection.close()
            raise
        self._give_back(connection, file)

    def _take(self) -> sqlite3.Connection:
        try:
            return self._idle.pop()
        except IndexError:
            return _connect(self._path)

    def _give_back(self, connection: sqlite3.Connection, file: _Identity | None) -> None:
        if len(self._idle) < MAX_IDLE and file == self._file != self._damaged:
            self._idle.append(connection)
        else:
            connection.close()

    def _open(self) -> _Identity | None:
        """Make or check the file; other workers wait meanwhile, so that only one puts a damaged file aside."""
        try:
            if self._path.parts[:1] == ("~",):
                raise OSError("the folder's '~' stands for nobody's home")
            self._path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._prepare()
            finally:
                os.close(lock)
        except (OSError, sqlite3.Error, StoreError) as error:
            log.warning("answers are not kept (%s): %s", self._path, error)
            return None
        return _identity_of(self._path)

    def _prepare(self) -> None:
        try:
            if self._damaged is not None and self._damaged == _identity_of(self._path):
                raise sqlite3.DatabaseError("what it holds could not be read")
            _check(self._path)
        except sqlite3.OperationalError:  # read-only, locked, full: not damaged
            raise
        except sqlite3.DatabaseError as error:
            aside = _put_aside(self._path)
            log.warning("the kept answers in %s are damaged (%s): put aside as %s", self._path, error, aside.name)
            _check(self._path)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT, check_same_thread=False)
    try:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = NORMAL")  # a crash of the machine may cost the newest, never the file
    except BaseException:
        connection.close()
        raise
    return connection


def _check(path: Path) -> None:
    """See that a file has our tables and can be written; a new one gets them."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)  # others need not read what was said
    os.close(descriptor)
    with contextlib.closing(_connect(path)) as connection:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise StoreError(f"it was written by a newer version of dmr (tables {version}, known are {VERSION})")
        if version == 0:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
        connection.executescript(_SIGNS)
        if path.stat().st_size <= MAX_CHECKED:
            problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if problem != "ok":
                raise sqlite3.DatabaseError(problem)
        with connection:
            connection.execute("DELETE FROM responses WHERE id = ''")  # finds out whether it can be written
            connection.execute("DELETE FROM events WHERE response = ''")


def _identity_of(path: Path) -> _Identity | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _put_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    path.replace(aside)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return aside


def _close_all(connections: deque[sqlite3.Connection]) -> None:
    with contextlib.suppress(IndexError):
        while True:
            connections.pop().close()
