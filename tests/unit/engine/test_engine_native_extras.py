"""Echo, shifts, literals and thoughts on a real model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import SCRIPT_ANSWER, model_file
from unit.engine.native_bench import SETTINGS, TOLERANCE, NativeBench, distance, make_spec

from dmr import _core
from dmr.engine.intake import Intake
from dmr.engine.model_runner import ModelRunner
from dmr.errors import Unsupported
from dmr.types import FinishReason, SamplingParams
from dmr.wire import (
    LITERAL_CLOSE,
    LITERAL_OPEN,
    EngineDetokenize,
    EngineEcho,
    EngineOutput,
    EngineRequest,
    EngineTokenize,
    GrammarSpec,
    ThoughtLimit,
    WireError,
)

GREEDY = SamplingParams(temperature=0.0, ignore_eos=True)


@pytest.fixture(scope="module")
def models_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def weights(models_folder: Path) -> Path:
    return model_file("tiny-random", models_folder)


@pytest.fixture(scope="module")
def runner(weights: Path) -> ModelRunner:
    return ModelRunner.load(make_spec(weights), lambda fraction: True)


@pytest.fixture(scope="module")
def think_runner(models_folder: Path) -> ModelRunner:
    return ModelRunner.load(make_spec(model_file("tiny-think", models_folder)), lambda fraction: True)


def place(number: int) -> str:
    return f"{LITERAL_OPEN}{number}{LITERAL_CLOSE}"


# --- echo ------------------------------------------------------------------------------------------------------------


def test_the_prompts_log_probabilities_are_those_of_its_places(runner: ModelRunner, weights: Path) -> None:
    bench = NativeBench(runner)
    texts = ["the quick brown fox " * 6, "a", "jumps over<|im_end|>"]
    noise = bench.add(EngineRequest(("zzz",), GREEDY, max_tokens=150))
    request = bench.add(EngineRequest(tuple(texts), GREEDY, echo=True, max_tokens=5, num_logprobs=4))
    bench.run()
    bench.answer(noise)
    echoes = {m.index: m for m in bench.messages[request] if isinstance(m, EngineEcho)}
    model = _core.Model([str(weights)])
    for index, text in enumerate(texts):
        tokens = model.tokenize(text)
        options = _core.ContextOptions()
        options.context_size, options.max_batch, options.max_outputs = 256, 256, 256
        context, batch = _core.Context(model, options), _core.Batch()
        batch.add(0, tokens, 0, output_all=True)
        context.decode(batch)
        first, *logprobs = echoes[index].logprobs
        assert echoes[index].text == text
        assert first is None
        assert len(logprobs) == len(tokens) - 1
        for i, entry in enumerate(logprobs):
            logits = context.logits(i).astype(np.float64)
            expected = logits - np.log(np.exp(logits).sum())
            assert entry is not None
            assert entry.chosen.token == tokens[i + 1]
            assert abs(entry.chosen.logprob - expected[tokens[i + 1]]) < TOLERANCE
            assert [top.logprob for top in entry.top] == pytest.approx(sorted(expected)[:-5:-1], abs=TOLERANCE)
        data = b"".join(entry.chosen.data for entry in logprobs if entry is not None)
        assert runner.piece(tokens[0]) + data == text.encode()
        assert len(bench.logprobs(request, index)) == 5


def test_only_the_prompt(runner: ModelRunner) -> None:
    bench = NativeBench(runner)
    request = bench.add(EngineRequest(("abc", (5, 6, 7)), GREEDY, echo=True, max_tokens=0))
    bench.run()
    assert bench.answer(request) == [[], []]
    echoes = [m for m in bench.messages[request] if isinstance(m, EngineEcho)]
    assert [echo.text for echo in echoes] == ["abc", runner.detokenize([5, 6, 7])]


def test_what_cannot_be_scored_costs_the_others_nothing(runner: ModelRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others' samplers have gone on when the scores are made: no token of theirs may be lost."""
    sentence = "The quick brown fox jumps over the lazy dog and runs home again."
    bench = NativeBench(runner)
    grammar = GrammarSpec(f'root ::= "{sentence}"')
    neighbour = bench.add(EngineRequest(("hello",), SamplingParams(temperature=0.0), max_tokens=200, grammar=grammar))
    for _ in range(6):
        bench.engine.step()
    monkeypatch.setattr(_core, "score", lambda context, rows, pool: [SimpleNamespace(token=-1) for _ in rows])
    request = bench.add(EngineRequest(("abcdefg",), GREEDY, max_tokens=1, echo=True, num_logprobs=1))
    bench.run()
    assert bench.text(neighbour) == sentence
    error = bench.messages[request][-1]
    assert isinstance(error, WireError)
    assert "not a number" in error.message


# --- a context that shifts -------------------------------------------------------------------------------------------


