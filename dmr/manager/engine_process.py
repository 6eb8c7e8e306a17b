"""One engine process as the manager sees it: started, waited for, listened to, ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from dmr.errors import DmrError, ModelLoadFailed, Unavailable
from dmr.log_file import engine_output
from dmr.wire import (
    BEAT_INTERVAL,
    EngineBeat,
    EngineInfo,
    EngineSpec,
    LoadProgress,
    WireError,
    engine_status_decoder,
    pack,
    read_frame,
)

COMMAND = (sys.executable, "-m", "dmr.engine.worker")
MAX_LAST_WORDS = 20  # lines of its standard error that are kept
MAX_LINE = 1000  # characters kept of each
STOP_TIMEOUT = 5.0  # seconds between SIGTERM and SIGKILL

logger = logging.getLogger("dmr.manager")


class EngineProcess:
    """Made by `start`. Its standard input is a life line: an engine whose manager has died ends by itself."""

    def __init__(self, process: Process, spec: EngineSpec, status: asyncio.StreamReader) -> None:
        loop = asyncio.get_running_loop()
        self.spec = spec
        self.pid = process.pid
        self.progress = 0.0  # of loading, 0..1
        self.ready: asyncio.Future[EngineInfo] = loop.create_future()
        self._process = process
        self._last_words: deque[str] = deque(maxlen=MAX_LAST_WORDS)
        self._stopping = False
        self._has_refused = False
        self._has_beaten = False  # since it was looked at last
        self._silence = 0.0  # seconds after which it was killed because it said nothing; 0 = it was not
        self._code: int | None = None  # of its end, if it ended by itself: exit status, or minus the number of a signal
        self._ended = asyncio.ensure_future(self._watch(status))

    @classmethod
    async def start(cls, spec: EngineSpec, command: Sequence[str] = COMMAND) -> EngineProcess:
        """Start loading. Raises OSError when no process can be started."""
        process = await cls.spawn(spec, command)
        await process.begin()
        return process

    @classmethod
    async def spawn(cls, spec: EngineSpec, command: Sequence[str] = COMMAND) -> EngineProcess:
        """A process that loads nothing before `begin`. Raises OSError when no process can be started."""
        read_end, write_end = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                "--status-fd",
                str(write_end),
                stdin=PIPE,
                stderr=PIPE,
                pass_fds=(write_end,),
                # An abort of ggml would start a debugger, whose pages of talk are not the engine's last words.
                env={**os.environ, "GGML_NO_BACKTRACE": "1"},
            )
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        status = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(status), os.fdopen(read_end, "rb", buffering=0)
        )
        return cls(process, spec, status)

    async def begin(self) -> None:
        """Tell it what to load: `spec`, which may have changed since `spawn`."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it may have died already; `ready` will tell
            self._process.stdin.write(pack(self.spec))
            await self._process.stdin.drain()

    @property
    def is_alive(self) -> bool:
        return self._process.returncode is None and not self._ended.done()

    @property
    def has_failed(self) -> bool:
        """Whether loading has ended without success."""
        return self.ready.done() and self.ready.exception() is not None

    @property
    def has_crashed(self) -> bool:
        """It has ended by itself, and not with a reason why the model cannot be loaded."""
        return self._code is not None and not self._has_refused

    @property
    def last_words(self) -> str:
        return "\n".join(self._last_words)

    @property
    def epitaph(self) -> str:
        """How it ended by itself and the last that it said, in one line."""
        return "it was ended" if self._code is None else self._told(self._code)

    async def wait_ended(self) -> None:
        await asyncio.shield(self._ended)

    def give_up(self, error: DmrError) -> None:
        """Answer `ready` with an error, if it has no answer yet."""
        if not self.ready.done():
            self.ready.set_exception(error)
            self.ready.exception()  # nobody may be waiting any more

    async def stop(self) -> None:
        """End it: politely, then not. Returns when it is gone and its socket too."""
        self._stopping = True
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._ended), STOP_TIMEOUT)
                return
        await self.wait_ended()

    async def _watch(self, status: asyncio.StreamReader) -> None:
        """Follow the process to its end; `ready` has an answer by then. Never raises."""
        words = asyncio.ensure_future(self._read_last_words())
        watch = asyncio.ensure_future(self._end_silence())
        try:
            await self._read_status(status)
        except DmrError as error:
            self.give_up(_named(error, self.spec.reference))
        code = await self._process.wait()
        watch.cancel()
        await words
        if not self._stopping:
            self._code = code
        with contextlib.suppress(OSError):
            Path(self.spec.socket).unlink()
        if self.ready.done() and not self._stopping:
            logger.error("the engine of %s died (%s):\n%s", self.spec.reference, _describe(code), self.last_words)
        self.give_up(self._load_failure(code))

    async def _read_status(self, status: asyncio.StreamReader) -> None:
        while (message := await read_frame(status, engine_status_decoder)) is not None:
            if isinstance(message, LoadProgress):
                self.progress = message.fraction
            elif isinstance(message, WireError):
                self._has_refused = True
                self.give_up(_named(message.to_error(), self.spec.reference))
            elif isinstance(message, EngineBeat):
                self._has_beaten = True
            elif not self.ready.done():
                self.ready.set_result(message.info)

    async def _end_silence(self) -> None:
        """Kill it when it is ready and has said nothing for too long: nobody is to wait for ever for what hangs.

        Counted in our own looks: while this process or the machine stood still, nobody could be heard.
        """
        await asyncio.wait({self.ready})
        patience = self.spec.settings.hang_timeout
        if patience <= 0 or self.has_failed:
            return
        num_silent = 0
        while num_silent * BEAT_INTERVAL < patience:
            await asyncio.sleep(BEAT_INTERVAL)
            num_silent = 0 if self._has_beaten else num_silent + 1
            self._has_beaten = False
        self._silence = patience
        logger.error("the engine of %s has said nothing for %g s: it is killed", self.spec.reference, patience)
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def _read_last_words(self) -> None:
        """Read until the end whatever comes: an engine whose standard error is not read stands still."""
        assert self._process.stderr is not None
        while True:
            try:
                line = await self._process.stderr.readline()
            except ValueError:  # a line over asyncio's limit; what was read of it is dropped
                continue
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            self._last_words.append(text[:MAX_LINE])
            engine_output.info("%s: %s", self.spec.reference, text)
            with contextlib.suppress(OSError, ValueError):  # our own standard error may be closed
                print(text, file=sys.stderr, flush=True)  # noqa: T201 - the engine's own log, passed on

    def _load_failure(self, code: int) -> DmrError:
        if self._stopping:
            return Unavailable(f"The model '{self.spec.reference}' was unloaded while it was loading.")
        return ModelLoadFailed(f"The engine for '{self.spec.reference}' ended while loading {self._told(code)}")

    def _told(self, code: int) -> str:
        if self._silence:
            return f"(it hung and was killed after {self._silence:g} seconds of silence)"
        last_line = next((line for line in reversed(self._last_words) if line), "it said nothing")
        hint = "; the system may have run out of memory" if code == -signal.SIGKILL else ""
        return f"({_describe(code)}): {last_line}{hint}"


def _named(error: DmrError, reference: str) -> DmrError:
    named = ModelLoadFailed(f"The model '{reference}' cannot be loaded: {error.message}")
    for name, value in error.details.items():
        setattr(named, name, value)
    return named


def _describe(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    with contextlib.suppress(ValueError):  # most real-time signals have no name
        return f"signal {signal.Signals(-code).name}"
    return f"signal {-code}"
