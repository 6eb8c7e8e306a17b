"""Shared, saved and restored cells of real contexts: an answer must be the one that is computed alone."""

from __future__ import annotations

import random

import pytest
from tiny_models import model_file
from unit.engine.native_bench import TOLERANCE, NativeBench, distance, make_spec

from dmr.config import EngineSettings
from dmr.engine.engine import Engine, Request
from dmr.engine.kv_cache import Sharing
from dmr.engine.model_runner import ModelRunner
from dmr.engine.prefill_pacer import PrefillPacer
from dmr.engine.scheduler import Scheduler
from dmr.types import SamplingParams, TokenLogprob
from dmr.wire import EngineCompleted, EngineRequest

SETTINGS = EngineSettings(context_size=768, max_num_seqs=4, max_batch_tokens=64, num_threads=1)
GREEDY = SamplingParams(temperature=0.0, ignore_eos=True)


class SharingBench(NativeBench):
    """Shares as the model allows, with a host tier if it is to have one."""

    def __init__(self, runner: ModelRunner, host_bytes: int = 0, max_parked: int | None = None) -> None:
        super().__init__(runner)
        runner.host_cache_bytes = host_bytes
        self.kv_cache = runner.make_kv_cache(max_parked)
        self.scheduler = Scheduler(self.kv_cache, runner.max_num_seqs, runner.max_batch_tokens, runner.max_outputs)
        pacer = PrefillPacer(0.1, smallest=16, largest=16)
        self.engine = Engine(runner, self.scheduler, pacer, lambda r, m: self.messages[r].append(m))

    def ask(self, prompt: list[int], max_tokens: int = 8, num_choices: int = 1) -> Request:
        message = EngineRequest(
            (tuple(prompt),), GREEDY, max_tokens=max_tokens, num_logprobs=5, num_choices=num_choices
        )
        return self.add(message)

    def answered(self, prompt: list[int], max_tokens: int = 8) -> Request:
        request = self.ask(prompt, max_tokens)
        self.run()
        return request

    def idle(self) -> None:
        while self.engine.tidy():
            self.engine.check_integrity()

    @property
    def num_restored(self) -> int:
        return self.kv_cache.host.num_restored_tokens if self.kv_cache.host else 0

    def num_cached(self, request: Request) -> int:
        completed = self.messages[request][-1]
        assert isinstance(completed, EngineCompleted)
        return completed.usage.num_cached_tokens


@pytest.fixture(scope="module", params=["tiny-random", "tiny-window", "tiny-recurrent", "tiny-hybrid"])
def runner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelRunner:
    weights = model_file(request.param, tmp_path_factory.mktemp("models"))
    return ModelRunner.load(make_spec(weights, SETTINGS), lambda fraction: True)


def tokens(number: int, length: int) -> list[int]:
    dice = random.Random(number)
    return [dice.randrange(60, 120) for _ in range(length)]


def assert_alike(expected: list[TokenLogprob], actual: list[TokenLogprob]) -> None:
    """Up to where the answers part, which the last bits of a logit may decide."""
    assert len(actual) == len(expected)
    for i, (one, other) in enumerate(zip(expected, actual, strict=True)):
        assert distance(one, other) < TOLERANCE, f"token {i}"
        if one.chosen.token != other.chosen.token:
            return


def alone(runner: ModelRunner, prompt: list[int], max_tokens: int = 8) -> list[TokenLogprob]:
    """What the model answers when nothing is there to share."""
    bench = SharingBench(runner)
    return bench.logprobs(bench.answered(prompt, max_tokens))


def test_a_conversation_goes_on_from_where_it_was(runner: ModelRunner) -> None:
    first, second = tokens(1, 150), tokens(2, 60)
    bench = SharingBench(runner)
    answer = bench.answer(bench.answered(first))[0]
    for prompt in ([*first, *answer, *second], [*first, *second]):  # as it was, and written anew
        request = bench.answered(prompt)
        assert bench.num_cached(request) >= 149
        assert_alike(alone(runner, prompt), bench.logprobs(request))
        bench = SharingBench(runner)
        bench.answered(first)


def test_choices_of_one_prompt_share_it(runner: ModelRunner) -> None:
    prompt = tokens(3, 150)
    bench = SharingBench(runner)
    request = bench.ask(prompt, num_choices=3)
    bench.run()
    expected = alone(runner, prompt)
    for index in range(3):
        assert_alike(expected, bench.logprobs(request, index))
    assert [sequence.num_cached_tokens for sequence in request.sequences] == [0, 149, 149]


def test_a_burst_behind_one_front_computes_it_once(runner: ModelRunner) -> None:
    front = tokens(4, 128)
    prompts = [[*front, *tokens(10 + number, 40)] for number in range(4)]
    bench = SharingBench(runner)
    requests = [bench.ask(prompt) for prompt in prompts]
    bench.run()
    assert [bench.num_cached(request) for request in requests] == [0, 128, 128, 128]
    for prompt, request in zip(prompts, requests, strict=True):
        assert_alike(alone(runner, prompt), bench.logprobs(request))


def test_what_was_saved_comes_back_as_it_was(runner: ModelRunner) -> None:
    first, second = tokens(5, 200), tokens(6, 30)
    bench = SharingBench(runner, host_bytes=1 << 24, max_parked=0)
    bench.answered(first)
    bench.idle()
    if runner.sharing is not Sharing.ANYWHERE:
        bench.answered(tokens(7, 500))  # parked states go when their cells are needed
        bench.answered(tokens(8, 500))
        bench.idle()
    request = bench.answered([*first, *second])
    assert bench.num_restored >= 190
    assert bench.num_cached(request) >= 190
    assert_alike(alone(runner, [*first, *second]), bench.logprobs(request))
    bench.engine.check_integrity()


def check_a_mixed_load(runner: ModelRunner, seed: int, host_bytes: int = 1 << 20) -> None:
    """On little memory. Raises AssertionError when an answer is not that of an empty engine."""
    dice = random.Random(seed)
    fronts = [tokens(20 + number, 80) for number in range(3)]
    prompts = [[*dice.choice(fronts), *tokens(30 + number, dice.randrange(10, 120))] for number in range(24)]
    bench = SharingBench(runner, host_bytes=host_bytes, max_parked=300)
    requests = []
    for prompt in prompts:
        requests.append(bench.ask(prompt, max_tokens=6))
        for _ in range(2):
            bench.engine.step()
            bench.engine.check_integrity()
    bench.run()
    for prompt, request in zip(prompts, requests, strict=True):
        assert_alike(alone(runner, prompt, 6), bench.logprobs(request))
    assert sum(bench.num_cached(request) for request in requests) > 80 * 12


def check_mixed_loads(runner: ModelRunner) -> None:
    """Without host memory: what is saved when would depend on the clock."""
    for seed in range(9, 19):
        check_a_mixed_load(runner, seed, host_bytes=0)


def test_a_mixed_load_on_little_memory_gives_the_answers_of_an_empty_engine(runner: ModelRunner) -> None:
    check_a_mixed_load(runner, 9)


@pytest.mark.parametrize("runner", ["tiny-window", "tiny-hybrid"], indirect=True)
def test_sharing_more_than_the_memory_allows_would_be_seen(runner: ModelRunner) -> None:
    """Or else the tests above would prove nothing: early cells of a window are overwritten, a state has moved on."""
    sharing, runner.sharing = runner.sharing, Sharing.ANYWHERE
    try:
        with pytest.raises(AssertionError):
            check_mixed_loads(runner)
    finally:
        runner.sharing = sharing
