from __future__ import annotations

from pathlib import Path

import pytest
from unit.benchmarks.fake_load import FakeLoad

from versus.figures import Figures, RoundFailed
from versus.measuring import Plan, describe_settings, measure_round, sides_of, turns
from versus.processes import DidNotStart
from versus.row import DEFAULTS, STREAMS, UNIFIED, Load, Metric, Row, Setup
from versus.side import Side

PLAN = Plan(Path("llama-server"), Path("m.gguf"), None, (DEFAULTS, STREAMS, UNIFIED), True, 3, 2)


class FakeSide(Side):
    """At rest always; `spent` grows by `greed` seconds of CPU each time that somebody looks."""

    def __init__(self, name: str, load: Load | Exception, greed: float = 0.0) -> None:
        self.name = name
        self._load = load
        self._greed = greed
        self._spent = 0.0

    @property
    def load(self) -> Load:
        if isinstance(self._load, Exception):
            raise self._load
        return self._load

    def come_to_rest(self) -> None:
        pass

    def cpu_seconds(self) -> float:
        self._spent += self._greed
        return self._spent


async def ask(load: Load, seed: str) -> Figures:
    outcome = await load.complete(f"{seed} prompt", 4)
    if outcome.error:
        raise RoundFailed(outcome.error)
    return {"rate": 4.0}


ROW = Row("0", "made up", Setup(1), ask, (Metric("rate", "rate", "tok/s", True),))


def test_dmr_comes_second_and_every_side_is_described() -> None:
    settings = describe_settings(Setup(4, context=1024), PLAN)
    assert list(settings) == [DEFAULTS, "dmr", STREAMS, UNIFIED]
    assert settings["dmr"] == ["DMR_CONTEXT_SIZE=1024"]
    assert list(describe_settings(Setup(4), PLAN._replace(settings=()))) == ["dmr"]
    tried = PLAN._replace(dmr_settings={"DMR_SPECULATION": "off"})
    assert describe_settings(Setup(4), tried)["dmr"] == ["DMR_SPECULATION=off"]
    assert list(describe_settings(Setup(4), PLAN._replace(with_dmr=False))) == [DEFAULTS, STREAMS, UNIFIED]


def test_each_pair_begins_with_another_side() -> None:
    sides = [FakeSide(name, FakeLoad()) for name in ("a", "b", "c")]
    assert ["".join(side.name for side in turns(sides, number)) for number in range(4)] == ["abc", "bca", "cab", "abc"]


def test_a_round_keeps_its_figures_and_its_circumstances(tmp_path: Path) -> None:
    load = FakeLoad()
    round = measure_round(ROW, FakeSide("dmr", load), [], 2, tmp_path)
    assert (round.side, round.number, round.figures, round.failure) == ("dmr", 2, {"rate": 4.0}, None)
    assert load.prompts == [f"{round.seed} prompt"]
    assert round.load_average >= 0
    assert round.idle_cores == 0


@pytest.mark.parametrize("problem", [DidNotStart("no such model"), RoundFailed("no such model")])
def test_a_round_that_fails_says_why(problem: Exception, tmp_path: Path) -> None:
    round = measure_round(ROW, FakeSide("streams", problem), [], 0, tmp_path)
    assert (round.figures, round.failure) == ({}, "no such model")
    failed = measure_round(ROW, FakeSide("streams", FakeLoad(error="400: no")), [], 0, tmp_path)
    assert failed.failure == "400: no"


def test_idle_servers_that_compute_are_noticed(tmp_path: Path) -> None:
    round = measure_round(ROW, FakeSide("dmr", FakeLoad()), [FakeSide("peer", FakeLoad(), greed=1.0)], 0, tmp_path)
    assert round.idle_cores > 1


def test_vectors_need_a_model_for_them(tmp_path: Path) -> None:
    with pytest.raises(RoundFailed, match="DMR_BENCH_EMBED_GGUF"), sides_of(Setup(64, embeds=True), PLAN, tmp_path):
        pass
