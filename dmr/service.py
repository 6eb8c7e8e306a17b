"""The one door for everything outside: generate, and whatever is asked of models. Safe for any number of threads."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import IO, BinaryIO

from dmr import _core
from dmr.chat.parser import OutputParser
from dmr.chat.template import PromptTemplate, grammar_of, grammar_of_format
from dmr.client import EngineClient, EngineUnreachable, Lease, ManagerClient
from dmr.config import Settings
from dmr.errors import DmrError, EngineCrashed, InternalError, InvalidRequest, StoreError
from dmr.store.reference import parse_reference
from dmr.store.store import ModelStore
from dmr.types import (
    ChatInput,
    Completed,
    Echo,
    Event,
    Finished,
    FinishReason,
    GenerateRequest,
    ModelRecord,
    Removal,
    RunningModel,
    Started,
    TextDelta,
    Tick,
    ToolChoice,
)
from dmr.wire import (
    EngineCompleted,
    EngineEcho,
    EngineInfo,
    EngineMessage,
    EngineOutput,
    EngineRequest,
    EngineStarted,
    GrammarSpec,
    WireError,
)

MAX_ATTEMPTS = 5  # to reach an engine that has just died
RETRY_DELAY = 0.1  # seconds
COPY_CHUNK = 1 << 20

logger = logging.getLogger("dmr.service")


class Service:
    def __init__(self, manager: ManagerClient, store: ModelStore) -> None:
        self._manager = manager
        self._store = store
        self._templates: dict[EngineInfo, PromptTemplate] = {}
        self._templates_lock = threading.Lock()

    @classmethod
    def connect(cls, settings: Settings) -> Service:
        """The service of a running manager; it need not be up yet."""
        if settings.runtime_dir is None:
            raise InternalError("DMR_RUNTIME_DIR is not set: there is no manager to talk to.")
        return cls(ManagerClient(settings.runtime_dir / "manager.sock"), ModelStore(settings.models_path))

    def generate(self, request: GenerateRequest) -> Iterator[Event]:
        """Answer a request, event by event. Tick comes after each half second of silence; closing is the abort.

        Raises, at any `next`:
            DmrError: before `Started` the request was refused; after it, the answer broke off.
        """
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                lease = yield from self._acquire(request.model, request.keep_alive)
                with contextlib.closing(lease):
                    yield from self._answer(request, lease)
                return
            except EngineUnreachable as error:
                # It died a moment ago; the manager starts another as soon as it has noticed.
                if attempt == MAX_ATTEMPTS:
                    raise EngineCrashed(error.message) from error
                time.sleep(RETRY_DELAY * attempt)

    def preload(self, reference: str, keep_alive: float | None = None) -> Iterator[Event]:
        """Load a model without asking it anything; yields Tick until it is ready.

        Raises:
            ModelNotFound, ModelLoadFailed, Unavailable
        """
        lease = yield from self._acquire(reference, keep_alive)
        lease.close()

    def list_models(self) -> list[ModelRecord]:
        return self._store.models()

    def get_model(self, reference: str) -> ModelRecord:
        """Raises ModelNotFound, InvalidReference."""
        return self._store.get(reference)

    def import_gguf(self, source: BinaryIO, size: int | None, reference: str) -> ModelRecord:
        """Take a GGUF file's bytes into the store under a name. `size` in bytes, if it is known.

        Raises:
            InvalidReference, InvalidModelFile, InvalidRequest, StoreError
        """
        parse_reference(reference)
        folder = self._store.root / "blobs" / "sha256"  # where the store sweeps what a crash has left
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder, prefix="upload-", suffix=".incomplete", delete=False) as file:
                path = Path(file.name)
                try:
                    _copy(source, file, size)
                except BaseException:
                    path.unlink(missing_ok=True)
                    raise
        except OSError as error:
            raise StoreError(f"The model cannot be written to the store: {error}.") from error
        try:
            return self._manager.import_model(path, reference)
        finally:
            path.unlink(missing_ok=True)

    def remove_model(self, reference: str, force: bool) -> Removal:
        """Raises ModelNotFound, Conflict."""
        return self._manager.remove_model(reference, force)

    def running_models(self) -> list[RunningModel]:
        return list(self._manager.running_models())

    def unload_models(self, references: list[str] | None) -> int:
        """End idle engines (None = all idle ones); returns how many."""
        return self._manager.unload_models(None if references is None else tuple(references))

    def versions(self) -> dict[str, str]:
        info = _core.build_info()
        return {key: ", ".join(value) if isinstance(value, list) else value for key, value in info.items()}

    def disk_usage(self) -> int:
        return self._store.disk_usage()

    def is_ready(self) -> bool:
        with contextlib.suppress(DmrError):
            self._manager.ping()
            return True
        return False

    def _acquire(self, reference: str, keep_alive: float | None) -> Generator[Event, None, Lease]:
        with contextlib.closing(self._manager.acquire(reference, keep_alive)) as leases:
            for lease in leases:
                if lease is not None:
                    return lease
                yield Tick()
        raise InternalError("The model manager gave no lease.")

    def _answer(self, request: GenerateRequest, lease: Lease) -> Iterator[Event]:
        if isinstance(request.input, ChatInput):
            prompt = self._template(lease.info).render(request.input, request.response_format)
            preserved = tuple(prompt.preserved_tokens)
            message = _engine_request(request, (prompt.text,), grammar_of(prompt), preserved, prompt.stop)
            parses_tool_calls = request.input.tool_choice is not ToolChoice.NONE

            def make_parser(index: int) -> OutputParser:
                return OutputParser(prompt, index, parses_tool_calls)

            yield from _parsed(make_parser, request.stop, EngineClient(lease.socket).generate(message))
        else:
            grammar = grammar_of_format(request.response_format) if request.response_format else None
            message = _engine_request(request, request.input.prompts, grammar)
            yield from _plain(EngineClient(lease.socket).generate(message))

    def _template(self, info: EngineInfo) -> PromptTemplate:
        with self._templates_lock:
            template = self._templates.get(info)
            if template is None:
                template = self._templates[info] = PromptTemplate(info)
            return template


def _engine_request(
    request: GenerateRequest,
    prompts: tuple[str | tuple[int, ...], ...],
    grammar: GrammarSpec | None,
    preserved_tokens: tuple[str, ...] = (),
    template_stop: list[str] | None = None,
) -> EngineRequest:
    # What the template adds comes last, so that a request's own stop strings keep their place.
    stop = request.stop + tuple(text for text in template_stop or () if text not in request.stop)
    return EngineRequest(
        prompts=prompts,
        sampling=request.sampling,
        num_choices=request.num_choices,
        max_tokens=request.max_tokens,
        stop=stop,
        num_logprobs=request.num_logprobs,
        grammar=grammar,
        preserved_tokens=preserved_tokens,
        client=request.client,
    )


Messages = Generator[EngineMessage | None, None, None]


def _plain(messages: Messages) -> Iterator[Event]:
    """The engine's messages as events; a completion's text is not looked into."""
    with contextlib.closing(messages):
        for message in messages:
            if isinstance(message, EngineOutput):
                if message.text or message.logprobs:
                    yield TextDelta(message.index, message.text, message.logprobs)
                if message.finish_reason is not None:
                    yield Finished(message.index, message.finish_reason, message.stop_sequence)
            else:
                yield _simple_event(message)
                if isinstance(message, EngineCompleted):
                    return


def _parsed(
    make_parser: Callable[[int], OutputParser], asked_stop: tuple[str, ...], messages: Messages
) -> Iterator[Event]:
    """The same for a chat, whose text may hold reasoning and tool calls.

    Only the stop strings that were asked for are named as such; the template's own are an ordinary end of turn.
    """
    parsers: dict[int, OutputParser] = {}
    with contextlib.closing(messages):
        for message in messages:
            if isinstance(message, EngineOutput):
                parser = parsers.get(message.index) or parsers.setdefault(message.index, make_parser(message.index))
                yield from parser.feed(message.text, message.logprobs)
                if message.finish_reason is not None:
                    yield from parser.finish()
                    stop_sequence = message.stop_sequence if message.stop_sequence in asked_stop else None
                    yield Finished(message.index, _chat_reason(message, parser), stop_sequence)
            else:
                yield _simple_event(message)
                if isinstance(message, EngineCompleted):
                    return


def _chat_reason(output: EngineOutput, parser: OutputParser) -> FinishReason:
    assert output.finish_reason is not None
    ended_by_itself = output.finish_reason is FinishReason.STOP
    return FinishReason.TOOL_CALLS if ended_by_itself and parser.has_tool_calls else output.finish_reason


def _simple_event(message: EngineStarted | EngineEcho | EngineCompleted | WireError | None) -> Event:
    if message is None:
        return Tick()
    if isinstance(message, EngineStarted):
        return Started(message.num_prompt_tokens, num_dropped_tokens=message.num_dropped_tokens)
    if isinstance(message, EngineEcho):
        return Echo(message.index, message.text, message.logprobs)
    if isinstance(message, EngineCompleted):
        return Completed(message.usage, message.timings)
    raise message.to_error()


def _copy(source: BinaryIO, target: IO[bytes], size: int | None) -> None:
    copied = 0
    while chunk := source.read(COPY_CHUNK):
        target.write(chunk)
        copied += len(chunk)
    if size is not None and copied != size:
        raise InvalidRequest(f"The upload broke off: {copied} of {size} bytes arrived.")
