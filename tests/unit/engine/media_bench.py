"""An engine that sees, stepped by hand, with a thread that encodes."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import msgspec
from PIL import Image
from tiny_models import SCRIPT_COLOURS, model_file
from unit.engine.native_bench import SETTINGS, make_spec

from dmr.config import EngineSettings
from dmr.engine.engine import Request
from dmr.engine.machinery import Machinery, build
from dmr.engine.media_reader import Medium
from dmr.errors import DmrError
from dmr.types import SamplingParams, TokenLogprob
from dmr.wire import (
    MEDIA_CLOSE,
    MEDIA_OPEN,
    EngineCompleted,
    EngineMedia,
    EngineMessage,
    EngineOutput,
    EngineRequest,
)

PATIENCE = 20.0
GREEDY = SamplingParams(temperature=0.0, ignore_eos=True)


def picture(colour: str, side: int = 56, height: int | None = None) -> EngineMedia:
    number = SCRIPT_COLOURS.index(colour)
    rgb = tuple(255 if number & bit else 0 for bit in (4, 2, 1))
    target = io.BytesIO()
    Image.new("RGB", (side, height or side), rgb).save(target, "PNG")
    return EngineMedia("image", target.getvalue())


def place(number: int) -> str:
    return f"{MEDIA_OPEN}{number}{MEDIA_CLOSE}"


class MediaBench:
    def __init__(
        self, model: str, folder: Path, settings: EngineSettings = SETTINGS, projector: Path | None = None
    ) -> None:
        path = projector or model_file(f"{model}-mmproj", folder)
        spec = msgspec.structs.replace(make_spec(model_file(model, folder), settings), projector=str(path))
        self.machinery: Machinery = build(spec, lambda fraction: True)
        assert self.machinery.media is not None
        assert self.machinery.steps is not None
        self.encoder, self.engine = self.machinery.media, self.machinery.steps._engine
        self.messages: dict[Request, list[EngineMessage]] = {}
        self.engine._deliver = lambda request, message: self.messages[request].append(message)
        self._thread = threading.Thread(target=self.encoder.run, daemon=True)
        self._thread.start()

    def encoded(self, *media: EngineMedia) -> tuple[Medium, ...]:
        answer = self.encoder.submit(media).result.result(PATIENCE)
        if isinstance(answer, DmrError):
            raise answer
        return answer

    def ask(self, text: str, *media: EngineMedia, max_tokens: int = 4, sampling: SamplingParams = GREEDY) -> Request:
        message = EngineRequest((text,), sampling, max_tokens=max_tokens, num_logprobs=5, media=media)
        request = self.machinery.server._intake.prepare(message, self.encoded(*media) if media else ())
        self.messages[request] = []
        self.engine.add(request)
        return request

    def run(self) -> None:
        while self.engine.has_work:
            self.engine.step()
            self.engine._scheduler.check_integrity()
        self.engine.check_integrity()

    def text(self, request: Request) -> str:
        return "".join(each.text for each in self.messages[request] if isinstance(each, EngineOutput))

    def logprobs(self, request: Request) -> list[TokenLogprob]:
        return [row for each in self.messages[request] if isinstance(each, EngineOutput) for row in each.logprobs]

    def num_cached(self, request: Request) -> int:
        last = self.messages[request][-1]
        assert isinstance(last, EngineCompleted), last
        return last.usage.num_cached_tokens

    def forget(self) -> None:
        self.engine._scheduler.preempt_all()
        self.engine._runner.forget_all()

    def close(self) -> None:
        self.encoder.stop()
        self._thread.join(PATIENCE)
