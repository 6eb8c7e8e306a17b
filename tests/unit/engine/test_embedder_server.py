"""The worker's connections for all that is no generation: real sockets, threads and tiny models."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tiny_models import model_file
from unit.engine.native_bench import make_spec

from dmr.config import EngineSettings
from dmr.engine.engine_server import Embedding, Server
from dmr.engine.machinery import Machinery, build
from dmr.engine.worker import run_beside
from dmr.errors import DmrError, InvalidRequest, Unsupported
from dmr.types import SamplingParams
from dmr.wire import (
    Connection,
    EngineDetokenize,
    EngineEmbed,
    EngineReply,
    EngineRequest,
    EngineRerank,
    EngineScores,
    EngineText,
    EngineTokenize,
    EngineTokens,
    EngineVectors,
    WireError,
    engine_reply_decoder,
)


class Serving:
    """A machinery's server on a socket, its event loop on a thread of its own; no step loop runs."""

    def __init__(self, machinery: Machinery, path: Path, *, runs_embedder: bool = True) -> None:
        self.machinery = machinery
        self.path = str(path)
        self.loop = asyncio.new_event_loop()
        self.loop_errors: list[object] = []
        self.loop.set_exception_handler(lambda _, context: self.loop_errors.append(context))
        self._stopped = asyncio.Event()
        self._listening = threading.Event()
        targets = [self._serve, machinery.embedder.run] if runs_embedder else [self._serve]
        self._threads = [threading.Thread(target=target) for target in targets]
        for thread in self._threads:
            thread.start()
        assert self._listening.wait(10)

    def send(self, message: msgspec.Struct) -> Connection:
        connection = Connection(self.path, 20)
        connection.send(message)
        return connection

    def ask(self, message: msgspec.Struct) -> EngineReply:
        connection = self.send(message)
        with contextlib.closing(connection):
            reply = next(connection.frames(engine_reply_decoder))
        assert reply is not None, "no answer came"
        return reply

    def refusal(self, message: msgspec.Struct) -> DmrError:
        reply = self.ask(message)
        assert isinstance(reply, WireError)
        return reply.to_error()

    def stop(self) -> None:
        self.machinery.embedder.stop()
        self.loop.call_soon_threadsafe(self._stopped.set)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()
        assert self.loop_errors == []

    def _serve(self) -> None:
        async def main() -> None:
            listener = await asyncio.start_unix_server(self.machinery.server.serve, self.path)
            self._listening.set()
            await self._stopped.wait()
            listener.close()
            await asyncio.sleep(0.01)

        with contextlib.closing(self.loop):
            self.loop.run_until_complete(main())
        self.machinery.server._executor.shutdown()


def serve(name: str, folder: Path) -> Iterator[Serving]:
    spec = make_spec(model_file(name, folder), EngineSettings(num_threads=1))
    serving = Serving(build(spec, lambda fraction: True), folder / f"{name}.sock")
    yield serving
    serving.stop()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def embed(folder: Path) -> Iterator[Serving]:
    yield from serve("tiny-embed", folder)


@pytest.fixture(scope="module")
def rerank(folder: Path) -> Iterator[Serving]:
    yield from serve("tiny-rerank", folder)


@pytest.fixture(scope="module")
def generative(folder: Path) -> Iterator[Serving]:
    yield from serve("tiny-script", folder)


def test_vectors_and_scores_come_over_the_wire(embed: Serving, rerank: Serving, generative: Serving) -> None:
    for serving in (embed, generative):
        reply = serving.ask(EngineEmbed(("the cat", "a dog")))
        assert isinstance(reply, EngineVectors)
        assert np.linalg.norm(np.frombuffer(reply.vectors[1], "<f4")) == pytest.approx(1, abs=1e-5)
    scores = rerank.ask(EngineRerank(("cat",), ((0, "dog"), (0, "the cat sleeps"))))
    assert isinstance(scores, EngineScores)
    assert len(set(scores.scores)) == 2


def test_a_model_for_embeddings_does_not_generate(embed: Serving, rerank: Serving) -> None:
    for serving in (embed, rerank):
        refusal = serving.refusal(EngineRequest(("the cat",), SamplingParams()))
        assert isinstance(refusal, Unsupported)
        assert "is a model for embeddings; it cannot generate text." in refusal.message


