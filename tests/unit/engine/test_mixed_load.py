"""A mixed load gives the answers that each request gets alone.

Equal to the last bit they cannot be: the order in which ggml adds floating-point numbers depends on how many tokens a
pass has, and keys and values are kept as 16-bit floats. So the model's numbers wobble in the second or third decimal,
and where two tokens are about equally likely, or a random number falls close to the border between two, another token
comes, and another text from there on. What is compared is therefore:

1. Every answer, to its last token, is one that the model gives: the probabilities that came with it, and those of its
   tokens under the model alone, are the same within TOLERANCE. One foreign cell or one lost token would show at once.
2. Every token of a greedy answer is the model's likeliest, or within TOLERANCE of it.
3. Up to the first token that differs from the answer alone, if one does, all is equal: tokens, text, reason to stop.
   There, the two candidates of a greedy answer are within TOLERANCE of each other by the numbers of the run alone.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import pytest
from tiny_models import model_file
from unit.engine.guessing import guessing
from unit.engine.mixed_load import Answer, MixedBench, Visit, make_visits, native_lengths
from unit.engine.native_bench import TOLERANCE, distance, make_spec

from dmr.config import EngineSettings
from dmr.engine.model_runner import ModelRunner
from dmr.types import TokenLogprob
from dmr.wire import EngineRequest

NUM_REQUESTS = int(os.environ.get("MIXED_LOAD_REQUESTS", "250"))
SETTINGS = EngineSettings(context_size=256, max_num_seqs=12, max_batch_tokens=64, num_threads=1)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> ModelRunner:
    weights = model_file("tiny-random", tmp_path_factory.mktemp("models"))
    return ModelRunner.load(make_spec(weights, SETTINGS), lambda fraction: True)


class Alone(NamedTuple):
    """What a request gets that nobody else is beside."""

    answers: list[Answer]
    prompt: tuple[int, ...]


def compute_alone(runner: ModelRunner, visits: list[Visit]) -> list[Alone]:
    bench = MixedBench(runner, shares_prefixes=False)
    found = []
    for visit in visits:
        # With the numbers of each token, whether they are wanted or not.
        message = _with_logprobs(visit.message)
        request = bench.add(message)
        bench.run()
        prompt = tuple(request.sequences[0].token_ids[: request.num_prompt_tokens])
        found.append(Alone(bench.answers(request), prompt))
    return found


def _with_logprobs(message: EngineRequest) -> EngineRequest:
    fields = {name: getattr(message, name) for name in message.__struct_fields__}
    return EngineRequest(**{**fields, "num_logprobs": 5})


class Tally:
    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.largest_distance = 0.0

    def compare(self, one: TokenLogprob, other: TokenLogprob) -> None:
        """Two distributions for the same place."""
        found = distance(one, other)
        assert found < TOLERANCE
        self.largest_distance = max(self.largest_distance, found)

    def describe(self) -> str:
        parts = [f"{name}: {count}" for name, count in sorted(self.counts.items())]
        return ", ".join([*parts, f"largest difference of a log probability: {self.largest_distance:.4f}"])


def check_under_the_model(
    bench: MixedBench, prompt: tuple[int, ...], answer: Answer, is_greedy: bool, tally: Tally
) -> None:
    """Comparisons 1 and 2."""
    scores = bench.score(prompt + answer.tokens)
    for score, told in zip(scores, answer.prompt_logprobs, strict=False):
        tally.compare(score, told)
        tally.counts["tokens of prompts"] += 1
    scores = scores[len(prompt) - 1 :]
    assert len(scores) == len(answer.tokens)
    for place, score in enumerate(scores):
        if place < len(answer.logprobs):
            tally.compare(score, answer.logprobs[place])
            assert answer.logprobs[place].chosen.token == answer.tokens[place]
        if is_greedy:
            assert score.top[0].logprob - score.chosen.logprob < TOLERANCE
    tally.counts["tokens"] += len(scores)


def check_beside_alone(alone: Answer, mixed: Answer, is_greedy: bool, tally: Tally) -> None:
    """Comparison 3."""
    if mixed.tokens == alone.tokens:
        assert (mixed.text, mixed.reason) == (alone.text, alone.reason)
        tally.counts["equal answers"] += 1
        return
    tally.counts["answers that part"] += 1
    pairs = enumerate(zip(alone.tokens, mixed.tokens, strict=False))
    place = next((place for place, (one, other) in pairs if one != other), None)
    # Neither is the beginning of the other: the same tokens end at the same place for the same reason.
    assert place is not None, (alone, mixed)
    if place >= len(alone.logprobs):  # alone, the answer ended here
        tally.counts["of them at the end of one"] += 1
        return
    here = alone.logprobs[place]
    if place < len(mixed.logprobs):
        tally.compare(here, mixed.logprobs[place])
    if is_greedy:
        known = {entry.token: entry.logprob for entry in here.top}
        assert here.chosen.logprob - known[mixed.tokens[place]] < TOLERANCE


def compare(
    runner: ModelRunner, visits: list[Visit], alone: list[Alone], answers: dict[int, list[Answer]], tally: Tally
) -> None:
    judge = MixedBench(runner, shares_prefixes=False)
    for index, choices in answers.items():
        sampling = visits[index].message.sampling
        is_greedy = sampling.temperature == 0.0
        for mine, theirs in zip(alone[index].answers, choices, strict=True):
            check_under_the_model(judge, alone[index].prompt, theirs, is_greedy, tally)
            check_beside_alone(mine, theirs, is_greedy, tally)
    assert tally.counts["equal answers"] > 4 * tally.counts["answers that part"]


def test_a_mixed_load_gives_the_answers_that_each_gets_alone(
    runner: ModelRunner, record_property: Callable[[str, object], None]
) -> None:
    visits = make_visits(NUM_REQUESTS, seed=11)
    alone = compute_alone(runner, visits)
    bench = MixedBench(runner)
    answers = bench.play(visits)
    tally = Tally()
    tally.counts["preemptions"] = bench.scheduler.num_preemptions
    tally.counts["cancelled requests"] = len(visits) - len(answers)
    assert all(visit.leaves_after is not None for index, visit in enumerate(visits) if index not in answers)

    compare(runner, visits, alone, answers, tally)
    print(f"\n{len(visits)} requests: {tally.describe()}")
    record_property("mixed load", tally.describe())
    assert tally.counts["preemptions"] > 5, "the memory was not small enough to show anything"


def test_guesses_change_no_answer(runner: ModelRunner) -> None:
    """Somebody guesses who knows the answers, and is wrong now and then. Guesses are for quiet times."""
    visits = make_visits(100, seed=12, pauses=(0, 10, 30))
    alone = compute_alone(runner, visits)
    texts = [[*each.prompt, *answer.tokens] for each in alone for answer in each.answers]

    def following(token_ids: list[int], count: int) -> list[int]:
        size = len(token_ids)
        text = next((text for text in texts if text[:size] == token_ids), [])
        return text[size : size + count]

    bench = MixedBench(runner, speculation=guessing(following, wrong=0.2))
    decodes = runner._context.counters.num_decodes
    answers = bench.play(visits)
    decodes = runner._context.counters.num_decodes - decodes
    tally = Tally()
    compare(runner, visits, alone, answers, tally)
    print(f"\nwith guesses, in {decodes} steps: {tally.describe()}")
    assert decodes < tally.counts["tokens"] // 2, "there were hardly any guesses"


def test_afterwards_nothing_is_left_in_the_native_memory(runner: ModelRunner) -> None:
    bench = MixedBench(runner)
    bench.play(make_visits(40, seed=3))
    assert sum(native_lengths(runner._context)) > 0  # parked, for those who come later
    bench.kv_cache.drop_parked()
    bench.check_native_memory()
    assert sum(native_lengths(runner._context)) == 0


def test_cancelling_everything_at_any_moment_leaves_nothing(runner: ModelRunner) -> None:
    for seed in range(8):
        visits = [visit._replace(leaves_after=seed * 3) for visit in make_visits(20, seed)]
        bench = MixedBench(runner)
        bench.play(visits)
        assert not bench.engine.has_work
        bench.kv_cache.drop_parked()
        bench.check_native_memory()
        assert sum(native_lengths(runner._context)) == 0
