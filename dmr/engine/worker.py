"""The engine process: `python -m dmr.engine.worker --status-fd N`, its EngineSpec as a frame on standard input.

It loads one model, listens on a Unix socket, and tells the manager through the status pipe how far it is. One
connection is one request; a connection that closes is an abort. Standard input is its life line: when it closes, the
manager is gone and the process ends.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dmr import _core
from dmr.engine.engine import Engine, PrefillPacer, Request
from dmr.engine.intake import Intake
from dmr.engine.kv_cache import KVCache
from dmr.engine.model_runner import ModelRunner, num_usable_cores
from dmr.engine.scheduler import Scheduler
from dmr.engine.step_loop import Delivery, Publish, StepLoop
from dmr.errors import DmrError, InternalError
from dmr.wire import (
    EngineCompleted,
    EngineReady,
    EngineRequest,
    EngineSpec,
    EngineStarted,
    EngineStatus,
    LoadProgress,
    WireError,
    engine_query_decoder,
    engine_spec_decoder,
    pack,
    read_frame,
    until_closed,
)

SMALLEST_PREFILL_CHUNK = 32  # tokens; below, a step's cost is mostly that of reading the weights

logger = logging.getLogger("dmr.engine")


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


class Server:
    """Connections in, messages out. Lives on the event loop; the step loop has a thread of its own."""

    def __init__(self, intake: Intake, steps: StepLoop) -> None:
        self._intake = intake
        self._steps = steps
        self._executor = ThreadPoolExecutor(max_workers=max(2, num_usable_cores()), thread_name_prefix="intake")
        self._writers: dict[Request, asyncio.StreamWriter] = {}
        self._done: dict[Request, asyncio.Event] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: one request, then messages until it is done or the other side leaves."""
        try:
            message = await read_frame(reader, engine_query_decoder)
            if message is not None:
                await self._answer(message, reader, writer)
        except DmrError as error:
            writer.write(pack(WireError.of(error)))
        except Exception:
            logger.exception("a request failed")
            writer.write(pack(WireError.of(InternalError("The engine failed."))))
        finally:
            with contextlib.suppress(OSError):
                writer.close()
                await writer.wait_closed()

    async def _answer(self, message: EngineRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        request = await loop.run_in_executor(self._executor, self._intake.prepare, message)
        self._steps.submit(request)
        # No message of the request can overtake this one: they come through this same loop.
        writer.write(pack(EngineStarted(request.num_prompt_tokens)))
        done = asyncio.Event()
        self._writers[request], self._done[request] = writer, done
        gone = asyncio.ensure_future(until_closed(reader))
        finished = asyncio.ensure_future(done.wait())
        await asyncio.wait({gone, finished}, return_when=asyncio.FIRST_COMPLETED)
        if not done.is_set():
            self._steps.abort(request)
        gone.cancel()
        finished.cancel()
        del self._writers[request], self._done[request]

    def publish(self, deliveries: list[Delivery]) -> None:
        """Write a step's messages, one write for each connection. On the event loop."""
        frames: dict[Request, list[bytes]] = {}
        for request, message in deliveries:
            frames.setdefault(request, []).append(pack(message))
            if isinstance(message, (EngineCompleted, WireError)) and request in self._done:
                self._done[request].set()
        for request, parts in frames.items():
            writer = self._writers.get(request)
            if writer is not None:
                writer.write(b"".join(parts))


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

    runner = await loop.run_in_executor(None, ModelRunner.load, spec, report)
    kv_cache = KVCache(runner.num_cells, runner.num_slots, runner.shares_prefixes)
    scheduler = Scheduler(kv_cache, runner.max_num_seqs, runner.max_batch_tokens)
    pacer = PrefillPacer(spec.settings.inter_token_target, SMALLEST_PREFILL_CHUNK, runner.max_batch_tokens)
    steps = StepLoop(lambda deliver: Engine(runner, scheduler, pacer, deliver), spec.settings.max_queue)
    server = Server(Intake(runner), steps)

    def publish(deliveries: list[Delivery]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process is about to end
            loop.call_soon_threadsafe(server.publish, deliveries)

    threading.Thread(target=run_steps, args=(steps, publish), name="steps", daemon=True).start()
    listener = await asyncio.start_unix_server(server.serve, spec.socket, backlog=1024)
    status.send(EngineReady(runner.info()))
    await stopped.wait()
    listener.close()
    steps.stop()


def run_steps(steps: StepLoop, publish: Publish) -> None:
    """The step loop's thread. When it fails, so does the process: every client gets an answer, and a new one starts."""
    try:
        steps.run(publish)
    except Exception:
        logger.critical("the engine cannot go on", exc_info=True)
        os._exit(1)


def pump_log() -> None:
    """Hand ggml's and llama.cpp's lines to Python's logging, from a thread of its own."""
    native = logging.getLogger("dmr.native")
    levels = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.INFO, 4: logging.WARNING}
    while True:
        for level, line in _core.take_log(3600.0):
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


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--status-fd", type=int, required=True)
    code = asyncio.run(main(StatusPipe(parser.parse_args().status_fd)))
    # Native threads and a running step are not worth waiting for, and must not hold up the exit.
    logging.shutdown()
    os._exit(code)
