"""Guesses on a real context: the tiny models say the same with them and without."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tiny_models import SCRIPT_ANSWER, model_file
from unit.engine.guessing import Eager, guessing
from unit.engine.native_bench import SETTINGS, NativeBench, assert_same_distribution, make_spec

from dmr.config import DraftSettings
from dmr.engine import machinery
from dmr.engine.draft_model import DraftModel
from dmr.engine.intake import Intake
from dmr.engine.model_runner import ModelRunner
from dmr.engine.speculation import Speculation
from dmr.errors import ModelLoadFailed
from dmr.types import FinishReason, SamplingParams
from dmr.wire import EngineOutput, EngineRequest, GrammarSpec

CHAT = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
GREEDY = SamplingParams(temperature=0.0, ignore_eos=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def load(folder: Path) -> Callable[..., ModelRunner]:
    def load(name: str, **changes: Any) -> ModelRunner:
        settings = msgspec.structs.replace(SETTINGS, **changes)
        return ModelRunner.load(make_spec(model_file(name, folder), settings), lambda fraction: True)

    return load


@pytest.fixture(scope="module")
def runner(load: Callable[..., ModelRunner]) -> ModelRunner:
    return load("tiny-random")


@pytest.fixture(scope="module")
def script_runner(load: Callable[..., ModelRunner]) -> ModelRunner:
    return load("tiny-script")


def knowing(texts: list[list[int]], **fields: Any) -> Speculation:
    """Guesses by somebody who knows how these texts go on; others are not guessed."""

    def following(token_ids: list[int], count: int) -> list[int]:
        size = len(token_ids)
        text = next((text for text in texts if text[:size] == token_ids), [])
        return text[size : size + count]

    return guessing(following, **fields)


def whole_texts(bench: NativeBench, messages: list[EngineRequest]) -> list[list[int]]:
    """Prompt and answer of each choice, computed one after the other."""
    texts = []
    for message in messages:
        request = bench.add(message)
        bench.run()
        texts += [sequence.all_token_ids for sequence in request.sequences]
    return texts


def make_messages(count: int, temperature: float) -> list[EngineRequest]:
    dice = random.Random(11)
    return [
        EngineRequest(
            ("".join(dice.choices("abcdefgh ", k=dice.randrange(5, 40))),),
            SamplingParams(temperature=temperature, seed=i, ignore_eos=True, top_k=0),
            max_tokens=dice.randrange(5, 40),
            num_logprobs=5,
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("num_together", [1, 4])
def test_answers_with_guesses_are_those_without(runner: ModelRunner, temperature: float, num_together: int) -> None:
    """Greedy ones and seeded ones, alone and in mixed batches."""
    messages = make_messages(12, temperature)
    plain = NativeBench(runner)
    texts = whole_texts(plain, messages)
    expected = [plain.logprobs(request) for request in plain.messages]
    speculation = knowing(texts, width=6, seed=num_together)
    bench = NativeBench(runner, speculation)
    requests = []
    for message in messages:
        requests.append(bench.add(message))
        while sum(request.num_unfinished for request in requests) >= num_together:
            bench.engine.step()
            bench.engine.check_integrity()
    bench.run()
    pairs = zip(expected, requests, strict=True)
    num_same = sum(assert_same_distribution(one, bench.logprobs(request)) for one, request in pairs)
    assert num_same > 0.7 * sum(map(len, expected))
    if temperature == 0.0:
        assert [sequence.all_token_ids for request in requests for sequence in request.sequences] == texts
    assert 30 < speculation.num_accepted_tokens < speculation.num_drafted_tokens


def test_log_probabilities_come_for_each_token(runner: ModelRunner) -> None:
    (message,) = make_messages(1, temperature=0.0)
    plain = NativeBench(runner)
    (text,) = whole_texts(plain, [message])
    expected = plain.logprobs(next(iter(plain.messages)))
    bench = NativeBench(runner, knowing([text], wrong=0.0))
    request = bench.add(message)
    bench.run()
    actual = bench.logprobs(request)
    assert [entry.chosen.token for entry in actual] == [entry.chosen.token for entry in expected]
    for one, other in zip(expected, actual, strict=True):
        assert one.chosen.logprob == pytest.approx(other.chosen.logprob, abs=0.05)
        assert len(other.top) == 5


def test_a_grammar_is_kept_amid_guesses(runner: ModelRunner) -> None:
    grammar = GrammarSpec('root ::= [xy] "-" [0-9] [0-9] [0-9] [0-9]')
    message = EngineRequest(("abc",), SamplingParams(seed=1), max_tokens=30, grammar=grammar)
    plain = NativeBench(runner)
    (text,) = whole_texts(plain, [message])
    speculation = knowing([text])
    bench = NativeBench(runner, speculation)
    request = bench.add(message)
    bench.run()
    assert request.sequences[0].all_token_ids == text
    assert bench.text(request) == plain.text(next(iter(plain.messages)))
    assert speculation.num_accepted_tokens > 0


@pytest.mark.parametrize(("stop", "expected"), [((), SCRIPT_ANSWER), (("zero", "ree, f"), "One, two, th")])
def test_the_end_of_an_answer_amid_guesses(script_runner: ModelRunner, stop: tuple[str, ...], expected: str) -> None:
    message = EngineRequest((CHAT,), SamplingParams(temperature=0.0), max_tokens=40, stop=stop)
    (text,) = whole_texts(NativeBench(script_runner), [EngineRequest((CHAT,), SamplingParams(temperature=0.0))])
    for width in (2, 5, 20):
        bench = NativeBench(script_runner, knowing([[*text, 1, 2, 3]], width=width, wrong=0.0))
        request = bench.add(message)
        bench.run()
        last = [m for m in bench.messages[request] if isinstance(m, EngineOutput)][-1]
        assert (bench.text(request), last.finish_reason) == (expected, FinishReason.STOP)
        assert last.stop_sequence == (stop[1] if stop else None)


@pytest.mark.parametrize("max_tokens", [1, 2, 3, 7, 8])
def test_the_most_tokens_amid_guesses(runner: ModelRunner, max_tokens: int) -> None:
    (text,) = whole_texts(NativeBench(runner), [EngineRequest(("abc",), GREEDY, max_tokens=20)])
    bench = NativeBench(runner, knowing([text], width=6, wrong=0.0))
    request = bench.add(EngineRequest(("abc",), GREEDY, max_tokens=max_tokens))
    bench.run()
    assert bench.answer(request) == [text[3 : 3 + max_tokens]]


@pytest.mark.parametrize("shift", [None, 2])
def test_a_full_context_amid_guesses(runner: ModelRunner, shift: int | None) -> None:
    message = EngineRequest(("abcdef" * 3,), GREEDY, max_tokens=120, context_size=48, shift=shift)
    (text,) = whole_texts(NativeBench(runner), [message])
    speculation = knowing([text], width=7)
    bench = NativeBench(runner, speculation)
    request = bench.add(message)
    bench.run()
    assert request.sequences[0].all_token_ids == text
    assert speculation.num_accepted_tokens > 3


def test_preempted_and_aborted_ones_amid_guesses(load: Callable[..., ModelRunner]) -> None:
    """So few cells that sequences have to give theirs up."""
    runner = load("tiny-random", max_num_seqs=4)
    messages = [EngineRequest((chr(97 + i) * 40,), GREEDY, max_tokens=60, num_logprobs=5) for i in range(6)]
    plain = NativeBench(runner)
    texts = whole_texts(plain, messages)
    expected = [plain.logprobs(request) for request in plain.messages]
    speculation = knowing(texts)
    bench = NativeBench(runner, speculation)
    doomed = bench.add(EngineRequest(("z" * 40,), GREEDY, max_tokens=60))
    requests = [bench.add(message) for message in messages]
    for _ in range(12):
        bench.engine.step()
        bench.engine.check_integrity()
    bench.engine.abort(doomed)
    bench.run()
    for one, request in zip(expected, requests, strict=True):
        assert_same_distribution(one, bench.logprobs(request))
    assert bench.scheduler.num_preemptions > 0, "the pool was not small enough to show anything"
    assert speculation.num_accepted_tokens > 20


def test_guesses_from_what_was_said_before(script_runner: ModelRunner) -> None:
    """The answer stands in the prompt already."""
    prompt = CHAT + SCRIPT_ANSWER + "<|im_end|>\n" + CHAT
    message = EngineRequest((prompt,), SamplingParams(temperature=0.0), max_tokens=40)
    plain = NativeBench(script_runner)
    (text,) = whole_texts(plain, [message])
    speculation = Speculation(Eager(), 8)
    bench = NativeBench(script_runner, speculation)
    request = bench.add(message)
    bench.run()
    assert request.sequences[0].all_token_ids == text
    assert bench.text(request) == SCRIPT_ANSWER
    assert speculation.num_accepted_tokens >= 8


def test_guesses_from_a_second_model(runner: ModelRunner, folder: Path) -> None:
    """The same model, so that it is always right where likelihood decides."""
    messages = make_messages(6, temperature=0.0)
    texts = whole_texts(NativeBench(runner), messages)
    source = DraftModel.load(
        str(model_file("tiny-random", folder)), runner._model, 256, 1, -1, DraftSettings(least_probability=0.0)
    )
    speculation = Speculation(Eager(), 4, source, uses_ngrams=False)
    bench = NativeBench(runner, speculation)
    requests = [bench.add(message) for message in messages]
    bench.run()
    assert [sequence.all_token_ids for request in requests for sequence in request.sequences] == texts
    assert speculation.num_accepted_tokens > 40


# --- loading ---------------------------------------------------------------------------------------------------------


def test_a_draft_model_is_loaded_beside_the_model(load: Callable[..., ModelRunner], folder: Path) -> None:
    path = str(model_file("tiny-random", folder))
    assert load("tiny-random", draft_model=path).has_draft_model
    assert load("tiny-random", draft_model=path, speculation="draft").has_draft_model
    assert not load("tiny-random", draft_model=path, speculation="ngram").has_draft_model
    off = load("tiny-random", draft_model=path, speculation="off")
    assert (off.has_draft_model, off.can_speculate) == (False, False)


def test_a_draft_model_that_does_not_fit(
    load: Callable[..., ModelRunner], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It ends the load if it is insisted on; or else it is told of."""
    path = str(folder / "missing.gguf")
    with pytest.raises(ModelLoadFailed, match="draft model"):
        load("tiny-random", draft_model=path, speculation="draft")
    loaded = load("tiny-random", draft_model=path)
    assert (loaded.has_draft_model, loaded.can_speculate) == (False, True)
    assert "Guesses come from what was said before" in caplog.text


