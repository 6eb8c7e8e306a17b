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
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import msgspec

from dmr import _core
from dmr.config import EngineSettings
from dmr.engine.core_budget import read_cpu_times
from dmr.engine.core_share import CoreShare
from dmr.engine.embed_intake import EmbedIntake
from dmr.engine.embed_runner import EmbedRunner
from dmr.engine.embedder import Embedder
from dmr.engine.engine import Deliver, Engine, Request, Runner
from dmr.engine.intake import Intake
from dmr.engine.loading import LoadedModel, ModelTokenizer, cannot_generate, describe, load_model
from dmr.engine.model_runner import Generator, ModelRunner, StepOutput
from dmr.engine.native_options import num_usable_cores
from dmr.engine.outbox import Outbox
from dmr.engine.prefill_pacer import PrefillPacer
from dmr.engine.scheduler import Schedule, Scheduler
from dmr.engine.speculation import Drafts, DraftSource, DraftWish, Speculation
from dmr.engine.speculation_policy import SpeculationPolicy
from dmr.engine.statistics import NativeCounters
from dmr.engine.step_loop import Delivery, Publish, StepLoop
from dmr.errors import DmrError, InternalError, Unsupported
from dmr.wire import (
    EngineDetokenize,
    EngineEmbed,
    EngineInfo,
    EngineMeasure,
    EngineMessage,
    EngineQuery,
    EngineReady,
    EngineReply,
    EngineRequest,
    EngineRerank,
    EngineSpec,
    EngineStarted,
    EngineStatistics,
    EngineStatus,
    EngineTokenize,
    LoadProgress,
    WireError,
    engine_query_decoder,
    engine_spec_decoder,
    pack,
    read_frame,
    until_closed,
)

SMALLEST_PREFILL_CHUNK = 32  # tokens; below, a step's cost is mostly that of reading the weights
MAX_QUICK_LENGTH = 2048  # characters or tokens of a request that the event loop itself prepares, in half a millisecond
MAX_QUICK_CHOICES = 4

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


class Embedding(NamedTuple):
    """What turns texts into vectors or scores."""

    intake: EmbedIntake
    embedder: Embedder


