"""The app over a fake service whose models are ways to behave; `/version` tells what became of the requests."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

import msgspec
from fakes import FakeService, FakeStream, model_record

from dmr.config import read_settings
from dmr.errors import Overloaded
from dmr.service.upstreams import Upstreams
from dmr.types import (
    Completed,
    Event,
    Finished,
    FinishReason,
    GenerateRequest,
    ModelRecord,
    Started,
    TextDelta,
    Tick,
    Usage,
)
from dmr_server.app import create_app

END = (Finished(0, FinishReason.STOP), Completed(Usage(5, 0, 3, 0)))


def ticks() -> Iterator[Event]:
    for _ in itertools.count():
        time.sleep(0.1)
        yield Tick()


def drip(num_deltas: int, seconds: float) -> Iterator[Event]:
    for number in range(num_deltas):
        time.sleep(seconds)
        yield TextDelta(0, f"{number} ")


def refused() -> Iterator[Event]:
    """By an engine with a full queue, of which a place becomes free five times a second."""
    error = Overloaded("There is no place.", retry_after=1.5)
    error.interval_ms = 200
    yield Tick()
    raise error


class LiveService(FakeService):
    def generate(self, request: GenerateRequest, *, in_pieces: bool = True) -> Iterator[Event]:
        steps = {
            "fast": lambda: itertools.chain([Started(5)], drip(3, 0), END),
            "ai/smollm2": lambda: itertools.chain([Started(5)], drip(3, 0), END),
            "drip": lambda: itertools.chain([Started(5)], drip(4, 0.2), END),
            "busy": lambda: itertools.chain([Started(5)], drip(10_000, 0.05), END),
            "flood": lambda: itertools.chain([Started(5)], (TextDelta(0, "x" * 100_000) for _ in range(400)), END),
            "full": refused,
            "queued": ticks,
            "ticks": lambda: itertools.chain([Started(5)], ticks()),
        }
        self.streams.append(FakeStream(steps[request.model]()))
        return iter(self.streams[-1])

    def import_gguf(self, source: BinaryIO, size: int | None, reference: str) -> ModelRecord:
        total = 0
        while piece := source.read(1 << 20):
            total += len(piece)
        self.models.append(model_record(f"docker.io/{reference}", id=f"sha256:{total}"))
        return self.models[-1]

    def versions(self) -> dict[str, str]:
        return {"started": str(len(self.streams)), "closed": str(sum(stream.closed for stream in self.streams))}


service = LiveService([model_record("docker.io/ai/smollm2:latest")])
settings = msgspec.structs.replace(read_settings(), max_body_bytes=1_000_000)
service.upstreams = Upstreams(settings.upstreams)
app = create_app(cast(Any, service), settings)
