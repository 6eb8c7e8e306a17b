"""Log files: stamped, rotated, written to by several processes."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from dmr.errors import InvalidRequest
from dmr.log_file import NUM_OLD, SERVICE_LOG, LogFile, add_log_file, make_log_dir, old_path, stamp


def test_a_stamp_sorts_by_time() -> None:
    assert stamp(1784714400.25) == "[2026-07-22T10:00:00.250000000Z] "
    assert stamp(1784714400) < stamp(1784714400.25) < stamp(1784714401)


def test_a_file_that_has_grown_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / SERVICE_LOG
    file = LogFile(path, max_bytes=10)
    for number in range(6):
        file.write(b"line %04d\n" % number)
    file.close()
    assert path.read_bytes() == b"line 0005\n"
    assert [old_path(path, age).read_bytes() for age in range(1, NUM_OLD + 1)] == [
        b"line 0004\n",
        b"line 0003\n",
        b"line 0002\n",
    ]
    assert len(list(tmp_path.iterdir())) == 1 + NUM_OLD


def test_a_writer_follows_when_another_has_put_the_file_aside(tmp_path: Path) -> None:
    path = tmp_path / SERVICE_LOG
    first, second = LogFile(path, max_bytes=10), LogFile(path, max_bytes=10)
    first.write(b"1 of first\n")
    second.write(b"2 of second\n")
    first.write(b"3 of first\n")
    assert path.read_bytes() == b"3 of first\n"
    assert old_path(path, 1).read_bytes() == b"2 of second\n"
    first.close()
    second.close()


def test_a_file_that_was_removed_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / SERVICE_LOG
    file = LogFile(path)
    file.write(b"a\n")
    path.unlink()
    file.write(b"b\n")
    file.close()
    assert path.read_bytes() == b"b\n"


WRITER = """
import sys
from pathlib import Path
from dmr.log_file import LogFile
file = LogFile(Path(sys.argv[1]), max_bytes=60_000)
for number in range(500):
    file.write(b"%s %d\\n" % (sys.argv[2].encode() * 40, number))
"""


def test_no_line_of_several_processes_is_lost_or_torn(tmp_path: Path) -> None:
    path = tmp_path / SERVICE_LOG
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name]) for name in "abc"]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    lines = [line for file in tmp_path.iterdir() for line in file.read_text().splitlines()]
    assert sorted(lines) == sorted(f"{name * 40} {number}" for name in "abc" for number in range(500))


def test_a_logger_writes_there_too(tmp_path: Path) -> None:
    logger = logging.Logger("some.room")
    add_log_file(logger, tmp_path / SERVICE_LOG)
    logger.warning("two\nlines")
    logger.handlers[0].close()
    first, second = (tmp_path / SERVICE_LOG).read_text().splitlines()
    assert first.endswith("Z] WARNING some.room: two")
    assert second == "lines"


def test_a_full_disk_stops_nobody(tmp_path: Path) -> None:
    logger = logging.Logger("some.room")
    add_log_file(logger, tmp_path / "no such folder" / SERVICE_LOG)
    logger.warning("nowhere")


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    make_log_dir(tmp_path / "a" / "b")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidRequest, match="MODEL_RUNNER_LOG_DIR"):
        make_log_dir(tmp_path / "file" / "logs")
