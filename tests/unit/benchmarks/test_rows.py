"""Every row over a fake server: what it asks for, and that its figures are those that it announces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from unit.benchmarks.fake_load import FakeLoad

from versus import latency_rows
from versus.figures import Figures, RoundFailed
from versus.peer import SETTINGS
from versus.row import BEST, Load
from versus.rows import ROWS

MEASURED = [name for name, row in ROWS.items() if row.run is not None]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency_rows, "LONG_ARRIVALS", (0.001, 0.002, 0.003))
    monkeypatch.setattr(latency_rows, "LIGHT_INTERVAL", 0.001)
    monkeypatch.setattr(latency_rows, "HEAD_START", 0.001)


def measured(name: str, load: FakeLoad, seed: str = "seed") -> Figures:
    run: Callable[[Load, str], Coroutine[Any, Any, Figures]] | None = ROWS[name].run
    assert run is not None
    return asyncio.run(run(load, seed))


@pytest.mark.parametrize("name", MEASURED)
def test_the_figures_are_those_that_are_announced(name: str) -> None:
    assert set(measured(name, FakeLoad())) == {metric.name for metric in ROWS[name].metrics}


@pytest.mark.parametrize("name", ROWS)
def test_targets_are_for_figures_and_settings_that_there_are(name: str) -> None:
    for target in ROWS[name].targets:
        assert ROWS[name].metric(target.metric).name == target.metric
        assert target.against in (None, BEST, *SETTINGS)


@pytest.mark.parametrize("name", [name for name in MEASURED if name != "7"])
def test_no_round_asks_what_an_earlier_one_has_asked(name: str) -> None:
    one, two = FakeLoad(), FakeLoad()
    measured(name, one, "pair 0")
    measured(name, two, "pair 1")
    assert one.prompts
    assert not {prompt[:60] for prompt in one.prompts} & {prompt[:60] for prompt in two.prompts}


@pytest.mark.parametrize("name", [name for name in MEASURED if name not in ("7", "9")])
def test_a_refusal_fails_the_round(name: str) -> None:
    with pytest.raises(RoundFailed, match="503: busy"):
        measured(name, FakeLoad(error="503: busy"))


def test_one_user_is_measured_by_first_tokens_and_by_those_that_follow() -> None:
    figures = measured("1", FakeLoad(pace=0.01))
    assert figures["decode"] == pytest.approx(100.0)
    assert figures["prefill"] == pytest.approx(400 / 0.01)


def test_unrelated_users_come_at_once() -> None:
    load = FakeLoad(pace=0.01)
    figures = measured("2", load)
    assert figures["throughput"] == pytest.approx(8 * 32 / 0.32, rel=0.05)
    assert [len(prompt.split()) for prompt in load.prompts] == [60] * 8
    assert len({prompt[:20] for prompt in load.prompts}) == 8


def test_a_server_that_gets_no_cores_is_left_after_a_while() -> None:
    assert measured("6", FakeLoad(pace=4.0))["throughput"] == pytest.approx(8 * 9 / 40, rel=0.01)


def test_two_models_share_the_users() -> None:
    load = FakeLoad()
    measured("6b", load)
    assert sorted(load.models) == [0] * (len(load.models) // 2) + [1] * (len(load.models) // 2)


def test_the_prefix_counts_once_in_the_ideal() -> None:
    load = FakeLoad()
    figures = measured("3", load)
    lengths = [len(prompt.split()) for prompt in load.prompts]
    # A prefix of 304 words and "User:" is what all of them begin with.
    assert figures["ideal"] == 305 + sum(length - 305 for length in lengths)
    assert figures["prefilled"] == sum(lengths)
    assert figures["prefill_surplus"] == figures["prefilled"] / figures["ideal"]
    assert measured("3", FakeLoad(num_cached=100))["prefilled"] == sum(lengths) - 16 * 100


def test_second_turns_carry_the_first_with_its_answer() -> None:
    load = FakeLoad()
    measured("5", load)
    firsts, seconds = load.prompts[::2], load.prompts[1::2]
    assert len(firsts) == 12
    assert len({prompt[:200] for prompt in load.prompts}) == 1
    assert all(second.startswith(first + "so so") for first, second in zip(firsts, seconds, strict=True))


def test_steady_streams_are_watched_while_long_prompts_wait() -> None:
    figures = measured("4", FakeLoad(pace=0.02))
    assert figures["itl_p99"] == pytest.approx(20.0)
    assert figures["long_ttft"] == pytest.approx(0.02)


def test_light_and_heavy_clients_have_keys_of_their_own() -> None:
    load = FakeLoad()
    measured("10", load)
    assert sorted(key or "" for key in load.keys) == ["heavy"] * 16 + ["light"] * 10


def test_goodput_is_of_those_who_stay() -> None:
    figures = measured("8", FakeLoad(pace=0.1))
    assert figures["goodput"] == pytest.approx(8 * 48 / 4.8, rel=0.01)
    assert 0 < figures["left"] <= 8


def test_answers_that_are_cut_short_have_failed_as_well() -> None:
    assert measured("9", FakeLoad())["failed"] == 0
    assert measured("9", FakeLoad(limit=63))["failed"] == 8
    refused = measured("9", FakeLoad(error="503: no room", pace=0.0))
    assert (refused["failed"], refused["refused"]) == (8, 8)


def test_texts_are_of_about_sixteen_tokens() -> None:
    load = FakeLoad(pace=0.001)
    figures = measured("7", load)
    assert figures["tokens_per_text"] == 16
    assert figures["texts"] == pytest.approx(1000)
    assert len(set(load.texts)) == len(load.texts) == 3 * 256
