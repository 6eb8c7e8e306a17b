"""Stand-ins for whole rooms."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

from dmr.errors import ModelNotFound
from dmr.types import Event, GenerateRequest, ModelConfig, ModelRecord, Removal, RunningModel, Tick

Step = Event | Exception


class FakeStream:
    """Plays steps: events come out, exceptions are raised. Remembers whether it was closed, and how far it got."""

    def __init__(self, steps: Iterable[Step]) -> None:
        self._steps = iter(steps)
        self.closed = False
        self.num_played = 0

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        if self.closed:
            raise StopIteration
        step = next(self._steps)
        self.num_played += 1
        if isinstance(step, Exception):
            raise step
        return step

    def close(self) -> None:
        self.closed = True


class FakeService:
    """A service without engine, store or manager: answers are queued beforehand, everything asked is recorded."""

    def __init__(self, models: Sequence[ModelRecord] = ()) -> None:
        self.models = list(models)
        self.running: list[RunningModel] = []
        self.ready = True
        self.requests: list[GenerateRequest] = []
        self.streams: list[FakeStream] = []
        self.removed: list[tuple[str, bool]] = []
        self.unloaded: list[list[str] | None] = []
        self.preloaded: list[str] = []
        self.imported: dict[str, tuple[bytes, int | None]] = {}
        self.failure: Exception | None = None  # what every management call raises
        self._scripts: deque[Iterable[Step]] = deque()

    def enqueue(self, *steps: Step) -> None:
        """What the next `generate` plays."""
        self._scripts.append(steps)

    def generate(self, request: GenerateRequest) -> Iterator[Event]:
        self.requests.append(request)
        self.streams.append(FakeStream(self._scripts.popleft()))
        return iter(self.streams[-1])

    def list_models(self) -> list[ModelRecord]:
        self._fail()
        return self.models

    def get_model(self, reference: str) -> ModelRecord:
        self._fail()
        names = {f"docker.io/{reference}", f"docker.io/{reference}:latest", reference}
        for model in self.models:
            if names & {*model.tags, model.id}:
                return model
        raise ModelNotFound(reference)

    def import_gguf(self, source: BinaryIO, size: int | None, reference: str) -> ModelRecord:
        self._fail()
        self.imported[reference] = (source.read(), size)
        self.models.append(model_record(f"docker.io/{reference}"))
        return self.models[-1]

    def remove_model(self, reference: str, force: bool) -> Removal:
        model = self.get_model(reference)
        self.models.remove(model)
        self.removed.append((reference, force))
        return Removal(untagged=model.tags, deleted=(model.id,))

    def running_models(self) -> list[RunningModel]:
        self._fail()
        return self.running

    def preload(self, reference: str, keep_alive: float | None = None) -> Iterator[Event]:
        self._fail()
        self.get_model(reference)
        yield Tick()
        self.preloaded.append(reference)

    def unload_models(self, references: list[str] | None) -> int:
        self._fail()
        for reference in references or ():
            self.get_model(reference)
        self.unloaded.append(references)
        return len(self.running) if references is None else len(references)

    def versions(self) -> dict[str, str]:
        return {"version": "0.1.0", "llama_cpp_commit": "0c1e570"}

    def disk_usage(self) -> int:
        self._fail()
        return 270590880

    def is_ready(self) -> bool:
        return self.ready

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure


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
