"""The engine's connections: real sockets and threads, the scripted runner in place of native code."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from unit.engine.scripted_runner import Bench, answer_to, choose, make_generator, text_of

from dmr.client import EngineClient
from dmr.config import EngineSettings
from dmr.engine.engine import Request
from dmr.engine.engine_server import Server
from dmr.engine.intake import Intake
from dmr.engine.model_runner import Generator, NewTokens
from dmr.engine.sequence import Sequence
from dmr.engine.step_loop import StepLoop
from dmr.engine.worker import run_steps
from dmr.errors import EngineCrashed, InternalError, InvalidRequest, Overloaded
from dmr.types import SamplingParams
from dmr.wire import (
    EngineCompleted,
    EngineMeasure,
    EngineMessage,
    EngineOutput,
    EngineRequest,
    EngineStarted,
    EngineStatistics,
    WireError,
    engine_message_decoder,
)


class NumberTokenizer:
    """Prompts are token ids."""

    context_size = 500
    begin_token = -1
    control_tokens = ()
    infill_tokens = (-1, -1, -1)

    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        raise RuntimeError("a defect")

    def piece(self, token: int) -> bytes:
        return b"%d " % token

    def detokenize(self, token_ids: list[int]) -> str:
        return " ".join(map(str, token_ids))

    def check_tokens(self, token_ids: tuple[int, ...], param: str = "prompt") -> list[int]:
        return list(token_ids)

    def make_generator(self, request: EngineRequest, seed: int, prompt: list[int]) -> Generator:
        return make_generator()


class Worker:
    """A worker's server on a socket, with its event loop and its step loop on threads of their own."""

    def __init__(self, folder: Path, max_queue: int) -> None:
        self.path = str(folder / "engine.sock")
        self.bench = Bench(num_slots=4)
        self.delay = 0.0  # seconds of each token
        self.bench.runner.choose = self._choose
        self.steps = StepLoop(self._make_engine, EngineSettings(max_queue=max_queue))
        self.server = Server(Intake(NumberTokenizer()), self.steps)
        self.loop = asyncio.new_event_loop()
        self.loop_errors: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.loop_errors.append(context))
        self._threads = [threading.Thread(target=self._serve), threading.Thread(target=self._step)]
        self._stopped = asyncio.Event()
        self._listening = threading.Event()

    def start(self) -> None:
        for thread in self._threads:
            thread.start()
        assert self._listening.wait(5)

    def stop(self) -> None:
        self.steps.stop()
        self.loop.call_soon_threadsafe(self._stopped.set)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()

    def generate(self, *prompt: int, **changes: Any) -> Iterator[EngineMessage | None]:
        return EngineClient(self.path).generate(EngineRequest((prompt or (1,),), SamplingParams(), **changes))

    def wait_until_idle(self) -> None:
        deadline = time.monotonic() + 5
        while self.steps.num_sequences or self.server._outboxes:
            assert time.monotonic() < deadline, "a request was left behind"
            time.sleep(0.005)

    def _make_engine(self, deliver: Callable[[Request, EngineMessage], None]) -> Any:
        self.bench.engine._deliver = deliver
        return self.bench.engine

    def _choose(self, sequence: Sequence) -> NewTokens:
        time.sleep(self.delay)
        return choose(sequence)

    def _step(self) -> None:
        self._listening.wait(5)
        self.steps.run(self.server.publish)

    def _serve(self) -> None:
        async def main() -> None:
            listener = await asyncio.start_unix_server(self.server.serve, self.path)
            self._listening.set()
            await self._stopped.wait()
            listener.close()
            await asyncio.sleep(0.01)

        with contextlib.closing(self.loop):
            self.loop.run_until_complete(main())
        self.server._executor.shutdown()


@pytest.fixture
def worker(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Worker]:
    made = Worker(tmp_path, getattr(request, "param", 100))
    made.start()
    yield made
    made.wait_until_idle()
    made.stop()
    assert made.loop_errors == []
    made.bench.engine.check_integrity()


def collect(messages: Iterator[EngineMessage | None]) -> list[EngineMessage]:
    """All messages up to the last, in order."""
    heard: list[EngineMessage] = []
    for message in messages:
        if message is not None:
            heard.append(message)
        if isinstance(message, (EngineCompleted, WireError)):
            return heard
    raise AssertionError("the stream ended without its last message")


def text(messages: list[EngineMessage]) -> str:
    return "".join(message.text for message in messages if isinstance(message, EngineOutput))


def test_one_connection_is_one_request(worker: Worker) -> None:
    first, *outputs, last = collect(worker.generate(5, 6, max_tokens=4))
    assert first == EngineStarted(2)
    assert text(outputs) == text_of(answer_to([5, 6], 4))
    assert isinstance(last, EngineCompleted)


