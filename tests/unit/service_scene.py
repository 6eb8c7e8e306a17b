"""A service between a scripted engine and a manager that grants leases on it."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import msgspec
from tiny_models.script import SCRIPT_TEMPLATE
from unit.scripted_peer import ScriptedPeer

from dmr.errors import DmrError, Unavailable
from dmr.service import Service
from dmr.store.store import ModelStore
from dmr.types import (
    ChatInput,
    Completed,
    Event,
    FinishReason,
    GenerateRequest,
    Message,
    ModelConfig,
    ModelDefaults,
    ModelRecord,
    Role,
    TextInput,
    TextPart,
    Tick,
    Timings,
    TokenLogprob,
    TokenProbability,
    Tool,
    ToolChoice,
    Usage,
)
from dmr.wire import EngineCompleted, EngineInfo, EngineOutput

INFO = EngineInfo("tiny", 512, SCRIPT_TEMPLATE, "", "<|im_end|>", False)
STOP = FinishReason.STOP
END = EngineCompleted(Usage(2, 0, 3), Timings(0.1, 0.2, 0.3))
LOGPROB = TokenLogprob(TokenProbability(1, b"a", -0.5))
RECORD = ModelRecord("sha256:1", ("docker.io/ai/x:latest",), 5, ModelConfig())
WEATHER = Tool(
    "get_weather", "Weather.", '{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}'
)


class FakeLease:
    def __init__(self, socket: str, info: EngineInfo, parting: DmrError | None = None) -> None:
        self.model_id = RECORD.id
        self.socket = socket
        self.info = info
        self.num_closed = 0
        self._parting = parting

    def post_mortem(self) -> DmrError | None:
        assert self.num_closed == 0
        return self._parting

    def close(self) -> None:
        self.num_closed += 1


class FakeManager:
    """Grants leases on the socket; `steps` come before each: None is a tick, an exception is raised."""

    def __init__(self, socket: str) -> None:
        self.socket = socket
        self.info = INFO
        self.steps: list[DmrError | None] = []
        self.leases: list[FakeLease] = []
        self.parting: DmrError | None = None  # what is told of an engine that is gone
        self.num_given_up = 0
        self.asked: list[Any] = []
        self.before_grant = lambda: None

    def acquire(
        self, reference: str, keep_alive: float | None, context_size: int | None, preload: bool = False
    ) -> Generator[FakeLease | None, None, None]:
        self.asked.append((reference, keep_alive, context_size))
        try:
            yield None  # the wish is on its way
            for step in self.steps:
                if step is not None:
                    raise step
                yield None
        except GeneratorExit:
            self.num_given_up += 1
            raise
        self.before_grant()
        self.leases.append(FakeLease(self.socket, self.info, self.parting))
        yield self.leases[-1]

    def import_model(self, path: Path, reference: str) -> ModelRecord:
        self.asked.append((path.read_bytes(), reference))
        return RECORD

    def tag_model(self, source: str, target: str) -> ModelRecord:
        self.asked.append((source, target))
        return RECORD

    def unload_models(self, references: tuple[str, ...] | None) -> int:
        self.asked.append(references)
        return 1

    def ping(self) -> None:
        raise Unavailable("not yet")

    def assert_all_returned(self) -> None:
        assert [lease.num_closed for lease in self.leases] == [1] * len(self.leases)


class SceneStore(ModelStore):
    """Has the model "ai/x", which has no files, beside what lies in the folder."""

    record = RECORD

    def get(self, reference_text: str, loose: bool = False) -> ModelRecord:
        return self.record if reference_text == "ai/x" else super().get(reference_text, loose)


class Scene:
    def __init__(self, engine: ScriptedPeer, folder: Path) -> None:
        self.engine = engine
        self.manager = FakeManager(engine.path)
        self.store = SceneStore(folder / "models")
        self.service = Service(self.manager, self.store)  # type: ignore[arg-type]

    def set_defaults(self, **defaults: Any) -> None:
        """What the model "ai/x" brings along."""
        self.store.record = msgspec.structs.replace(RECORD, defaults=ModelDefaults(**defaults))
        self.store.root.mkdir(exist_ok=True)
        (self.store.root / "models.json").write_text('{"models": []}' + " " * len(repr(defaults)))

    def set_info(self, **changes: Any) -> None:
        self.manager.info = msgspec.structs.replace(INFO, **changes)

    def events(self, request: GenerateRequest) -> list[Event]:
        """Without ticks, and without how long the model took to load."""
        return [unhurried(event) for event in self.service.generate(request) if not isinstance(event, Tick)]


def unhurried(event: Event) -> Event:
    if not isinstance(event, Completed):
        return event
    assert event.timings.load > 0
    return msgspec.structs.replace(event, timings=msgspec.structs.replace(event.timings, load=0.0))


def raw(*prompts: Any, **changes: Any) -> GenerateRequest:
    fields = {name: changes.pop(name) for name in ("suffix", "echo", "truncate") if name in changes}
    return GenerateRequest("ai/x", TextInput(prompts or ("hi",), **fields), **changes)


def said(role: Role, text: str = "", **fields: Any) -> Message:
    return Message(role, (TextPart(text),) if text else (), **fields)


def chat(text: str = "hi", tools: tuple[Tool, ...] = (), **changes: Any) -> GenerateRequest:
    choice = changes.pop("tool_choice", ToolChoice.AUTO)
    return GenerateRequest("ai/x", ChatInput((said(Role.USER, text),), tools, choice), **changes)


def conversation(*messages: Message, **changes: Any) -> GenerateRequest:
    fields = {name: changes.pop(name) for name in ("truncate", "template", "tools") if name in changes}
    return GenerateRequest("ai/x", ChatInput(messages, **fields), **changes)


def answer(text: str, index: int = 0, reason: FinishReason = STOP, stop: str | None = None) -> list[EngineOutput]:
    """The outputs of one choice, a few characters each."""
    pieces = [EngineOutput(index, text[i : i + 3]) for i in range(0, len(text), 3)]
    return [*pieces, EngineOutput(index, "", finish_reason=reason, stop_sequence=stop)]
