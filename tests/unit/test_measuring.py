"""Asking the engines what they have counted: none is loaded, leased or waited for."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

import pytest
from unit.scripted_peer import scripted_peer

from dmr.client import ManagerClient
from dmr.errors import Unavailable
from dmr.service import Service
from dmr.store.store import ModelStore
from dmr.types import ModelStatistics, RunningModel, Statistics
from dmr.wire import (
    EngineMeasure,
    EngineStatistics,
    EngineText,
    ListRunning,
    Running,
    WireError,
    engine_query_decoder,
    manager_command_decoder,
)


def model(name: str, state: str = "ready") -> RunningModel:
    return RunningModel(f"sha256:{name}", name, state, 0, 1.0, 2.0, 300.0, 99)


def test_every_loaded_model_is_asked_once_and_the_manager_only_for_a_list(tmp_path: Path) -> None:
    one, two, loading, dead = model("one"), model("two"), model("loading", "loading"), model("dead")
    figures = Statistics(num_generated_tokens=12)
    with (
        scripted_peer(tmp_path / "manager.sock", manager_command_decoder) as manager,
        scripted_peer(tmp_path / "one.sock", engine_query_decoder) as first,
        scripted_peer(tmp_path / "two.sock", engine_query_decoder) as second,
        scripted_peer(tmp_path / "loading.sock", engine_query_decoder) as third,
    ):
        sockets = (first.path, second.path, third.path, str(tmp_path / "dead.sock"))
        manager.plays(Running((one, two, loading, dead), sockets))
        first.plays(EngineStatistics(figures))
        second.plays(EngineStatistics(None))
        service = Service(ManagerClient(Path(manager.path)), ModelStore(tmp_path / "models"))
        assert service.statistics() == [
            ModelStatistics(one, True, figures),
            ModelStatistics(two, True, None),
            ModelStatistics(loading, False),
            ModelStatistics(dead, False),
        ]
        assert manager.requests == [ListRunning()]
        assert (first.requests, second.requests, third.requests) == ([EngineMeasure()], [EngineMeasure()], [])


@pytest.mark.parametrize("answer", [None, WireError("internal_error", "a defect"), EngineText("?"), b"\0\0\0\1\xc1"])
def test_engines_that_give_no_figures_hold_nobody_up(tmp_path: Path, answer: Any) -> None:
    with (
        scripted_peer(tmp_path / "manager.sock", manager_command_decoder) as manager,
        scripted_peer(tmp_path / "one.sock", engine_query_decoder) as engine,
    ):
        models = tuple(model(str(number)) for number in range(3))
        manager.plays(Running(models, (engine.path,) * 3))
        for _ in models:
            engine.plays(*([] if answer is None else [answer]))
        service = Service(ManagerClient(Path(manager.path)), ModelStore(tmp_path / "models"))
        began = time.monotonic()
        assert service.statistics() == [ModelStatistics(each, False) for each in models]
        assert time.monotonic() - began < 2.0  # all of them at the same time


def test_without_models_nobody_is_asked(tmp_path: Path) -> None:
    class Idle:
        def running_engines(self) -> tuple[()]:
            return ()

    assert Service(cast(Any, Idle()), ModelStore(tmp_path)).statistics() == []


def test_without_a_manager_there_are_no_figures(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        Service(ManagerClient(tmp_path / "manager.sock"), ModelStore(tmp_path)).statistics()


def test_a_model_with_two_engines_is_told_once(tmp_path: Path) -> None:
    """It was configured anew while it was in use: what takes new requests is told of."""
    new, old = model("one"), model("one")
    with (
        scripted_peer(tmp_path / "manager.sock", manager_command_decoder) as manager,
        scripted_peer(tmp_path / "new.sock", engine_query_decoder) as first,
        scripted_peer(tmp_path / "old.sock", engine_query_decoder) as second,
    ):
        manager.plays(Running((new, model("two", "loading"), old), (first.path, "", second.path)))
        first.plays(EngineStatistics(Statistics(num_generated_tokens=1)))
        service = Service(ManagerClient(Path(manager.path)), ModelStore(tmp_path / "models"))
        found = {each.model.reference: each for each in service.statistics()}
        assert set(found) == {"one", "two"}
        assert found["one"].statistics == Statistics(num_generated_tokens=1)
        assert second.requests == []