@pytest.mark.parametrize("speculation", ["auto", "ngram", "draft", "off"])
def test_an_engine_counts_its_guesses(
    load: Callable[..., ModelRunner], folder: Path, monkeypatch: pytest.MonkeyPatch, speculation: str
) -> None:
    """As a process makes it; the answer stands in the prompt already."""
    monkeypatch.setattr(machinery, "SpeculationPolicy", lambda target: Eager())
    path = str(model_file("tiny-script", folder))
    runner = load("tiny-script", speculation=speculation, draft_model=path)
    settings = msgspec.structs.replace(SETTINGS, speculation=speculation)
    engine = machinery.make_engine(runner, runner, settings, lambda request, message: None)
    prompt = CHAT + SCRIPT_ANSWER + "<|im_end|>\n" + CHAT
    engine.add(Intake(runner).prepare(EngineRequest((prompt,), SamplingParams(temperature=0.0), max_tokens=40)))
    while engine.has_work:
        engine.step()
    told = engine.statistics()
    assert 0 <= told.num_accepted_tokens <= told.num_drafted_tokens
    assert (told.num_accepted_tokens > 5) == (speculation != "off")


def test_one_sequence_has_room_for_its_guesses(load: Callable[..., ModelRunner]) -> None:
    assert load("tiny-random", max_num_seqs=1, max_draft_tokens=12).max_outputs >= 13
