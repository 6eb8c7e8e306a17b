"""`dmr` as a process on a pseudo-terminal, as a person would use it."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
# The terminal must be the session's own for Ctrl-C to become a signal.
_PROGRAM = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from dmr.cli.main import main; main()"


class Terminal:
    """A context manager; on leaving, the process must have ended or is killed."""

    def __init__(self, *arguments: str, term: str = "dumb") -> None:
        self.screen = ""
        self._seen = 0
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": term},
        )
        os.close(slave)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def interrupt(self) -> None:
        """Press Ctrl-C while the process waits: a signal just before a blocking call would be seen only after it."""
        time.sleep(0.2)
        self.type("\x03")

    def expect(self, pattern: str, seconds: float = 20) -> re.Match[str]:
        """Wait until the screen shows the pattern, after what was expected before."""
        deadline = time.monotonic() + seconds
        while True:
            found = re.search(pattern, self.screen[self._seen :], re.DOTALL)
            if found:
                self._seen += found.end()
                return found
            assert time.monotonic() < deadline, f"{pattern!r} did not appear in {self.screen[self._seen :]!r}"
            self._read(deadline)

    def exit_status(self) -> int:
        """Wait for the end, reading to the last byte."""
        deadline = time.monotonic() + 20
        while self.process.poll() is None and time.monotonic() < deadline:
            self._read(time.monotonic() + 0.05)
        while self._read(time.monotonic()):
            pass
        return self.process.wait(1)

    def _read(self, deadline: float) -> bool:
        if not select.select([self._master], [], [], max(0, deadline - time.monotonic()))[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # the process has closed its end
            data = b""
        if not data:
            time.sleep(0.01)
        self.screen += data.decode("utf-8", "replace").replace("\r\n", "\n")
        return bool(data)
