"""The processes that render templates for this one: started when they are needed, and again when one has died."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator

import msgspec

from dmr.chat.template_messages import ERRORS, Ask, Definition, Told, receive, send
from dmr.errors import DmrError, InternalError, InvalidRequest, Unavailable

MODULE = "dmr.chat.template_process"
MAX_PROCESSES = 4
CPU_SECONDS = 10.0  # that one answer may take
MEMORY_BYTES = 768 << 20  # that a process may take beside what it has at its start
PATIENCE = 120.0  # seconds that an answer may take, and that a request may wait for its turn
IDLE_SECONDS = 60.0  # after which a process too many ends
MAX_REFUSED = 256  # templates that are remembered as unfit

_decoder = msgspec.msgpack.Decoder(Told)


class _Process:
    """One process. For one thread at a time."""

    def __init__(self, cpu_seconds: float, memory_bytes: int) -> None:
        """Raises OSError."""
        self._socket, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", MODULE, str(theirs.fileno()), str(cpu_seconds), str(memory_bytes)],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                )
        except OSError:
            self._socket.close()
            raise
        self._socket.settimeout(PATIENCE)
        self.last_used = time.monotonic()

    def ask(self, ask: Ask) -> Told:
        """Raises OSError, EOFError: it has died or does not answer."""
        send(self._socket, ask)
        return receive(self._socket, _decoder)

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def forget(self) -> None:
        """Leave it to the process that it belongs to."""
        self._socket.close()
        self._process.returncode = 0  # not ours: nothing to reap, nothing to warn about

    def end(self) -> int:
        """Idempotent. Returns its status as `Popen` has it."""
        self._socket.close()
        try:
            return self._process.wait(0.5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


class _Turn:
    """One thread that waits for a process."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.has_come = threading.Event()


class TemplateProcesses:
    """Any thread."""

    def __init__(self, cpu_seconds: float = CPU_SECONDS, memory_bytes: int = MEMORY_BYTES) -> None:
        self._cpu_seconds = cpu_seconds
        self._memory_bytes = memory_bytes
        self._lock = threading.Lock()
        self._waiting: deque[_Turn] = deque()  # who came first in front
        self._idle: list[_Process] = []  # the last used one at the end
        self._busy: Counter[bytes] = Counter()  # processes by the template that they work for
        self._refused: dict[bytes, str] = {}  # templates that break before any conversation, and why

    def ask(self, key: bytes, definition: Definition, request: tuple[object, ...] | None) -> Told:
        """What a template is or renders.

        Raises:
            TemplateError, GrammarError, ValueError: what the native side raises.
            InvalidRequest: it takes too much time or memory, or makes the process crash; `param` is "model".
            Unavailable: all processes have been busy for `PATIENCE` seconds, or somebody has ended this one.
        """
        if key in self._refused:
            raise InvalidRequest(self._refused[key], param="model")
        with self._process_for(key) as process:
            try:
                told = process.ask(Ask(key, None, request))
                if told.error == "unknown":
                    told = process.ask(Ask(key, definition, request))
            except (OSError, EOFError):
                raise self._died(key, request, process.end()) from None
            if told.error == "memory":
                raise self._broken(key, request, f"takes more than {self._memory_bytes >> 20} MiB of memory")
        if told.error:
            raise ERRORS[told.error](told.message)
        return told

    def warm_up(self) -> None:
        """Start one process, so that the first request need not wait for it."""
        with contextlib.suppress(InternalError, Unavailable), self._process_for(b""):
            pass

    def forget(self) -> None:
        """What a forked child has of it is another's: processes, and locks that may be held for ever."""
        for process in self._idle:
            process.forget()
        self._lock = threading.Lock()
        self._waiting, self._idle, self._busy = deque(), [], Counter()

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for process in idle:
            process.end()

    @contextlib.contextmanager
    def _process_for(self, key: bytes) -> Iterator[_Process]:
        process = self._take(key)
        is_whole = False
        try:
            process = process or self._started()
            yield process
            is_whole = True
        except tuple(ERRORS.values()):  # the message could not be made: the process knows nothing of it
            is_whole = True
            raise
        finally:
            self._give_back(key, process, is_whole)

    def _take(self, key: bytes) -> _Process | None:
        """An idle process, or None: one may be started."""
        self._wait_for_turn(_Turn(key))
        with self._lock:
            while self._idle:
                process = self._idle.pop()
                if process.is_alive:
                    return process
                process.end()
            return None

    def _wait_for_turn(self, turn: _Turn) -> None:
        with self._lock:
            self._waiting.append(turn)
            self._give_turns()
        if turn.has_come.wait(PATIENCE):
            return
        with self._lock:
            if not turn.has_come.is_set():
                self._waiting.remove(turn)
                raise Unavailable("Too many conversations are being prepared.", retry_after=5.0)

    def _give_turns(self) -> None:
        """No template has all processes, so that others have one."""
        for turn in tuple(self._waiting):
            if self._busy.total() >= MAX_PROCESSES:
                return
            if self._busy[turn.key] < MAX_PROCESSES - 1:
                self._busy[turn.key] += 1
                self._waiting.remove(turn)
                turn.has_come.set()

    def _give_back(self, key: bytes, process: _Process | None, is_whole: bool) -> None:
        ended: list[_Process] = []
        now = time.monotonic()
        with self._lock:
            self._busy[key] -= 1
            if self._busy[key] <= 0:
                del self._busy[key]
            if process is not None:
                process.last_used = now
                (self._idle if is_whole else ended).append(process)
            if len(self._idle) > 1 and now - self._idle[0].last_used > IDLE_SECONDS:
                ended.append(self._idle.pop(0))
            self._give_turns()
        for each in ended:
            each.end()

    def _broken(self, key: bytes, request: object, reason: str) -> InvalidRequest:
        """Only what a template does before it has seen any conversation is sure to be done again."""
        if request is not None:
            return InvalidRequest(f"The chat template {reason} for this conversation.", param="model")
        why = f"The chat template {reason}; it cannot be used."
        with self._lock:
            self._refused[key] = why
            if len(self._refused) > MAX_REFUSED:
                del self._refused[next(iter(self._refused))]
        return InvalidRequest(why, param="model")

    def _started(self) -> _Process:
        try:
            return _Process(self._cpu_seconds, self._memory_bytes)
        except OSError as error:
            raise InternalError(f"No process for templates can be started: {error.strerror}.") from error

    def _died(self, key: bytes, request: object, status: int) -> DmrError:
        if status in (-signal.SIGKILL, -signal.SIGTERM):  # the kernel when memory is short, or a person
            return Unavailable("The process that prepared this conversation was ended.", retry_after=1.0)
        if status == -signal.SIGPROF:
            return self._broken(key, request, f"takes more than {self._cpu_seconds:g} seconds of computing")
        return self._broken(key, request, f"makes the process crash that renders it (status {status})")


processes = TemplateProcesses()
"""The ones of this process."""


os.register_at_fork(after_in_child=processes.forget)
atexit.register(processes.close)
