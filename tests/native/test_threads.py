"""What several Python threads may do: abort, close, wait, count; and what comes of using one object at once."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from native.objects import ABORTED, DONE, greedy, make_batch, make_context, prefill
from tiny_models import model_file

from dmr import _core

LONG = 4000  # tokens; computing them takes about a second


def long_context(model: _core.Model) -> _core.Context:
    return make_context(model, context_size=8192, max_batch=LONG, max_sequences=2)


def start(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_python_goes_on_during_a_decode(random_model: _core.Model) -> None:
    context, batch = long_context(random_model), make_batch((0, [5] * LONG, 0))
    decode = start(lambda: context.decode(batch))
    counted = 0
    while decode.is_alive():
        time.sleep(0.001)
        counted += 1
    decode.join()
    assert context.position_max(0) == LONG - 1
    assert counted > 20


def test_abort_stops_a_decode_and_the_context_can_be_used_again(random_model: _core.Model) -> None:
    context, batch = long_context(random_model), make_batch((0, [5] * LONG, 0))
    prefill(context, 1, [10, 20, 30])
    statuses: list[_core.DecodeStatus] = []
    for _ in range(3):
        decode = start(lambda: statuses.append(context.decode(batch)))
        time.sleep(0.05)
        context.abort()
        decode.join(timeout=20)
        assert not decode.is_alive()
        context.remove(0)
    assert statuses == [ABORTED] * 3
    assert context.position_max(0) == -1
    assert greedy(context, 1, [7], 5) == greedy(make_context(random_model), 0, [10, 20, 30, 7], 5)


def test_logits_of_an_aborted_decode_are_not_there(random_model: _core.Model) -> None:
    context = long_context(random_model)
    prefill(context, 1, [1])
    batch = make_batch((0, [5] * LONG, 0))
    decode = start(lambda: context.decode(batch))
    time.sleep(0.05)
    context.abort()
    decode.join()
    with pytest.raises(ValueError, match="no output"):
        context.logits(LONG - 1)


def test_close_waits_for_the_decode(random_model: _core.Model) -> None:
    context, batch = long_context(random_model), make_batch((0, [5] * LONG, 0))
    statuses: list[_core.DecodeStatus] = []
    decode = start(lambda: statuses.append(context.decode(batch)))
    time.sleep(0.05)
    context.close()
    decode.join()
    assert statuses == [DONE]
    with pytest.raises(_core.Error, match="closed"):
        context.decode(batch)


def test_batch_may_change_while_its_copy_is_decoded(random_model: _core.Model) -> None:
    context, batch = long_context(random_model), make_batch((0, [5] * LONG, 0))
    decode = start(lambda: context.decode(batch))
    time.sleep(0.02)
    for _ in range(1000):
        batch.clear()
        batch.add(1, [1, 2, 3], 7)
    decode.join()
    assert (context.position_max(0), context.position_max(1)) == (LONG - 1, -1)


def test_model_is_shared_by_contexts_in_threads(random_model: _core.Model) -> None:
    def work(seed: int) -> list[int]:
        return greedy(make_context(random_model), 0, [seed, 20, 30], 20)

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(work, range(8)))
    assert together == [work(seed) for seed in range(8)]


# --- the log ---------------------------------------------------------------------------------------------------------


def test_loading_leaves_lines_in_the_log(models_folder: Path) -> None:
    _core.take_log()
    path = model_file("tiny-random", models_folder)
    _core.Model([str(path)])
    lines = _core.take_log()
    assert any("tiny random" in text for _, text in lines)
    assert {level for level, _ in lines} <= {1, 2, 3, 4}
    assert all(text and "\n" not in text for _, text in lines)
    assert _core.take_log() == []


def test_reader_of_the_log_waits_for_a_line(models_folder: Path) -> None:
    path = model_file("tiny-embed", models_folder)
    _core.take_log()
    waiting = time.monotonic()
    assert _core.take_log(0.05) == []
    assert time.monotonic() - waiting >= 0.04
    timer = threading.Timer(0.05, lambda: _core.Model([str(path)]))
    timer.start()
    assert _core.take_log(20.0)
    timer.join()
    _core.take_log()


def test_level_drops_lines(models_folder: Path, tmp_path: Path) -> None:
    path = model_file("tiny-random", models_folder)
    _core.set_log_level(4)
    try:
        _core.take_log()
        _core.Model([str(path)])
        assert _core.take_log() == []
        (tmp_path / "empty").touch()
        with pytest.raises(_core.LoadError):
            _core.Model([str(tmp_path / "empty")])
        assert {level for level, _ in _core.take_log()} == {4}
    finally:
        _core.set_log_level(2)


@pytest.mark.parametrize("wrong", [0, 5, -1])
def test_levels_that_do_not_exist(wrong: int) -> None:
    with pytest.raises(ValueError, match="level"):
        _core.set_log_level(wrong)


@pytest.mark.parametrize("wrong", [-0.1, float("nan"), float("inf"), 1e9])
def test_timeouts_out_of_range(wrong: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        _core.take_log(wrong)


# --- one object, several threads: in a process of its own, which a defect would kill ----------------------------------

HAMMER = """
import sys, threading, time
sys.path.insert(0, sys.argv[1])
import numpy as np
from dmr import _core
from native.objects import make_batch, make_context, make_sampler

