"""The embedder's queue and batches: a scripted runner in place of native code."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

from dmr.engine.core_share import CoreShare
from dmr.engine.embed_intake import EmbedIntake
from dmr.engine.embedder import TEXTS_PER_PLACE, Embedder, EmbedJob, pack
from dmr.engine.loading import PairMarks
from dmr.errors import ContextLengthExceeded, InternalError, InvalidRequest, Overloaded
from dmr.types import Timings
from dmr.wire import EngineRerank, EngineScores, EngineVectors, WireError

if TYPE_CHECKING:
    from dmr.engine.embed_runner import Vector


class ScriptedRunner:
    """A text's vector is its tokens' sum and number. Every batch waits for leave if `gate` is shut."""

    max_batch_tokens = 20
    max_texts = 4

    def __init__(self) -> None:
        self.batches: list[list[list[int]]] = []
        self.failures: deque[Exception] = deque()
        self.gate = threading.Event()
        self.gate.set()
        self.num_rests = 0

    def run(self, texts: list[list[int]], num_threads: int) -> list[Vector]:
        self.batches.append(texts)
        assert self.gate.wait(10)
        if self.failures:
            raise self.failures.popleft()
        return [np.array([sum(tokens), len(tokens)], np.float32) for tokens in texts]

    def rest(self) -> None:
        self.num_rests += 1


class Bench:
    def __init__(self, max_queue: int = 100) -> None:
        self.runner = ScriptedRunner()
        self.embedder = Embedder(self.runner, CoreShare(2, lambda: None), max_queue)
        self.thread = threading.Thread(target=self.embedder.run)

    def submit(self, *texts: list[int]) -> EmbedJob:
        job = make_job(*texts)
        self.embedder.submit(job)
        return job

    def wait_for_batches(self, number: int) -> None:
        deadline = time.monotonic() + 5
        while len(self.runner.batches) < number:
            assert time.monotonic() < deadline, "no batch was run"
            time.sleep(0.002)

    def stop(self) -> None:
        self.runner.gate.set()
        self.embedder.stop()
        self.thread.join(5)
        assert not self.thread.is_alive()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    made.thread.start()
    yield made
    made.stop()


def make_job(*texts: list[int]) -> EmbedJob:
    def reply(vectors: list[Vector], timings: Timings) -> EngineVectors:
        return EngineVectors(tuple(v.tobytes() for v in vectors), tuple(map(len, texts)), timings)

    return EmbedJob(list(texts), reply)


def sums(job: EmbedJob) -> list[tuple[float, float]]:
    reply = job.reply.result(5)
    assert isinstance(reply, EngineVectors)
    return [tuple(np.frombuffer(vector, np.float32).tolist()) for vector in reply.vectors]


def lengths(jobs: deque[EmbedJob], max_texts: int = 4, max_tokens: int = 20) -> list[list[int]]:
    """All batches that come of the jobs, as lengths of texts."""
    batches: list[list[int]] = []
    while jobs:
        batch = pack(jobs, max_texts, max_tokens)
        assert batch, "jobs are left that no batch takes"
        batches.append([len(place.tokens) for place in batch])
    return batches


def of_lengths(*numbers: int) -> EmbedJob:
    return make_job(*([1] * number for number in numbers))


def test_vectors_come_in_the_order_of_the_texts(bench: Bench) -> None:
    job = bench.submit([1], [2, 3, 4], [5, 6], [7] * 15, [8], [9] * 20)
    assert sums(job) == [(1, 1), (9, 3), (11, 2), (105, 15), (8, 1), (180, 20)]


def test_requests_share_a_batch(bench: Bench) -> None:
    bench.runner.gate.clear()
    first = bench.submit([1])
    bench.wait_for_batches(1)
    others = [bench.submit([number]) for number in range(2, 6)]
    bench.runner.gate.set()
    assert [sums(job) for job in (first, *others)] == [[(number, 1)] for number in range(1, 6)]
    assert [len(batch) for batch in bench.runner.batches] == [1, 4]


def test_each_request_has_a_text_in_turn() -> None:
    many, one = of_lengths(*[5] * 40), of_lengths(5)
    jobs = deque([many, one])
    first = pack(jobs, 4, 20)
    assert [place.job for place in first] == [many, one, many, many]


def test_a_request_with_many_texts_does_not_hold_up_one_that_comes_later(bench: Bench) -> None:
    bench.runner.gate.clear()
    many = bench.submit(*[[1, 2]] * 1500)
    bench.wait_for_batches(1)
    one = bench.submit([7])
    bench.runner.gate.set()
    assert sums(one) == [(7, 1)]
    assert [7] in bench.runner.batches[1]
    assert len(sums(many)) == 1500


def test_batches_keep_to_their_limits() -> None:
    assert lengths(deque([of_lengths(*[1] * 9)])) == [[1] * 4, [1] * 4, [1]]
    assert lengths(deque([of_lengths(12, 9, 8, 11)])) == [[12, 8], [11, 9]]
    # Longer than any batch: on its own.
    assert lengths(deque([of_lengths(3, 50, 2)])) == [[50], [3, 2]]
    assert lengths(deque([of_lengths(2), of_lengths(50)])) == [[2], [50]]


def test_who_did_not_fit_comes_first_the_next_time() -> None:
    jobs = deque([of_lengths(*[6] * 50), of_lengths(20)])
    assert [len(place.tokens) for place in pack(jobs, 4, 20)] == [6, 6, 6]
    assert [len(place.tokens) for place in pack(jobs, 4, 20)] == [20]


def test_a_request_without_texts_is_answered_at_once(bench: Bench) -> None:
    assert sums(bench.submit()) == []


def test_a_full_queue_says_so() -> None:
    bench = Bench(max_queue=1)
    first = bench.submit(*[[1]] * (TEXTS_PER_PLACE - 1))
    bench.submit([1])
    with pytest.raises(Overloaded) as caught:
        bench.submit([1])
    assert caught.value.retry_after
    # What one request needs is never too much for an empty queue.
    bench.embedder.abort(first)
    bench.submit([1])
    empty = Bench(max_queue=1)
    empty.submit(*[[1]] * (TEXTS_PER_PLACE + 1))


def test_what_was_aborted_is_not_computed(bench: Bench) -> None:
    bench.runner.gate.clear()
    running = bench.submit(*[[1]] * 40)
    bench.wait_for_batches(1)
    queued = bench.submit([2])
    bench.embedder.abort(running)
    bench.embedder.abort(queued)
    bench.embedder.abort(queued)
    bench.runner.gate.set()
    assert sums(bench.submit([3])) == [(3, 1)]
    assert [len(batch) for batch in bench.runner.batches] == [4, 1]
    assert not running.reply.done()
    assert bench.embedder._num_texts == 0


@pytest.mark.parametrize(
    ("failure", "message"),
    [(RuntimeError("a defect"), "The engine failed."), (InternalError("The back end failed."), "The back end failed.")],
)
def test_a_batch_that_fails_is_told_to_its_requests_only(bench: Bench, failure: Exception, message: str) -> None:
    bench.runner.gate.clear()
    bench.runner.failures.append(failure)
    failing = bench.submit(*[[1]] * 40)
    bench.wait_for_batches(1)
    other = bench.submit([2])
    bench.runner.gate.set()
    assert failing.reply.result(5) == WireError("internal_error", message)
    assert sums(other) == [(2, 1)]
    assert [len(batch) for batch in bench.runner.batches] == [4, 1]
    assert bench.embedder._num_texts == 0


def test_a_reply_that_cannot_be_made_is_an_error_too(bench: Bench) -> None:
    job = EmbedJob([[1]], lambda vectors, timings: EngineScores((1 / 0,), 1))
    bench.embedder.submit(job)
    assert job.reply.result(5) == WireError("internal_error", "The engine failed.")
    assert sums(bench.submit([2])) == [(2, 1)]


def test_many_threads_at_once(bench: Bench) -> None:
    answers: dict[int, list[tuple[float, float]]] = {}

    def ask(number: int) -> None:
        answers[number] = sums(bench.submit(*[[number] * length for length in range(1, 8)]))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert answers == {number: [(number * length, length) for length in range(1, 8)] for number in range(20)}


def test_times_are_told(bench: Bench) -> None:
    bench.runner.gate.clear()
    first = bench.submit([1])
    bench.wait_for_batches(1)
    second = bench.submit([2])
    time.sleep(0.02)
    bench.runner.gate.set()
    first_reply, second_reply = first.reply.result(5), second.reply.result(5)
    assert isinstance(first_reply, EngineVectors)
    assert isinstance(second_reply, EngineVectors)
    assert first_reply.timings.prefill >= 0.02 > first_reply.timings.queued
    assert second_reply.timings.queued >= 0.02


def test_memory_is_given_back_when_nobody_waits(bench: Bench) -> None:
    sums(bench.submit([1]))
    deadline = time.monotonic() + 5
    while bench.runner.num_rests < 2:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_cores_are_shared_while_both_compute() -> None:
    now = 100.0
    cores = CoreShare(4, lambda: None, lambda: now)
    with cores.at_work("generator"):
        assert cores.num_threads(now) == 4
        with cores.at_work("embedder"):
            assert cores.num_threads(now) == 2
        # Between two of its batches.
        assert cores.num_threads(now + 0.1) == 2
        assert cores.num_threads(now + 1) == 4
    single = CoreShare(1, lambda: None)
    with single.at_work("generator"), single.at_work("embedder"):
        assert single.num_threads(now) == 1


class WordTokenizer:
    """A token per word; what was tokenized is remembered."""

    context_size = 16
    begin_token = -1
    control_tokens = ()
    pair_marks = PairMarks([1], [2], [3])

    def __init__(self) -> None:
        self.texts: list[str] = []

    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        self.texts.append(text)
        return [int(word) for word in text.split()]

    def detokenize(self, token_ids: list[int]) -> str:
        return " ".join(map(str, token_ids))

    def check_tokens(self, token_ids: tuple[int, ...], param: str = "prompt") -> list[int]:
        return list(token_ids)


@pytest.mark.parametrize("template", [None, "1 {query} 2 {document} 3"])
def test_a_long_query_is_read_once_for_all_documents(template: str | None) -> None:
    tokenizer = WordTokenizer()
    intake = EmbedIntake(tokenizer, ranks=True, template=template)
    query = "7 " * 10_000
    message = EngineRerank((query, "8"), (*((0, f"9 {number}") for number in range(50)), (1, "9")))
    with pytest.raises(ContextLengthExceeded):
        intake.prepare(message)
    tokenizer.texts.clear()
    *long, short = intake.prepare(msgspec.structs.replace(message, truncate=True)).texts
    assert sum(map(len, tokenizer.texts)) < 2 * len(query)
    assert [tokens[:2] + tokens[-4:] for tokens in long] == [[1, 7, 2, 9, number, 3] for number in range(50)]
    assert {len(tokens) for tokens in long} == {16}
    assert short == [1, 8, 2, 9, 3]
    with pytest.raises(InvalidRequest, match="query 1 of 1"):
        intake.prepare(EngineRerank(("7",), ((1, "9"),)))