class Server:
    """Connections in, messages out. Lives on the event loop; step loop and embedder have threads of their own."""

    def __init__(
        self,
        intake: Intake,
        steps: StepLoop | None,
        embedding: Embedding | None = None,
        refusal: str = "This model cannot generate text.",
    ) -> None:
        """`steps` None: what asks for text is refused with `refusal`."""
        self._intake = intake
        self._steps = steps
        self._embedding = embedding
        self._refusal = refusal
        self._executor = ThreadPoolExecutor(max_workers=max(2, num_usable_cores()), thread_name_prefix="intake")
        self._outboxes: dict[Request, Outbox] = {}

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

    async def _answer(self, message: EngineQuery, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        if isinstance(message, EngineTokenize):
            writer.write(pack(await loop.run_in_executor(self._executor, self._intake.tokenize, message)))
        elif isinstance(message, EngineDetokenize):
            writer.write(pack(await loop.run_in_executor(self._executor, self._intake.detokenize, message)))
        elif isinstance(message, EngineMeasure):
            writer.write(pack(EngineStatistics(self._steps.statistics() if self._steps else None)))
        elif isinstance(message, EngineRequest):
            await self._generate(message, reader, writer)
        else:
            await self._embed(message, reader, writer)

    async def _generate(
        self, message: EngineRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if self._steps is None:
            raise Unsupported(self._refusal)
        if _is_quickly_prepared(message):
            request = self._intake.prepare(message)
        else:
            loop = asyncio.get_running_loop()
            request = await loop.run_in_executor(self._executor, self._intake.prepare, message)
        if writer.is_closing():  # it has left meanwhile
            return
        outbox = self._outboxes[request] = Outbox(writer)
        try:
            self._steps.submit(request)
            outbox.open(EngineStarted(request.num_prompt_tokens, request.num_dropped_tokens))
            if not await _first_of(outbox.is_sent.wait(), reader):
                self._steps.abort(request)
        finally:
            outbox.close()
            del self._outboxes[request]

    async def _embed(
        self, message: EngineEmbed | EngineRerank, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if self._embedding is None:
            raise Unsupported("This model makes no vectors of texts.")
        intake, embedder = self._embedding
        job = await asyncio.get_running_loop().run_in_executor(self._executor, intake.prepare, message)
        embedder.submit(job)
        reply: asyncio.Future[EngineReply] = asyncio.wrap_future(job.reply)
        if await _first_of(reply, reader):
            writer.write(pack(job.reply.result()))
        else:
            embedder.abort(job)

    def publish(self, deliveries: list[Delivery]) -> None:
        """Hand out a step's messages, one write for each connection. Any thread; never waits."""
        by_request: dict[Request, list[EngineMessage]] = {}
        for request, message in deliveries:
            by_request.setdefault(request, []).append(message)
        for request, messages in by_request.items():
            outbox = self._outboxes.get(request)
            if outbox is None:
                continue
            try:
                outbox.put(messages)
            except Exception:
                logger.exception("what a step gave could not be told")
                outbox.put([WireError.of(InternalError("The engine failed."))])


def _is_quickly_prepared(message: EngineRequest) -> bool:
    """Whether it takes less time than to hand it to another thread and back (65 us against 700, SmolLM2)."""
    texts = (*message.prompts, *message.literals, message.suffix or "")
    is_plain = message.grammar is None and len(message.prompts) * message.num_choices <= MAX_QUICK_CHOICES
    return is_plain and sum(map(len, texts)) <= MAX_QUICK_LENGTH


async def _first_of(done: Awaitable[object], reader: asyncio.StreamReader) -> bool:
    """Wait until it is done; False: the other side has left before."""
    finished, gone = asyncio.ensure_future(done), asyncio.ensure_future(until_closed(reader))
    await asyncio.wait({finished, gone}, return_when=asyncio.FIRST_COMPLETED)
    is_done = finished.done()
    finished.cancel()
    gone.cancel()
    return is_done


class SharingRunner:
    """A model runner that lets the embedder know while it computes."""

    def __init__(self, runner: ModelRunner, cores: CoreShare) -> None:
        self._runner = runner
        self._cores = cores

    def run(self, schedule: Schedule, generators: dict[int, Generator]) -> StepOutput:
        with self._cores.at_work("generator"):
            return self._runner.run(schedule, generators)

    def draft(self, wishes: Sequence[DraftWish]) -> Drafts:
        with self._cores.at_work("generator"):
            return self._runner.draft(wishes)

    def interrupt(self) -> None:
        self._runner.interrupt()

    def forget_all(self) -> None:
        self._runner.forget_all()

    def counters(self) -> NativeCounters:
        return self._runner.counters()


class Machinery(NamedTuple):
    """All of a loaded model. Without `steps` it is a model for embeddings or reranking."""

    server: Server
    steps: StepLoop | None
    embedder: Embedder
    info: EngineInfo


def build(spec: EngineSpec, progress: Callable[[float], bool]) -> Machinery:
    """Load the model and make what serves it. Raises ModelLoadFailed."""
    settings = spec.settings
    loaded = load_model(spec, progress)
    num_cores = settings.num_threads or num_usable_cores()
    # Who names a number of threads gets that number, whatever other processes do.
    cores = CoreShare(num_cores, (lambda: None) if settings.num_threads else read_cpu_times)
    runner = ModelRunner.over(loaded, settings, cores)
    embed_runner = _make_embed_runner(spec, loaded, num_cores, generates=runner is not None)
    tokenizer = ModelTokenizer(loaded.model, embed_runner.max_input_tokens)
    ranks = embed_runner.pooling == "rank"
    embedder = Embedder(embed_runner, cores, settings.max_queue)
    embedding = Embedding(EmbedIntake(tokenizer, ranks=ranks, template=loaded.rerank_template), embedder)
    if runner is None:
        embed_runner.open()
        server = Server(Intake(tokenizer), None, embedding, cannot_generate(loaded.model))
        tasks = ("rerank",) if ranks else ("embed",)
        info = describe(loaded.model, loaded.template, embed_runner.max_input_tokens, tasks)
        return Machinery(server, None, embedder, info)
    shared = SharingRunner(runner, cores)
    steps = StepLoop(lambda deliver: make_engine(shared, runner, settings, deliver, shared), settings)
    return Machinery(Server(Intake(runner), steps, embedding), steps, embedder, runner.info())


def _make_embed_runner(spec: EngineSpec, loaded: LoadedModel, num_cores: int, *, generates: bool) -> EmbedRunner:
    """With the settings of what it is for. Raises ModelLoadFailed."""
    embedding, reranking = spec.embedding or spec.settings, spec.reranking or spec.settings
    wished = reranking.pooling or embedding.pooling
    ranks = (wished or loaded.pooling(generates)) == "rank"
    settings = msgspec.structs.replace(reranking if ranks else embedding, pooling=wished)
    if settings.attention != spec.settings.attention:
        loaded = loaded.with_cells(settings.attention)
    return EmbedRunner(loaded, settings, num_cores, generates=generates)


def make_engine(
    steps: Runner, runner: ModelRunner, settings: EngineSettings, deliver: Deliver, drafts: DraftSource | None = None
) -> Engine:
    """An engine that computes its steps with `steps`, and its guesses with `drafts`; both stand for `runner`."""
    kv_cache = runner.make_kv_cache()
    scheduler = Scheduler(kv_cache, runner.max_num_seqs, runner.max_batch_tokens, runner.max_outputs)
    pacer = PrefillPacer(
        settings.inter_token_target, SMALLEST_PREFILL_CHUNK, runner.max_batch_tokens, runner.narrow_batch
    )
    speculation = None
    if runner.can_speculate:
        speculation = Speculation(
            SpeculationPolicy(settings.inter_token_target),
            settings.max_draft_tokens,
            (drafts or runner) if runner.has_draft_model else None,
            uses_ngrams=settings.speculation != "draft",
        )
    return Engine(steps, scheduler, pacer, deliver, speculation)


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

    server, steps, embedder, info = await loop.run_in_executor(None, build, spec, report)
    if steps is not None:
        threading.Thread(target=run_steps, args=(steps, server.publish), name="steps", daemon=True).start()
    threading.Thread(target=run_embedder, args=(embedder,), name="embedder", daemon=True).start()
    listener = await asyncio.start_unix_server(server.serve, spec.socket, backlog=1024)
    status.send(EngineReady(info))
    await stopped.wait()
    listener.close()
    if steps is not None:
        steps.stop()
    embedder.stop()


def run_steps(steps: StepLoop, publish: Publish) -> None:
    """The step loop's thread. When it fails, so does the process: every client gets an answer, and a new one starts."""
    try:
        steps.run(publish)
    except Exception:
        logger.critical("the engine cannot go on", exc_info=True)
        os._exit(1)


def run_embedder(embedder: Embedder) -> None:
    """The embedder's thread; when it fails, so does the process."""
    try:
        embedder.run()
    except Exception:
        logger.critical("the embedder cannot go on", exc_info=True)
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