model = _core.Model([sys.argv[2]])
deadline = time.monotonic() + 1.5
logits = np.random.RandomState(0).standard_normal(model.num_vocabulary).astype(np.float32)
allowed = (_core.Error, ValueError)

def forever(*works):
    def run(work):
        while time.monotonic() < deadline:
            try:
                work()
            except allowed:
                pass
    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads: thread.start()
    for thread in threads: thread.join()

def context_by_all():
    c = make_context(model, max_sequences=4)
    state = []
    def decode(): c.decode(make_batch((0, [1, 2, 3], c.position_max(0) + 1)))
    def other(): c.decode(make_batch((1, [5], c.position_max(1) + 1)))
    def forget(): c.remove(0); c.remove(1); c.clear()
    def move(): c.remove(2); c.copy(0, 2); c.keep(1); c.shift(0, 0, -1, 1)
    def states(): c.restore(3, c.save(0))
    def read(): c.logits(2); c.counters; c.set_threads(1); c.abort()
    forever(decode, other, forget, move, states, read)

def sampler_by_all():
    s = make_sampler(model, repeat_penalty=1.2, seed=1)
    d = _core.Detokenizer(model, stop=["abc"])
    c, pool = make_context(model, max_sequences=2), _core.ThreadPool(2)
    def step():
        c.remove(0)
        _core.step(c, make_batch((0, [1, 2], 0)), [(1, s, d)], pool)
    def sample(): s.sample(logits)
    def observe(): s.observe([1, 2, 3] * 20)
    def push(): d.push(5); d.flush(); d.stopped_by; d.piece(4)
    forever(step, step, sample, sample, observe, push)

def two_steps_with_the_same_rows():
    rows = [(make_sampler(model, seed=i), _core.Detokenizer(model)) for i in range(4)]
    pools = [_core.ThreadPool(2), _core.ThreadPool(2)]
    contexts = [make_context(model, max_sequences=4) for _ in range(2)]
    def stepper(c, pool, order):
        def step():
            c.clear()
            batch = _core.Batch()
            places = [batch.add(i, [i + 1], 0) for i in range(4)]
            _core.step(c, batch, [(place, *rows[i]) for place, i in zip(places, order)], pool)
        return step
    forever(stepper(contexts[0], pools[0], [0, 1, 2, 3]), stepper(contexts[1], pools[1], [3, 2, 1, 0]))

def closing():
    def race():
        m = _core.Model([sys.argv[2]])
        c = make_context(m, max_sequences=2)
        s, d, pool = make_sampler(m), _core.Detokenizer(m), _core.ThreadPool(2)
        def step():
            for i in range(50): _core.step(c, make_batch((0, [1, 2], 2 * i)), [(1, s, d)], pool)
        def quiet(work):
            try: work()
            except allowed: pass
        threads = [threading.Thread(target=quiet, args=(work,)) for work in (step, step, c.close, m.close)]
        for thread in threads: thread.start()
        del c, m, s, d
        for thread in threads: thread.join()
    forever(race)

def changing_options():
    o = _core.ContextOptions()
    r = _core.ChatRequest()
    t = _core.ChatTemplate(model.chat_template)
    def change():
        for text in ("f16", "q8_0", "f32", "x" * 100): o.key_type = text; o.pooling = "m" * len(text)
        o.key_type = "f16"; o.pooling = "model"; o.context_size = 256
        r.messages = '[{"role": "user", "content": "' + "x" * 1000 + '"}]'; r.messages = "[]"
    forever(change, lambda: _core.Context(model, o), lambda: t.render(r))

def parser_by_all():
    t = _core.ChatTemplate(model.chat_template)
    r = _core.ChatRequest(); r.messages = "[]"
    p = _core.ChatParser(t.render(r))
    count = [0]
    def feed():
        count[0] += 1
        if count[0] < 2000: p.feed("<think> x ")
        else: time.sleep(0.01)
    forever(feed, feed, p.finish)

globals()[sys.argv[3]]()
print("alive")
"""

WAYS = ["context_by_all", "sampler_by_all", "two_steps_with_the_same_rows", "closing", "changing_options"]


@pytest.mark.parametrize("way", [*WAYS, "parser_by_all"])
def test_threads_at_one_object_do_no_harm(models_folder: Path, way: str) -> None:
    model, tests = model_file("tiny-random", models_folder), Path(__file__).parents[1]
    command = [sys.executable, "-X", "faulthandler", "-c", HAMMER, str(tests), str(model), way]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "alive\n"
