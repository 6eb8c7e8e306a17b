"""The engine's own bench, on the tiny models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from tiny_models import model_file

from dmr.bench.engine_figures import EngineOrder, Failed, Loaded, Loading, Measured, MeasuredStep, step_figures
from dmr.bench.engine_process import COMMAND, run_engine_bench
from dmr.config import EngineSettings
from dmr.engine.bench import EngineBench, num_cells_needed, settings_for
from dmr.errors import InternalError, InvalidRequest, Unavailable, Unsupported

SETTINGS = EngineSettings(num_threads=1, max_num_seqs=2, max_batch_tokens=32)


def make_order(weights: Path, settings: EngineSettings = SETTINGS, **changes: object) -> EngineOrder:
    order = EngineOrder(
        weights=(str(weights),), settings=settings, concurrency=(1, 5), prompt_tokens=20, output_tokens=6, seed=1
    )
    return msgspec.structs.replace(order, **changes)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_file("tiny-random", tmp_path_factory.mktemp("models"))


def test_a_level_computes_what_is_asked_for(weights: Path) -> None:
    bench = EngineBench(make_order(weights), lambda _fraction: True)
    for concurrency in (1, 5):
        level = bench.measure(concurrency)
        assert level.concurrency == concurrency
        assert level.prefill.tokens == 5 * concurrency * 20  # as often as it may: it takes no time
        assert level.decode.steps == 6
        assert level.decode.tokens >= 6 * concurrency  # more where guesses prove right
        for figures in (level.prefill, level.decode):
            assert 0 < figures.host_share < 1
            assert figures.host_seconds_per_step == pytest.approx(figures.host_share * figures.seconds / figures.steps)


def test_a_context_that_is_too_small_is_told(weights: Path) -> None:
    settings = msgspec.structs.replace(SETTINGS, context_size=100)
    with pytest.raises(InvalidRequest, match=r"5 sequences of 60 \+ 6 tokens need a context of \d+ tokens"):
        EngineBench(make_order(weights, settings, prompt_tokens=60), lambda _fraction: True)


def test_more_sequences_than_a_step_has_tokens_are_refused(weights: Path) -> None:
    with pytest.raises(InvalidRequest, match="not 40"):
        EngineBench(make_order(weights, concurrency=(40,)), lambda _fraction: True)


def test_a_model_for_embeddings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unsupported):
        EngineBench(make_order(model_file("tiny-embed", tmp_path)), lambda _fraction: True)


def test_the_context_has_room_for_the_largest_level_unless_one_is_given(weights: Path) -> None:
    order = make_order(weights, concurrency=(64, 1))
    settings = settings_for(order).settings
    assert settings.context_size >= num_cells_needed(order, 64) > 64 * 26
    assert settings.max_num_seqs == 64
    given = msgspec.structs.replace(SETTINGS, context_size=300, max_num_seqs=80)
    settings = settings_for(make_order(weights, given)).settings
    assert (settings.context_size, settings.max_num_seqs) == (300, 80)


def test_steps_are_summed_up() -> None:
    figures = step_figures([MeasuredStep(4, 0.1, 0.09), MeasuredStep(4, 0.3, 0.27)])
    assert (figures.steps, figures.tokens) == (2, 8)
    assert figures.seconds == pytest.approx(0.4)
    assert figures.tokens_per_second == pytest.approx(20)
    assert figures.step_seconds.p50 == pytest.approx(0.2)
    assert figures.host_seconds_per_step == pytest.approx(0.02)
    assert figures.host_share == pytest.approx(0.1)


def test_the_process_tells_how_far_it_is_and_what_it_measured(weights: Path) -> None:
    news = list(run_engine_bench(make_order(weights)))
    assert isinstance(news[0], Loading)
    assert [type(each) for each in news if not isinstance(each, Loading)] == [Loaded, Measured, Measured]
    assert [each.level.concurrency for each in news if isinstance(each, Measured)] == [1, 5]


def test_a_file_that_is_no_model_is_told(tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(InvalidRequest, match=r"x\.gguf"):
        list(run_engine_bench(make_order(file)))


def test_the_process_ends_when_nobody_wants_its_figures(weights: Path) -> None:
    order = make_order(weights, concurrency=(1,) * 10_000)
    command = [*COMMAND, msgspec.json.encode(order).decode()]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=20, check=False)
    assert ended.returncode == 1


def scripted(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def test_a_process_that_dies_is_told(tmp_path: Path) -> None:
    with pytest.raises(InternalError, match="status 3"):
        list(run_engine_bench(make_order(tmp_path), scripted("raise SystemExit(3)")))


def test_words_of_the_process_are_passed_on(tmp_path: Path) -> None:
    program = f"print({msgspec.json.encode(Failed('It is broken.')).decode()!r})"
    with pytest.raises(InvalidRequest, match="It is broken"):
        list(run_engine_bench(make_order(tmp_path), scripted(program)))


def test_a_process_that_cannot_be_started_is_told(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        list(run_engine_bench(make_order(tmp_path), [str(tmp_path / "nothing")]))


def test_closing_early_ends_the_process(tmp_path: Path) -> None:
    line = msgspec.json.encode(Loading(0.5)).decode()
    stream = run_engine_bench(
        make_order(tmp_path), scripted(f"import time; print({line!r}, flush=True); time.sleep(60)")
    )
    assert next(stream) == Loading(0.5)
    stream.close()  # would wait for a minute