def test_what_takes_long_to_prepare_holds_up_no_other(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long prompt is prepared by a thread of its own; short ones are by the loop itself."""
    prepare, may_go_on = worker.server._intake.prepare, threading.Event()

    def slow(message: EngineRequest, media: Any) -> Request:
        if len(message.prompts[0]) > 100:
            assert may_go_on.wait(5)
        return prepare(message, media)

    monkeypatch.setattr(worker.server._intake, "prepare", slow)
    monkeypatch.setattr("dmr.engine.engine_server.MAX_QUICK_LENGTH", 100)
    long = [1] * 200
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(text(collect(worker.generate(*long, max_tokens=2)))))
    thread.start()
    assert text(collect(worker.generate(5, max_tokens=2))) == text_of(answer_to([5], 2))
    assert answers == []
    may_go_on.set()
    thread.join(5)
    assert answers == [text_of(answer_to(long, 2))]


def test_the_engine_closes_the_connection_after_its_answer(worker: Worker) -> None:
    messages = worker.generate(1, max_tokens=1)
    collect(messages)
    with pytest.raises(EngineCrashed):
        next(message for message in messages if message is not None)


def test_many_connections_at_once(worker: Worker) -> None:
    answers: dict[int, str] = {}

    def ask(number: int) -> None:
        answers[number] = text(collect(worker.generate(number, max_tokens=1 + number % 20)))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert answers == {number: text_of(answer_to([number], 1 + number % 20)) for number in range(40)}


@pytest.mark.parametrize("num_heard", [1, 3])
def test_closing_the_connection_is_the_abort(worker: Worker, num_heard: int) -> None:
    worker.delay = 0.005
    messages = worker.generate(1, max_tokens=400)
    for _ in range(num_heard):
        next(messages)
    messages.close()  # type: ignore[attr-defined]
    worker.wait_until_idle()
    assert worker.bench.runner.num_steps < 300


def test_a_process_that_ends_has_nothing_to_say_of_its_connections(worker: Worker) -> None:
    """As asyncio.run() does at its end, all tasks are cancelled; what its callbacks raise is in `loop_errors`."""
    worker.delay = 0.02
    messages = worker.generate(5, max_tokens=20)
    assert next(message for message in messages if message is not None) == EngineStarted(1)

    def end() -> None:
        for task in asyncio.all_tasks(worker.loop):
            if "Server.serve" in repr(task.get_coro()):
                task.cancel()

    worker.loop.call_soon_threadsafe(end)
    with pytest.raises(EngineCrashed):
        list(messages)


def test_an_answer_that_nobody_has_read_does_not_disturb(worker: Worker) -> None:
    """The kernel reports a reset, not an end, when unread bytes are thrown away."""
    worker.delay = 0.001
    messages = worker.generate(1, max_tokens=400)
    next(messages)
    time.sleep(0.05)
    messages.close()  # type: ignore[attr-defined]
    worker.wait_until_idle()


def test_requests_that_are_refused(worker: Worker) -> None:
    (refusal,) = collect(worker.generate(*range(500)))
    assert isinstance(refusal, WireError)
    assert refusal.code == "context_length_exceeded"
    (refusal,) = collect(worker.generate(1, max_tokens=-1))
    assert isinstance(refusal, WireError)
    assert isinstance(refusal.to_error(), InvalidRequest)


def test_a_defect_is_an_answer_too(worker: Worker) -> None:
    (refusal,) = collect(EngineClient(worker.path).generate(EngineRequest(("text",), SamplingParams())))
    assert refusal == WireError("internal_error", "The engine failed.")


@pytest.mark.parametrize("worker", [2], indirect=True)
def test_a_full_queue_is_an_answer_at_once(worker: Worker) -> None:
    worker.delay = 0.005
    running = worker.generate(1, max_tokens=400, num_choices=2)
    assert isinstance(next(running), EngineStarted)
    (refusal,) = collect(worker.generate(2))
    assert isinstance(refusal, WireError)
    assert isinstance(refusal.to_error(), Overloaded)
    running.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("data", [b"", b"\0\0", b"\0\0\0\1\xc1", b"\xff" * 50])
def test_who_sends_no_request_harms_nobody(worker: Worker, data: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(5)
        raw.connect(worker.path)
        raw.sendall(data)
        if len(data) > 4:
            assert isinstance(engine_message_decoder.decode(raw.recv(1000)[4:]), WireError)
    assert text(collect(worker.generate(7, max_tokens=2))) == text_of(answer_to([7], 2))


def test_a_failing_step_is_told_to_its_requests(worker: Worker) -> None:
    worker.bench.runner.failures.append(RuntimeError("a defect"))
    started, error = collect(worker.generate(1))
    assert isinstance(started, EngineStarted)
    assert isinstance(error, WireError)
    assert isinstance(error.to_error(), InternalError)
    assert text(collect(worker.generate(7, max_tokens=2))) == text_of(answer_to([7], 2))


def measure(path: str) -> EngineStatistics:
    return next(reply for reply in EngineClient(path).ask(EngineMeasure(), EngineStatistics) if reply is not None)


def test_what_the_engine_has_counted_is_told_also_while_a_step_runs(worker: Worker) -> None:
    collect(worker.generate(5, 6, max_tokens=4))
    told = measure(worker.path).statistics
    assert told is not None
    assert (told.num_completed, told.num_prompt_tokens, told.num_generated_tokens) == (1, 2, 4)
    worker.delay = 2.0
    running = worker.generate(7, max_tokens=1)
    assert isinstance(next(running), EngineStarted)
    began = time.monotonic()
    told = measure(worker.path).statistics
    assert told is not None
    assert (told.num_running + told.num_waiting, told.num_generated_tokens) == (1, 4)
    assert time.monotonic() - began < 1.0
    collect(running)


def test_an_engine_that_generates_nothing_has_no_figures(worker: Worker) -> None:
    worker.server._steps = None
    assert measure(worker.path) == EngineStatistics(None)


def test_what_cannot_be_told_is_one_requests_own_failure(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    worker.bench.runner.choose = lambda sequence: choose(sequence, text="\ud800")  # no character
    started, error = collect(worker.generate(1))
    assert isinstance(started, EngineStarted)
    assert error == WireError("internal_error", "The engine failed.")
    worker.bench.runner.choose = choose
    assert text(collect(worker.generate(7, max_tokens=2))) == text_of(answer_to([7], 2))


def test_when_the_step_loop_dies_so_does_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    monkeypatch.setattr("os._exit", codes.append)

    class Broken:
        def run(self, publish: object) -> None:
            raise AssertionError("cells are lost")

    broken: Any = Broken()
    run_steps(broken, lambda deliveries: None)
    assert codes == [1]
