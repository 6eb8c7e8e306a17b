"""Log files that several processes write to: each line with its time, rotated when they have grown.

What users write to models is never logged, here or elsewhere: messages tell of requests, not of their contents.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from contextlib import suppress
from pathlib import Path

from dmr.errors import InvalidRequest

# Docker Model Runner's names, so that what reads its logs can read ours.
SERVICE_LOG = "inference.log"
ENGINE_LOG = "inference-llama.cpp-server.log"

MAX_BYTES = 10 << 20  # of a file, about; then it is put aside
NUM_OLD = 3  # files that were put aside and are kept

# The lines that engines write; where no file is set, they go nowhere from here.
engine_output = logging.getLogger("dmr.engine.output")
engine_output.propagate = False
engine_output.setLevel(logging.INFO)
engine_output.addHandler(logging.NullHandler())


def old_path(path: Path, age: int) -> Path:
    """Where a file was put that was put aside; 1 is the youngest."""
    return path.with_name(f"{path.name}.{age}")


def make_log_dir(folder: Path) -> None:
    """Raises InvalidRequest if log files cannot be written there."""
    try:
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        (folder / SERVICE_LOG).open("ab").close()
    except OSError as error:
        raise InvalidRequest(
            f"MODEL_RUNNER_LOG_DIR={str(folder)!r}: log files cannot be written there: {error.strerror}.",
            param="MODEL_RUNNER_LOG_DIR",
        ) from None


def add_log_file(logger: logging.Logger, path: Path, form: str = "%(levelname)s %(name)s: %(message)s") -> None:
    """From now on, what a logger says is in that file too."""
    handler = _FileHandler(LogFile(path))
    handler.setFormatter(logging.Formatter(form))
    logger.addHandler(handler)


class LogFile:
    """One file. Its writers are told apart by nothing: each write is whole, and who finds it too long puts it aside.

    A forked process may go on with its parent's. Not for several threads at once.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._file = -1
        self._identity: tuple[int, int] | None = None  # device and number of the open file

    def write(self, data: bytes) -> None:
        """Raises OSError."""
        found = self._look()
        if found is not None and found.st_size >= self._max_bytes:
            self._put_aside()
            found = self._look()
        if found is None or (found.st_dev, found.st_ino) != self._identity:
            self._open()
        os.write(self._file, data)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file, self._identity = -1, None

    def _look(self) -> os.stat_result | None:
        try:
            return self._path.stat()
        except FileNotFoundError:
            return None

    def _open(self) -> None:
        self.close()
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        opened = os.fstat(self._file)
        self._identity = (opened.st_dev, opened.st_ino)

    def _put_aside(self) -> None:
        """Others may have done it meanwhile, so it is looked at again under a lock."""
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            found = self._look()
            if found is None or found.st_size < self._max_bytes:
                return
            for age in range(NUM_OLD, 1, -1):
                with suppress(FileNotFoundError):
                    old_path(self._path, age - 1).rename(old_path(self._path, age))
            self._path.rename(old_path(self._path, 1))
        finally:
            os.close(folder)


class _FileHandler(logging.Handler):
    """Without a stamp are only the lines of one message after its first: a reader keeps them together."""

    def __init__(self, file: LogFile) -> None:
        super().__init__()
        self._log_file = file

    def emit(self, record: logging.LogRecord) -> None:
        # A full disk must not stop what is logged about, and standard error has it too.
        with suppress(OSError):
            text = f"{stamp(record.created)}{self.format(record)}\n"
            self._log_file.write(text.encode(errors="replace"))

    def close(self) -> None:
        self._log_file.close()
        super().close()


def stamp(seconds: float) -> str:
    """Unix seconds as every line begins with, `[2006-01-02T15:04:05.000000000Z] `: as texts they sort by time."""
    whole, microseconds = divmod(round(seconds * 1e6), 1_000_000)  # a float holds no more of a time of today
    return f"[{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{microseconds:06}000Z] "