def test_after_a_shift_the_model_sees_what_is_left(runner: ModelRunner) -> None:
    bench = NativeBench(runner)
    long, size = "abcdefgh " * 20, SETTINGS.context_size
    neighbour = bench.add(EngineRequest(("neighbour",), GREEDY, max_tokens=100))
    request = bench.add(
        EngineRequest((long,), GREEDY, max_tokens=size + 50, shift=16, num_logprobs=5, return_token_ids=True)
    )
    bench.run()
    bench.answer(neighbour)
    logprobs = bench.logprobs(request)
    assert len(logprobs) == size + 50
    prompt = runner.tokenize(long)
    every = prompt + [entry.chosen.token for entry in logprobs]
    last = bench.messages[request][-2]
    assert isinstance(last, EngineOutput)
    assert list(last.token_ids) == every
    assert (last.finish_reason, last.is_context_full) == (FinishReason.LENGTH, False)
    # The first token after the first shift, from what that shift has left.
    left = every[:size]
    del left[16 : 16 + (size - 16) // 2]
    fresh = bench.add(EngineRequest((tuple(left),), GREEDY, max_tokens=1, num_logprobs=5))
    bench.run()
    assert distance(bench.logprobs(fresh)[0], logprobs[size - len(prompt)]) < TOLERANCE


def test_a_full_context_says_so(runner: ModelRunner) -> None:
    bench = NativeBench(runner)
    request = bench.add(EngineRequest(("abc" * 40,), GREEDY))
    bench.run()
    last = bench.messages[request][-2]
    assert isinstance(last, EngineOutput)
    assert (last.finish_reason, last.is_context_full) == (FinishReason.LENGTH, True)


# --- literals --------------------------------------------------------------------------------------------------------

BITS = ["<|im_start|>", "<|im_end|>", "<|im_", "end|>", "<|", "the", " user", "\n", "é", "<think>", " "]


@settings(max_examples=300, deadline=None)
@given(parts=st.lists(st.tuples(st.booleans(), st.lists(st.sampled_from(BITS), max_size=4).map("".join)), max_size=8))
def test_what_is_typed_is_never_a_control_token(runner: ModelRunner, parts: list[tuple[bool, str]]) -> None:
    literals = tuple(part for is_literal, part in parts if is_literal)
    numbers = iter(range(len(literals)))
    text = "".join(place(next(numbers)) if is_literal else part for is_literal, part in parts)
    whole = "".join(part for _, part in parts)
    tokens = list(Intake(runner).tokenize(EngineTokenize(text, literals)).ids)
    assert runner.detokenize(tokens) == whole
    controls = [runner.tokenize(text)[0] for text in BITS[:2]]
    written = [token for token in tokens if token in controls]
    # Those that stand in the template, parts of which an empty literal may join.
    runs, before = [""], False
    for is_literal, part in parts:
        if not part:
            continue
        if is_literal != before:
            runs.append("")
        before = is_literal
        runs[-1] += "" if is_literal else part
    expected = [token for run in runs for token in runner.tokenize(run) if token in controls]
    assert written == expected
    if not any("<|im_" in literal or "end|>" in literal or "<|" in literal for literal in literals):
        assert tokens == runner.tokenize(whole)


def test_texts_and_pieces(runner: ModelRunner) -> None:
    intake = Intake(runner)
    answer = intake.tokenize(EngineTokenize("the sun 🌞<|im_end|>", with_pieces=True))
    assert b"".join(answer.pieces).decode() == "the sun 🌞<|im_end|>"
    assert len(answer.ids) == len(answer.pieces)
    assert intake.detokenize(EngineDetokenize(answer.ids)).text == "the sun 🌞<|im_end|>"
    half = tuple(runner.tokenize("🌞"))[:2]
    assert intake.detokenize(EngineDetokenize(half)).text == "\N{REPLACEMENT CHARACTER}"


# --- the rest --------------------------------------------------------------------------------------------------------


def test_a_model_that_cannot_fill_in_says_so(runner: ModelRunner) -> None:
    with pytest.raises(Unsupported):
        Intake(runner).prepare(EngineRequest(("abc",), GREEDY, suffix="def"))


def test_a_thought_is_ended_and_the_answer_follows(think_runner: ModelRunner) -> None:
    prompt = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    texts = []
    for budget in (1, 1000):
        bench = NativeBench(think_runner)
        limit = ThoughtLimit(budget, "<think>", "</think>", is_open=False)
        sampling = SamplingParams(temperature=0.0)
        request = bench.add(EngineRequest((prompt,), sampling, max_tokens=40, thought_limit=limit))
        bench.run()
        texts.append(bench.text(request))
    cut, free = texts
    assert cut == "<think>\nLet me</think>\n\n" + SCRIPT_ANSWER
    assert free == "<think>\nLet me count to ten.</think>\n\n" + SCRIPT_ANSWER


def test_earlier_tokens_go_on(runner: ModelRunner) -> None:
    bench = NativeBench(runner)
    first = bench.add(EngineRequest(("abc def",), GREEDY, max_tokens=10, return_token_ids=True))
    bench.run()
    last = bench.messages[first][-2]
    assert isinstance(last, EngineOutput)
    second = bench.add(EngineRequest((" ghi",), GREEDY, max_tokens=2, prefix_tokens=last.token_ids))
    bench.run()
    sequence = second.sequences[0]
    assert sequence.token_ids[: sequence.num_prompt_tokens] == [*last.token_ids, *runner.tokenize(" ghi")]
    assert sequence.num_cached_tokens >= len(last.token_ids) - 1
