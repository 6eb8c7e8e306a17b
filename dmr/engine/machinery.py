"""All that serves one loaded model, put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from dmr.config import EngineSettings
from dmr.engine.core_budget import CoreBudget, read_cpu_times
from dmr.engine.core_share import CoreShare
from dmr.engine.crowding import Crowding
from dmr.engine.embed_intake import EmbedIntake
from dmr.engine.embed_runner import EmbedRunner
from dmr.engine.embedder import Embedder
from dmr.engine.engine import Deliver, Engine, Runner
from dmr.engine.engine_server import Embedding, Server
from dmr.engine.intake import Intake
from dmr.engine.loading import (
    LoadedModel,
    ModelTokenizer,
    cannot_generate,
    computes_on_device,
    describe,
    load_model,
)
from dmr.engine.media_encoder import MediaEncoder
from dmr.engine.media_reader import MediaReader
from dmr.engine.model_runner import Generator, ModelRunner, StepOutput
from dmr.engine.native_options import num_operations, num_usable_cores
from dmr.engine.prefill_pacer import PrefillPacer
from dmr.engine.scheduler import Schedule, Scheduler
from dmr.engine.speculation import Drafts, DraftSource, DraftWish, Speculation
from dmr.engine.speculation_policy import SpeculationPolicy
from dmr.engine.statistics import NativeCounters
from dmr.engine.step_loop import StepLoop
from dmr.engine.watchdog import Watchdog
from dmr.wire import EngineInfo, EngineSpec

SMALLEST_PREFILL_CHUNK = 32  # tokens; below, a step's cost is mostly that of reading the weights


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
    watchdog: Watchdog
    media: MediaEncoder | None = None


def build(spec: EngineSpec, progress: Callable[[float], bool]) -> Machinery:
    """Load the model and make what serves it. Raises ModelLoadFailed."""
    settings = spec.settings
    loaded = load_model(spec, progress)
    num_cores = settings.num_threads or num_usable_cores()
    # Who names a number of threads gets that number, whatever other processes do.
    watchdog = Watchdog(settings.hang_timeout, num_operations)
    cores = CoreShare(num_cores, (lambda: None) if settings.num_threads else read_cpu_times, watchdog=watchdog)
    reader = _load_projector(spec, loaded, num_cores)  # before the context, which takes what memory is left
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
        return Machinery(server, None, embedder, info, watchdog)
    shared = SharingRunner(runner, cores)
    uses_mrope = reader is not None and reader.uses_mrope
    steps = StepLoop(
        lambda deliver: make_engine(
            shared, runner, settings, deliver, shared, counts_positions=uses_mrope, cores=cores
        ),
        settings,
    )
    media = None
    if reader is not None:
        # What a device encodes takes none of the cores.
        is_offloaded = settings.projector.use_gpu and computes_on_device()
        media = MediaEncoder(reader, CoreShare(num_cores, lambda: None, watchdog=watchdog) if is_offloaded else cores)
    server = Server(Intake(runner), steps, embedding, media=media, media_timeout=settings.queue_timeout)
    return Machinery(server, steps, embedder, _with_senses(runner.info(), reader), watchdog, media)


def _load_projector(spec: EngineSpec, loaded: LoadedModel, num_cores: int) -> MediaReader | None:
    """None: there is none, or it is not to be used. Raises ModelLoadFailed."""
    settings = spec.settings
    if spec.projector is None or not settings.projector.is_used:
        return None
    return MediaReader.load(spec.projector, loaded.model, settings.projector, num_cores, settings.max_batch_tokens)


def _with_senses(info: EngineInfo, reader: MediaReader | None) -> EngineInfo:
    senses = () if reader is None else reader.senses
    return msgspec.structs.replace(info, capabilities=(*info.capabilities, *senses))


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
    steps: Runner,
    runner: ModelRunner,
    settings: EngineSettings,
    deliver: Deliver,
    drafts: DraftSource | None = None,
    *,
    counts_positions: bool = False,
    cores: CoreBudget | None = None,
) -> Engine:
    """An engine that computes its steps with `steps`, and its guesses with `drafts`; both stand for `runner`.

    `counts_positions`: see KVCache. `cores`: the budget that the runner has, where it follows one.
    """
    kv_cache = runner.make_kv_cache(counts_positions=counts_positions)
    scheduler = Scheduler(
        kv_cache,
        runner.max_num_seqs,
        runner.max_batch_tokens,
        runner.max_outputs,
        least_picture=runner.step_block,
    )
    pacer = PrefillPacer(
        settings.inter_token_target, SMALLEST_PREFILL_CHUNK, runner.max_batch_tokens, runner.step_block
    )
    speculation = None
    if runner.can_speculate:
        speculation = Speculation(
            SpeculationPolicy(settings.inter_token_target),
            settings.max_draft_tokens,
            (drafts or runner) if runner.has_draft_model else None,
            uses_ngrams=settings.speculation != "draft",
        )
    crowding = None
    if cores is not None and runner.adapts:
        crowding = Crowding(cores, lambda: runner.num_threads, runner.interrupt_all)
    return Engine(steps, scheduler, pacer, deliver, speculation, crowding)
