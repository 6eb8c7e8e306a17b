"""The engine process: `python -m dmr.engine.worker --status-fd N`, its EngineSpec as a frame on standard input.

It loads one model, listens on a Unix socket, and tells the manager through the status pipe how far it is. One
connection is one request, or a channel for the rest of many answers; a request's that closes is an abort. Standard
input is its life line: when it closes, the manager is gone and the process ends. One that hangs or is stopped does not
see that: the kernel ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import faulthandler
import logging
import os
import signal
import sys
import threading
from pathlib import Path

from dmr import _core
from dmr.engine.embedder import Embedder
from dmr.engine.machinery import build
from dmr.engine.media_encoder import MediaEncoder
from dmr.engine.step_loop import Publish, StepLoop
from dmr.engine.watchdog import Watchdog
from dmr.errors import DmrError
from dmr.wire import (
    BEAT_INTERVAL,
    EngineBeat,
    EngineReady,
    EngineSpec,
    EngineStatus,
    LoadProgress,
    WireError,
    engine_spec_decoder,
    pack,
    read_frame,
    until_closed,
)

PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>

logger = logging.getLogger("dmr.engine")
_QUOTING = ("Grammar triggered on", "Grammar still awaiting")  # begin lines with pieces of answers


class StatusPipe:
    """The engine's one-way line to the manager."""

    def __init__(self, fd: int) -> None:
        self._file = os.fdopen(fd, "wb", buffering=0)
        self._last_percent = -1

    def send(self, message: EngineStatus) -> None:
        # A manager that is gone is noticed at the life line.
        with contextlib.suppress(OSError):
            self._file.write(pack(message))

    def progress(self, fraction: float) -> None:
        """Tell whole percents only."""
        percent = int(fraction * 100)
        if percent != self._last_percent:
            self._last_percent = percent
            self.send(LoadProgress(fraction))


async def run_engine(spec: EngineSpec, status: StatusPipe, life_line: asyncio.StreamReader) -> None:
    """Load, listen, serve until SIGTERM or until the manager is gone."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    manager_gone = asyncio.ensure_future(until_closed(life_line))
    manager_gone.add_done_callback(lambda _: stopped.set())

    def report(fraction: float) -> bool:
        status.progress(fraction)
        return not stopped.is_set()

    server, steps, embedder, info, watchdog, media = await loop.run_in_executor(None, build, spec, report)
    if steps is not None:
        threading.Thread(target=run_steps, args=(steps, server.publish), name="steps", daemon=True).start()
    threading.Thread(target=run_beside, args=(embedder,), name="embedder", daemon=True).start()
    if media is not None:
        threading.Thread(target=run_beside, args=(media,), name="media", daemon=True).start()
    listener = await asyncio.start_unix_server(server.serve, spec.socket, backlog=1024)
    status.send(EngineReady(info))
    beating = asyncio.ensure_future(beat(status, watchdog))
    await stopped.wait()
    beating.cancel()
    listener.close()
    if steps is not None:
        steps.stop()
    embedder.stop()
    if media is not None:
        media.stop()


async def beat(status: StatusPipe, watchdog: Watchdog) -> None:
    """For ever: say that this process lives. It ends, and every client gets an answer, when what it computes hangs."""
    while True:
        await asyncio.sleep(BEAT_INTERVAL)
        if what := watchdog.look():
            faulthandler.dump_traceback(all_threads=True)  # where each of them stands
            logger.critical("the engine hangs: the %s has computed nothing for too long", what)
            os._exit(1)
        status.send(EngineBeat())


def run_steps(steps: StepLoop, publish: Publish) -> None:
    """The step loop's thread. When it fails, so does the process: every client gets an answer, and a new one starts."""
    try:
        steps.run(publish)
    except Exception:
        logger.critical("the engine cannot go on", exc_info=True)
        os._exit(1)


def run_beside(worker: Embedder | MediaEncoder) -> None:
    """The thread of what works beside the steps; when it fails, so does the process."""
    try:
        worker.run()
    except Exception:
        logger.critical("%s cannot go on", type(worker).__name__, exc_info=True)
        os._exit(1)


def pump_log() -> None:
    """Hand ggml's and llama.cpp's lines to Python's logging, but for those that quote answers, from its own thread."""
    native = logging.getLogger("dmr.native")
    levels = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.INFO, 4: logging.WARNING}
    while True:
        for level, line in _core.take_log(3600.0):
            if line.startswith(_QUOTING):
                continue
            native.log(levels.get(level, logging.INFO), "%s", line)


async def main(status: StatusPipe) -> int:
    life_line = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(life_line), sys.stdin)
    spec = await read_frame(life_line, engine_spec_decoder)
    if spec is None:
        return 1
    logging.basicConfig(level=spec.log_level.upper(), format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    threading.Thread(target=pump_log, name="log", daemon=True).start()
    try:
        await run_engine(spec, status, life_line)
    except DmrError as error:
        status.send(WireError.of(error))
        return 1
    finally:
        with contextlib.suppress(OSError):
            Path(spec.socket).unlink()
    return 0


def end_with_parent() -> None:
    """From now on the kernel kills this process when its parent dies. Elsewhere than on Linux the life line must do."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it has died before
            os._exit(1)


if __name__ == "__main__":
    end_with_parent()
    parser = argparse.ArgumentParser()
    parser.add_argument("--status-fd", type=int, required=True)
    code = asyncio.run(main(StatusPipe(parser.parse_args().status_fd)))
    # Native threads and a running step are not worth waiting for, and must not hold up the exit.
    logging.shutdown()
    os._exit(code)
