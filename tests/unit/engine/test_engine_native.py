"""The whole engine room on a real context: the scheduler's freedom must not show in any answer."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_models import model_file
from unit.engine.native_bench import (
    SETTINGS,
    TOLERANCE,
    NativeBench,
    assert_same_distribution,
    distance,
    make_spec,
)

from dmr.config import EngineSettings
from dmr.engine.intake import Intake
from dmr.engine.machinery import make_engine
from dmr.engine.model_runner import ModelRunner
from dmr.errors import DmrError, InvalidRequest, ModelLoadFailed
from dmr.types import SamplingParams, TokenLogprob
from dmr.wire import EngineOutput, EngineRequest, GrammarSpec


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_file("tiny-random", tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def runner(weights: Path) -> ModelRunner:
    return ModelRunner.load(make_spec(weights), lambda fraction: True)


def make_messages(number: int) -> Iterator[EngineRequest]:
    dice = random.Random(20)
    for i in range(number):
        prompt = "".join(dice.choices("abcdefgh ", k=dice.randrange(5, 90)))
        sampling = SamplingParams(temperature=0.0 if i % 2 else 1.0, seed=i, ignore_eos=True, top_k=0)
        yield EngineRequest(
            (prompt,), sampling, num_choices=1 + i % 2, max_tokens=dice.randrange(5, 70), num_logprobs=5
        )


def test_answers_under_pressure_are_those_computed_alone(runner: ModelRunner) -> None:
    alone = NativeBench(runner)
    expected: list[list[list[TokenLogprob]]] = []
    for message in make_messages(24):
        request = alone.add(message)
        alone.run()
        expected.append([alone.logprobs(request, index) for index in range(message.num_choices)])
    crowd = NativeBench(runner)
    requests = [crowd.add(message) for message in make_messages(24)]
    doomed = [crowd.add(message) for message in make_messages(20)]
    for request in doomed:
        for _ in range(3):
            crowd.engine.step()
        crowd.engine.abort(request)
    crowd.run()
    num_same = 0
    for request, choices in zip(requests, expected, strict=True):
        crowd.answer(request)
        for index, choice in enumerate(choices):
            num_same += assert_same_distribution(choice, crowd.logprobs(request, index))
    num_tokens = sum(len(choice) for choices in expected for choice in choices)
    assert num_same > 0.6 * num_tokens
    assert crowd.scheduler.num_preemptions > 3, "the pool was not small enough to show anything"


def test_one_wrong_token_in_the_memory_would_be_seen(runner: ModelRunner) -> None:
    """Or else the test above would prove nothing."""
    bench = NativeBench(runner)
    sampling = SamplingParams(temperature=0.0, ignore_eos=True)
    prompts = ("a" * 30 + "b" + "a" * 30, "a" * 30 + "c" + "a" * 30)
    request = bench.add(EngineRequest(prompts, sampling, max_tokens=3, num_logprobs=5))
    bench.run()
    one, other = bench.logprobs(request, 0), bench.logprobs(request, 1)
    assert max(map(distance, one, other)) > 2 * TOLERANCE


def test_sequences_differ_and_seeds_repeat(runner: ModelRunner) -> None:
    bench = NativeBench(runner)
    message = EngineRequest(
        ("abc",), SamplingParams(seed=5, temperature=1.5, ignore_eos=True), num_choices=3, max_tokens=20
    )
    first = bench.add(message)
    bench.run()
    second = bench.add(message)
    bench.run()
    assert bench.answer(first) == bench.answer(second)
    assert len({tuple(tokens) for tokens in bench.answer(first)}) == 3


def test_probabilities_come_with_each_token(runner: ModelRunner) -> None:
    bench = NativeBench(runner)
    greedy = SamplingParams(temperature=0.0, ignore_eos=True)
    request = bench.add(EngineRequest(("abc",), greedy, max_tokens=4, num_logprobs=3))
    bench.run()
    logprobs = bench.logprobs(request)
    assert [entry.chosen.token for entry in logprobs] == bench.answer(request)[0]
    for entry in logprobs:
        assert len(entry.top) == 3
        assert entry.chosen == entry.top[0]  # greedy
        assert entry.chosen.logprob < 0.0
    assert all(isinstance(entry.chosen.data, bytes) for entry in logprobs)


def test_a_grammar_is_kept_beside_free_neighbours(runner: ModelRunner) -> None:
    bench = NativeBench(runner)
    grammar = GrammarSpec('root ::= [xy] "-" [0-9] [0-9]')
    request = bench.add(EngineRequest(("abc",), SamplingParams(seed=1), max_tokens=30, grammar=grammar))
    free = bench.add(EngineRequest(("abc",), SamplingParams(seed=1), max_tokens=10))
    bench.run()
    text = "".join(m.text for m in bench.messages[request] if isinstance(m, EngineOutput))
    assert text[0] in "xy"
    assert text[1] == "-"
    assert text[2:].isdigit()
    assert len(text) == 4
    bench.answer(free)


def test_a_grammar_that_explodes_fails_alone(runner: ModelRunner) -> None:
    bench = NativeBench(runner)
    grammar = GrammarSpec('root ::= "a" root "b" | "a" root "c"')
    request = bench.add(EngineRequest(("abc",), SamplingParams(seed=1), max_tokens=200, grammar=grammar))
    free = bench.add(EngineRequest(("abc",), SamplingParams(seed=1), max_tokens=40))
    bench.run()
    failed = bench.messages[request][-1]
    assert "too ambiguous" in str(failed)
    bench.answer(free)


@pytest.mark.parametrize(
    ("sampling", "others"),
    [
        ({"top_k": 2**40}, {}),
        ({"top_k": -7}, {}),
        ({"temperature": float("nan")}, {}),
        ({"temperature": float("inf")}, {}),
        ({"logit_bias": ((10**6, 1.0),)}, {}),
        ({"logit_bias": ((2**50, 1.0),)}, {}),
        ({"min_keep": -1}, {}),
        ({"mirostat": 9}, {}),
        ({}, {"num_logprobs": 10**6}),
        ({}, {"num_logprobs": 2**40}),
        ({}, {"stop": ("",)}),
        ({}, {"grammar": GrammarSpec("root ::= [")}),
        ({}, {"prompts": ((500,),)}),
        ({}, {"prompts": ((-1,),)}),
    ],
)
def test_parameters_out_of_range_are_refused(
    runner: ModelRunner, sampling: dict[str, Any], others: dict[str, Any]
) -> None:
    fields: dict[str, Any] = {"prompts": ("abc",), "sampling": SamplingParams(**sampling), **others}
    with pytest.raises(InvalidRequest) as caught:
        Intake(runner).prepare(EngineRequest(**fields))
    assert "incompatible function arguments" not in caught.value.message


def test_what_an_engine_tells_about_itself(runner: ModelRunner) -> None:
    info = runner.info()
    assert info.context_size == SETTINGS.context_size
    assert info.description
    assert info.chat_template


def test_a_template_beside_the_weights_comes_first(weights: Path, tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    template.write_text("{{ messages[0].content }} – überall", encoding="utf-8")
    runner = ModelRunner.load(make_spec(weights, template=template), lambda fraction: True)
    assert runner.info().chat_template == "{{ messages[0].content }} – überall"


@pytest.mark.parametrize(
    "damage", ["missing", "garbage", "truncated", "no template", "bad template", "batch", "sequences"]
)
def test_what_cannot_be_loaded_says_why(weights: Path, tmp_path: Path, damage: str) -> None:
    broken, template, settings = tmp_path / "broken.gguf", None, SETTINGS
    if damage == "missing":
        pass
    elif damage == "garbage":
        broken.write_bytes(b"GGUF" + b"\xff" * 100)
    elif damage == "truncated":
        broken.write_bytes(weights.read_bytes()[:5000])
    else:
        broken = weights
    if damage.endswith("template"):
        template = tmp_path / "template.jinja"
        if damage == "bad template":
            template.write_bytes(b"\xff\xfe\xff")
    if damage == "batch":
        settings = EngineSettings(max_batch_tokens=2**40, context_size=2**41, num_threads=1)
    if damage == "sequences":
        settings = EngineSettings(max_num_seqs=0, num_threads=1)
    with pytest.raises(ModelLoadFailed) as caught:
        ModelRunner.load(make_spec(broken, settings, template), lambda fraction: True)
    assert isinstance(caught.value, DmrError)
    assert "incompatible function arguments" not in caught.value.message


def test_every_sequence_that_may_run_has_a_slot(weights: Path) -> None:
    """Also where there are no more slots than that, and saving cells would need one."""
    settings = EngineSettings(
        context_size=512, max_num_seqs=16, max_batch_tokens=16, num_threads=1, host_cache_bytes=1 << 20
    )
    runner = ModelRunner.load(make_spec(weights, settings), lambda fraction: True)
    engine = make_engine(runner, runner, settings, lambda request, message: None)
    greedy = SamplingParams(temperature=0.0, ignore_eos=True)
    messages = [EngineRequest((chr(97 + number),), greedy, max_tokens=8) for number in range(16)]
    requests = [Intake(runner).prepare(message) for message in messages]
    for number, request in enumerate(requests):
        request.sequences[0].id = number
        engine.add(request)
    for _ in range(4):
        engine.step()
    assert all(request.first_token for request in requests)


def test_loading_can_be_cancelled(weights: Path) -> None:
    with pytest.raises(ModelLoadFailed):
        ModelRunner.load(make_spec(weights), lambda fraction: False)


@pytest.mark.parametrize("name", ["tiny-embed", "tiny-rerank"])
def test_models_that_cannot_generate_are_refused(name: str, tmp_path: Path) -> None:
    spec = make_spec(model_file(name, tmp_path), EngineSettings(num_threads=1))
    with pytest.raises(ModelLoadFailed, match="cannot generate"):
        ModelRunner.load(spec, lambda fraction: True)