def test_what_is_wrong_is_said_with_its_parameter(embed: Serving, generative: Serving) -> None:
    too_long = embed.refusal(EngineEmbed(("cat " * 600,)))
    assert (too_long.code, too_long.param) == ("context_length_exceeded", "input")
    assert "602" in too_long.message
    assert "512" in too_long.message
    assert isinstance(generative.refusal(EngineEmbed(((10**6,),))), InvalidRequest)
    assert isinstance(generative.refusal(EngineRerank(("a",), ((0, "b"),))), Unsupported)
    assert generative.refusal(EngineDetokenize((-1,))).param == "tokens"


def test_tokens_and_texts(embed: Serving, generative: Serving) -> None:
    for serving in (embed, generative):
        tokens = serving.ask(EngineTokenize("the cat sleeps", with_pieces=True))
        assert isinstance(tokens, EngineTokens)
        assert len(tokens.ids) == len(tokens.pieces) > 0
        text = serving.ask(EngineDetokenize(tokens.ids))
        assert isinstance(text, EngineText)
        assert text.text.strip() == "the cat sleeps"
    with_marks = embed.ask(EngineTokenize("cat", add_special=True))
    assert isinstance(with_marks, EngineTokens)
    assert len(with_marks.ids) == 3


def test_closing_the_connection_is_the_abort(embed: Serving) -> None:
    for _ in range(5):
        embed.send(EngineEmbed(("cat dog bird",) * 3000)).close()
    embedder = embed.machinery.embedder
    deadline = time.monotonic() + 10
    while embedder._num_texts or embedder._jobs:
        assert time.monotonic() < deadline, "a request was left behind"
        time.sleep(0.005)
    assert isinstance(embed.ask(EngineEmbed(("cat",))), EngineVectors)


def test_many_clients_at_once(embed: Serving) -> None:
    texts = [" ".join(["cat", "dog", "bird"][: 1 + number % 3] * (1 + number % 7)) for number in range(40)]
    expected = embed.ask(EngineEmbed(tuple(texts)))
    assert isinstance(expected, EngineVectors)
    answers: dict[int, EngineReply] = {}

    def ask(number: int) -> None:
        answers[number] = embed.ask(EngineEmbed((texts[number],)))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    for number, vector in enumerate(expected.vectors):
        reply = answers[number]
        assert isinstance(reply, EngineVectors)
        np.testing.assert_allclose(np.frombuffer(reply.vectors[0], "<f4"), np.frombuffer(vector, "<f4"), atol=1e-4)


def test_a_full_queue_is_an_answer_at_once(folder: Path) -> None:
    spec = make_spec(model_file("tiny-embed", folder), EngineSettings(num_threads=1, max_queue=1))
    machinery = build(spec, lambda fraction: True)
    embedding = machinery.server._embedding
    assert isinstance(embedding, Embedding)
    waiting = embedding.intake.prepare(EngineEmbed(("cat",) * 16))
    machinery.embedder.submit(waiting)  # no thread of the embedder runs yet
    serving = Serving(machinery, folder / "full.sock", runs_embedder=False)
    assert serving.refusal(EngineEmbed(("dog",))).code == "overloaded"
    embedder = threading.Thread(target=machinery.embedder.run)
    embedder.start()
    assert isinstance(waiting.reply.result(10), EngineVectors)
    serving.stop()
    embedder.join(10)


def test_when_the_embedder_dies_so_does_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    monkeypatch.setattr("os._exit", codes.append)

    class Broken:
        def run(self) -> None:
            raise AssertionError("texts are lost")

    run_beside(Broken())  # type: ignore[arg-type]
    assert codes == [1]


def test_a_server_without_an_embedder_says_so(generative: Serving) -> None:
    server = Server(generative.machinery.server._intake, None)

    async def answer() -> None:
        reader, writer = asyncio.StreamReader(), None
        with pytest.raises(Unsupported):
            await server._answer(EngineEmbed(("a",)), reader, writer)  # type: ignore[arg-type]

    asyncio.run(answer())
    server._executor.shutdown()
