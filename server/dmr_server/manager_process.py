"""The manager's process as gunicorn's master sees it: started first, watched, restarted, and ended last."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dmr_server.manager_beats import LOOK_INTERVAL, ManagerBeats

log = logging.getLogger("gunicorn.error")

COMMAND = (sys.executable, "-m", "dmr.manager")
SOCKET_NAME = "manager.sock"
MAX_SOCKET_PATH = 100  # bytes; macOS takes 103, Linux 107
START_TIMEOUT = 10.0  # seconds until it must accept connections
FIRST_BACKOFF = 0.5  # seconds
MAX_BACKOFF = 30.0
STABLE_AFTER = 60.0  # seconds of life after which a death counts as the first again


class StartFailed(RuntimeError):
    """The manager does not come up. gunicorn prints a RuntimeError's message and exits with 1."""


class ManagerProcess:
    """Owns the manager process and, if it made it, the runtime folder.

    The manager's standard input is its life line: when the last copy of our end closes, it exits. So it ends with this
    process however this one ends, and no forked worker may keep a copy.
    """

    def __init__(
        self,
        runtime_dir: Path | None,
        grace_period: float,
        command: Sequence[str] | None = None,
        start_timeout: float = START_TIMEOUT,
        first_backoff: float = FIRST_BACKOFF,
        hang_timeout: float = 0.0,
        look_interval: float = LOOK_INTERVAL,
    ) -> None:
        """`hang_timeout`: seconds of silence after which it is killed, and started again; 0 = never."""
        self._owns_runtime_dir = runtime_dir is None
        self.runtime_dir = runtime_dir or Path(tempfile.mkdtemp(prefix="dmr-"))
        self._grace_period = grace_period
        self._command = command or COMMAND
        self._start_timeout = start_timeout
        self._first_backoff = first_backoff
        self._hang_timeout = hang_timeout
        self._look_interval = look_interval
        self._lock = threading.Lock()  # held while the life line changes, so that no fork falls in between
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._beats: ManagerBeats | None = None  # of that process
        self._owner = os.getpid()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start it and wait until it accepts connections; raises StartFailed with the reason."""
        try:
            self.runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StartFailed(f"The runtime folder {self.runtime_dir} cannot be made: {error.strerror}.") from None
        if len(os.fsencode(self.runtime_dir / SOCKET_NAME)) > MAX_SOCKET_PATH:
            raise StartFailed(f"The path of the runtime folder is too long for a socket: {self.runtime_dir}")
        if self._accepts():
            raise StartFailed(f"Another server uses the runtime folder {self.runtime_dir}.")
        os.environ["DMR_RUNTIME_DIR"] = str(self.runtime_dir)
        os.register_at_fork(
            before=self._lock.acquire, after_in_parent=self._lock.release, after_in_child=self._drop_life_line
        )
        atexit.register(self.stop)
        try:
            process = self._spawn()
            self._wait_until_accepting(process)
        except BaseException:
            self.stop()
            if self._beats is not None:
                self._beats.close()
            raise
        threading.Thread(target=self._watch, name="manager-watch", daemon=True).start()

    def stop(self) -> None:
        """Cut the life line, wait for the exit, kill what does not go; idempotent, and nothing in a forked child."""
        if os.getpid() != self._owner:
            return
        self._stopping.set()
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            self._end(process)
        if self._owns_runtime_dir:
            shutil.rmtree(self.runtime_dir, ignore_errors=True)

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._stopping.is_set():
                raise StartFailed("The manager is stopping.")
            beats = ManagerBeats(self._hang_timeout, self._start_timeout, self._look_interval)
            try:
                # A session of its own: Ctrl-C at the terminal must reach the master only.
                self._process = subprocess.Popen(
                    [*self._command, "--beat-fd", str(beats.writing_end)],
                    stdin=subprocess.PIPE,
                    start_new_session=True,
                    pass_fds=(beats.writing_end,),
                )
            except BaseException:
                beats.close()
                raise
            finally:
                beats.close_writing_end()
            self._beats = beats
            return self._process

    def _wait_until_accepting(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self._start_timeout
        while not self._accepts():
            if process.poll() is not None:
                raise StartFailed(f"The manager exited with status {process.returncode} before it was ready.")
            if time.monotonic() > deadline:
                raise StartFailed(f"The manager did not accept connections within {self._start_timeout:g} seconds.")
            time.sleep(0.02)

    def _accepts(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(self.runtime_dir / SOCKET_NAME))
            except OSError:
                return False
            return True

    def _watch(self) -> None:
        backoff = self._first_backoff
        while (process := self._process) is not None:
            started = time.monotonic()
            self._end_silence(process)
            # gunicorn's master reaps every child, so the status may be lost; that it ended never is.
            process.wait()
            if time.monotonic() - started > STABLE_AFTER:
                backoff = self._first_backoff
            if self._stopping.is_set():
                return
            log.error("The manager (pid %d) died; it starts again in %g s.", process.pid, backoff)
            if self._stopping.wait(backoff):
                return
            backoff = min(2 * backoff, MAX_BACKOFF)
            self._respawn(process)

    def _end_silence(self, process: subprocess.Popen[bytes]) -> None:
        """Returns when the process ends, and sees to it that it does so when it is stopped or hangs.

        Whoever waits for its answers then gets an error at once: its end closes their connections.
        """
        if self._beats is None:  # the last attempt to start one has failed
            return
        if self._beats.wait_for_silence():
            log.error("The manager (pid %d) has said nothing for %g s: it is killed.", process.pid, self._hang_timeout)
            process.kill()
        self._beats.close()
        self._beats = None

    def _respawn(self, dead: subprocess.Popen[bytes]) -> None:
        if dead.stdin is not None:
            dead.stdin.close()
        try:
            self._spawn()
        except (OSError, StartFailed) as error:
            log.error("The manager could not be started again: %s", error)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdin is not None:
            with suppress(OSError):
                process.stdin.close()
        try:
            process.wait(self._grace_period)
        except subprocess.TimeoutExpired:
            log.warning("The manager (pid %d) did not exit within %g s: killed.", process.pid, self._grace_period)
            process.kill()
            process.wait()

    def _drop_life_line(self) -> None:
        self._lock.release()
        process, self._process = self._process, None
        if self._beats is not None:
            self._beats.close()
        if process is not None and process.stdin is not None:
            process.stdin.close()
            process.returncode = 0  # not ours in this process: nothing to reap, nothing to warn about


current: ManagerProcess | None = None
"""The one of this master. It lives here because gunicorn loads its configuration anew at every reload."""
