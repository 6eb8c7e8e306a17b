"""Stand-ins for whole rooms."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO, cast

from dmr.errors import ModelNotFound, RemoteModelNotFound
from dmr.runtime_flags import split_flags
from dmr.service.names import Names
from dmr.service.upstreams import Upstreams
from dmr.store.tar import Source, TarStream
from dmr.types import (
    ConfigurationChange,
    ConfiguredModel,
    DetokenizeRequest,
    Embeddings,
    EmbedRequest,
    Event,
    GenerateRequest,
    ManagerStatistics,
    Mode,
    ModelConfig,
    ModelConfiguration,
    ModelRecord,
    ModelStatistics,
    NewModel,
    Removal,
    Repackaging,
    RerankRequest,
    RunningModel,
    Scores,
    StoreUsage,
    Tick,
    TokenCount,
    TokenizeRequest,
    Tokens,
    TransferProgress,
)

Step = Event | TransferProgress | Exception


class FakeStream:
    """Plays steps: events come out, exceptions are raised. Remembers whether it was closed, and how far it got."""

    def __init__(self, steps: Iterable[Step]) -> None:
        self._steps = iter(steps)
        self.closed = False
        self.num_played = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self.closed:
            raise StopIteration
        step = next(self._steps)
        self.num_played += 1
        if isinstance(step, Exception):
            raise step
        return step

    def close(self) -> None:
        self.closed = True


class FakeRemoteModels:
    """What registries have, by name."""

    def __init__(self) -> None:
        self.records: dict[str, ModelRecord] = {}

    def get(self, reference: str) -> ModelRecord:
        if reference not in self.records:
            raise RemoteModelNotFound(f"There is no {reference}.")
        return self.records[reference]


class FakeStorekeeping:
    """Takes archives and wishes down; what fails is said by the service."""

    def __init__(self, service: FakeService) -> None:
        self._service = service
        self.archives: list[TarStream] = []
        self.loaded: list[tuple[bytes, str]] = []
        self.repackaged: list[tuple[str, Repackaging]] = []
        self.purged: list[bool] = []

    def load(self, source: BinaryIO, reference: str = "") -> ModelRecord:
        self._service.fail()
        self.loaded.append((source.read(), reference))
        return model_record(f"docker.io/{reference}") if reference else model_record()

    def export(self, reference: str) -> TarStream:
        self._service.get_model(reference)
        self.archives.append(TarStream([Source("manifest.json", 2, b"{}")]))
        return self.archives[-1]

    def repackage(self, base: str, wish: Repackaging) -> ModelRecord:
        self.repackaged.append((base, wish))
        return self._service.get_model(base)

    def purge(self, force: bool) -> Removal:
        self._service.fail()
        self.purged.append(force)
        return Removal()

    def usage(self) -> StoreUsage:
        self._service.fail()
        return StoreUsage(models=270590000, reclaimable=580, unfinished=300)


class FakeConfigurations:
    """Takes changes down; `entries` are shown."""

    split_flags = staticmethod(split_flags)

    def __init__(self, service: FakeService) -> None:
        self._service = service
        self.entries: list[ConfiguredModel] = []
        self.changes: list[tuple[str, Mode | None, ConfigurationChange]] = []
        self.resets: list[tuple[str | None, Mode | None]] = []

    def change(self, reference: str, mode: Mode | None, change: ConfigurationChange) -> ConfiguredModel:
        self._service.fail()
        record = self._service.get_model(reference)
        self.changes.append((reference, mode, change))
        return ConfiguredModel(reference, record.id, mode or Mode.COMPLETION, ModelConfiguration())

    def reset(self, reference: str | None, mode: Mode | None = None) -> int:
        self._service.fail()
        self.resets.append((reference, mode))
        return len(self.resets)

    def shown(self, reference: str | None = None) -> list[ConfiguredModel]:
        self._service.fail()
        return [entry for entry in self.entries if reference in (None, entry.reference)]


class FakeService:
    """A service without engine, store or manager: answers are queued beforehand, everything asked is recorded."""

    def __init__(self, models: Sequence[ModelRecord] = ()) -> None:
        self.models = list(models)
        self.running: list[RunningModel] = []
        self.measured: list[ModelStatistics] = []
        self.lived = ManagerStatistics()
        self.ready = True
        self.upstreams = Upstreams()
        self.names = Names(cast(Any, FakeRecords(self)))
        self.remote_models = FakeRemoteModels()
        self.storekeeping = FakeStorekeeping(self)
        self.configurations = FakeConfigurations(self)
        self.requests: list[GenerateRequest] = []
        self.streams: list[FakeStream] = []
        self.removed: list[tuple[str, bool]] = []
        self.unloaded: list[list[str] | None] = []
        self.preloaded: list[str] = []
        self.imported: dict[str, tuple[bytes, int | None]] = {}
        self.failure: Exception | None = None  # what every management call raises
        self.calls: list[EmbedRequest | RerankRequest | TokenizeRequest | DetokenizeRequest] = []
        self.counted: list[GenerateRequest] = []
        self.copied: list[tuple[str, str]] = []
        self.transfers: list[tuple[str, str, str, str | None, bool]] = []
        self.created: list[NewModel] = []
        self.files: dict[str, bytes] = {}  # uploads by digest
        self.features: tuple[str, ...] = ("completion", "tools", "thinking", "insert", "embedding", "rerank")
        self.in_pieces: list[bool] = []  # whether each answer was wanted so
        self.replies: deque[object] = deque()  # what the calls answer, in order; exceptions are raised
        self._scripts: deque[Iterable[Step]] = deque()

    def enqueue(self, *steps: Step) -> None:
        """What the next `generate` plays."""
        self._scripts.append(steps)

    def generate(self, request: GenerateRequest, *, in_pieces: bool = True) -> Iterator[Event]:
        self.requests.append(request)
        self.in_pieces.append(in_pieces)
        self.streams.append(FakeStream(self._scripts.popleft()))
        return iter(self.streams[-1])

    def embed(self, request: EmbedRequest) -> Iterator[Tick | Embeddings]:
        return self._reply(request)

    def rerank(self, request: RerankRequest) -> Iterator[Tick | Scores]:
        return self._reply(request)

    def tokenize(self, request: TokenizeRequest) -> Iterator[Tick | Tokens]:
        return self._reply(request)

    def detokenize(self, request: DetokenizeRequest) -> Iterator[Tick | str]:
        return self._reply(request)

    def count_tokens(self, request: GenerateRequest) -> Iterator[Tick | TokenCount]:
        return self._counted(request)

    def render(self, request: GenerateRequest) -> Iterator[Tick | str]:
        return self._counted(request)

    def capabilities(self, record: ModelRecord) -> tuple[str, ...]:
        return self.features

    def chat_template(self, record: ModelRecord) -> str:
        return record.config.gguf.get("tokenizer.chat_template", "")

    def copy_model(self, source: str, target: str) -> ModelRecord:
        model = self.get_model(source)
        self.copied.append((source, target))
        return model

    def pull(self, reference: str, token: str | None = None, insecure: bool = False) -> Iterator[Any]:
        self.transfers.append(("pull", reference, reference, token, insecure))
        return FakeStream(self._scripts.popleft())

    def push(
        self, source: str, target: str | None = None, token: str | None = None, insecure: bool = False
    ) -> Iterator[Any]:
        self.transfers.append(("push", source, target or source, token, insecure))
        return FakeStream(self._scripts.popleft())

    def create_model(self, new: NewModel) -> Iterator[Any]:
        self.created.append(new)
        return FakeStream(self._scripts.popleft())

    def has_file(self, digest: str) -> bool:
        self.fail()
        return digest in self.files

    def add_file(self, source: BinaryIO, size: int | None, digest: str) -> None:
        self.fail()
        self.files[digest] = source.read()

    def _reply(self, request: EmbedRequest | RerankRequest | TokenizeRequest | DetokenizeRequest) -> Iterator[Any]:
        self.calls.append(request)
        self.get_model(request.model)
        yield Tick()
        yield self._next_reply()

    def _counted(self, request: GenerateRequest) -> Iterator[Any]:
        self.counted.append(request)
        self.get_model(request.model)
        yield self._next_reply()

    def _next_reply(self) -> object:
        reply = self.replies.popleft()
        if isinstance(reply, Exception):
            raise reply
        return reply

    def list_models(self) -> list[ModelRecord]:
        self.fail()
        return self.models

    def served_models(self) -> list[ModelRecord]:
        return self.list_models()

    def get_stored_model(self, reference: str) -> ModelRecord:
        return self.get_model(reference)

    def get_model(self, reference: str) -> ModelRecord:
        self.fail()
        names = {f"docker.io/{reference}", f"docker.io/{reference}:latest", reference}
        for model in self.models:
            if names & {*model.tags, model.id}:
                return model
        raise ModelNotFound(reference)

    def import_gguf(self, source: BinaryIO, size: int | None, reference: str) -> ModelRecord:
        self.fail()
        self.imported[reference] = (source.read(), size)
        self.models.append(model_record(f"docker.io/{reference}"))
        return self.models[-1]

    def remove_model(self, reference: str, force: bool) -> Removal:
        model = self.get_model(reference)
        self.models.remove(model)
        self.removed.append((reference, force))
        return Removal(untagged=model.tags, deleted=(model.id,))

    def running_models(self) -> list[RunningModel]:
        self.fail()
        return self.running

    def statistics(self) -> list[ModelStatistics]:
        self.fail()
        return self.measured

    def lifecycle(self) -> ManagerStatistics:
        self.fail()
        return self.lived

    def preload(
        self, reference: str, keep_alive: float | None = None, context_size: int | None = None
    ) -> Iterator[Event]:
        self.fail()
        self.get_model(reference)
        yield Tick()
        self.preloaded.append(reference)

    def unload_models(self, references: list[str] | None) -> int:
        self.fail()
        for reference in references or ():
            self.get_model(reference)
        self.unloaded.append(references)
        return len(self.running) if references is None else len(references)

    def versions(self) -> dict[str, str]:
        return {"version": "0.1.0", "llama_cpp_commit": "0c1e570"}

    def is_ready(self) -> bool:
        return self.ready

    def fail(self) -> None:
        if self.failure is not None:
            raise self.failure


class FakeRecords:
    """The part of a record cache that names need."""

    def __init__(self, service: FakeService) -> None:
        self._service = service

    def get(self, reference: str) -> ModelRecord:
        return self._service.get_model(reference)


def model_record(*tags: str, id: str = "sha256:" + "ab" * 32) -> ModelRecord:
    """A small model under these tags."""
    config = ModelConfig(
        format="gguf",
        quantization="Q4_1",
        parameters="134.52M",
        architecture="llama",
        size="91.73MiB",
        gguf={"general.architecture": "llama"},
        context_size=8192,
    )
    return ModelRecord(id=id, tags=tags, created=1742905342, config=config)
